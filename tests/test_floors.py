"""The house keeps its floors: imports point down, the configuration stays on top, classes are abstract or final."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
STOREYS = (
    "types expectation experience scoring protocols action_values objectives snapshot options errors ranks "
    "garbage schema config",
    "core",
    "behaviors reuse estimators baselines critics weights returns updates policies diagnostics loggers simulators",
    "rl vi blackbox",
    "run problems reporting",
    "train fit evaluate evaluate_offline offline verify check_env checking report dashboard "
    "conduct fitting verifying estimate playback assemble agreement app jobs __init__",
)
FLOORS = {room: floor for floor, rooms in enumerate(STOREYS) for room in rooms.split()}
SHARED = (0, 5)
"""Floors of single files, which may know each other; on the others neighbours meet through types.py alone."""
LIGHT = (
    "errors", "options", "schema", "config", "app", "train", "evaluate", "evaluate_offline", "verify", "check_env",
    "report", "reporting", "dashboard",
)  # fmt: skip
"""What answers a mistake on the command line in under two seconds, hence without torch."""
LONGEST = 250

Checker = Callable[[str, str], list[str]]
"""Takes a module's dotted name and its text, returns what is wrong with it."""


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


MODULES = {module_name(path): path.read_text(encoding="utf-8") for path in sorted((ROOT / "pgkit").rglob("*.py"))}


def room(name: str) -> str:
    """Returns the package or file of floor 0 or 5 that a dotted name lives in, `__init__` for pgkit itself."""
    parts = name.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def at_import(tree: ast.AST) -> Iterator[ast.AST]:
    """Yields the nodes that run when the module is imported: no function bodies, nothing for type checkers."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        yield node
        yield from at_import(node)


def imports(name: str, nodes: Iterator[ast.AST]) -> Iterator[tuple[int, str]]:
    """Yields (line, dotted name) of everything imported; `from a import b` gives `a.b`."""
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parts = name.split(".")[: -node.level] if node.level else []
            origin = ".".join([*parts, *([node.module] if node.module else [])])
            yield from ((node.lineno, f"{origin}.{alias.name}") for alias in node.names)


def check_floors(name: str, source: str) -> list[str]:
    own, found = room(name), []
    if own not in FLOORS:
        return [f"{name}: {own} stands on no floor"]
    for line, target in imports(name, ast.walk(ast.parse(source))):
        other = room(target)
        if not target.startswith("pgkit.") or other == own or other == "__version__":
            continue
        here, there = FLOORS[own], FLOORS.get(other, 5)
        if there > here or (there == here and here not in SHARED):
            found.append(f"{name}:{line}: {own} on floor {here} imports {other} on floor {there}, expected one below")
    return found


def check_configuration_stays_on_top(name: str, source: str) -> list[str]:
    if FLOORS.get(room(name)) == 5 or room(name) == "config":
        return []
    found = []
    for node in ast.walk(ast.parse(source)):
        word = getattr(node, "id", None) or getattr(node, "arg", None) or getattr(node, "attr", None)
        word = node.name if isinstance(node, ast.alias) else word
        if word in ("cfg", "DictConfig"):
            found.append(f"{name}:{getattr(node, 'lineno', 0)}: {word}, expected plain arguments below floor 5")
    return found


def check_classes(name: str, source: str) -> list[str]:
    def last(node: ast.expr) -> str:
        return ast.unparse(node).partition("(")[0].partition("[")[0].rpartition(".")[2]

    kinds = {"ABC", "Protocol", "Enum", "IntEnum", "StrEnum", "Flag", "NamedTuple", "TypedDict", "Function"}
    found = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.ClassDef):
            continue
        bases, decorators = {last(base) for base in node.bases}, {last(each) for each in node.decorator_list}
        failure = any(base.endswith(("Error", "Exception", "Fault", "Warning")) for base in bases)
        if not (failure or bases & kinds or decorators & {"final", "dataclass"}):
            found.append(f"{name}:{node.lineno}: class {node.name}, expected @final, ABC, Protocol or a dataclass")
    return found


def check_keywords(name: str, source: str) -> list[str]:
    found = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or not (rest := node.args.kwarg):
            continue
        calls = (part for part in ast.walk(node) if isinstance(part, ast.Call))
        keywords = (keyword for call in calls for keyword in call.keywords if keyword.arg is None)
        passed_on = any(ast.unparse(keyword.value) == rest.arg for keyword in keywords)
        # build() hands run-time objects to the class that the configuration names: its one reason to exist.
        allowed = (name, node.name) == ("pgkit.config", "build")
        if rest.arg == "kwargs" or (passed_on and not allowed):
            found.append(f"{name}:{node.lineno}: {node.name}(**{rest.arg}), expected named arguments")
    return found


def check_length(name: str, source: str) -> list[str]:
    lines = len(source.splitlines())
    return [f"{name}: {lines} lines, expected at most {LONGEST}"] if lines > LONGEST else []


def heavy_path(name: str, modules: dict[str, str], path: tuple[str, ...] = ()) -> tuple[str, ...] | None:
    """Returns how importing a module comes to import torch, as a chain of names; None where it does not."""
    if name in path or name not in modules:
        return None
    path = (*path, name)
    for _, target in imports(name, at_import(ast.parse(modules[name]))):
        if target.split(".")[0] == "torch" or target.startswith("safetensors.torch"):
            return (*path, target)
        parts = target.split(".")
        # Importing a.b.c runs a/__init__ and a/b/__init__ too; the last part may be a module or a name in one.
        reached = (".".join(parts[:end]) for end in range(1, len(parts) + 1))
        for step in (each for prefix in reached for each in (prefix, f"{prefix}.__init__")):
            if found := heavy_path(step, modules, path):
                return found
    return None


CHECKERS: tuple[Checker, ...] = (
    check_floors,
    check_configuration_stays_on_top,
    check_classes,
    check_keywords,
    check_length,
)


@pytest.mark.parametrize("check", CHECKERS)
def test_every_module_passes(check: Checker) -> None:
    found = [line for name, source in MODULES.items() for line in check(name, source)]
    assert MODULES and not found, "\n".join(found)


@pytest.mark.parametrize(
    ("check", "name", "bad", "good"),
    [
        (check_floors, "pgkit.core.a", "from pgkit.rl import collect", "from pgkit.types import expect"),
        (check_floors, "pgkit.core.a", "def f():\n    import pgkit.train", "import torch"),
        (check_floors, "pgkit.baselines.a", "from pgkit.critics.value import V", "from pgkit.baselines import batch"),
        (check_floors, "pgkit.baselines.a", "from ..critics import value", "from . import batch"),
        (check_floors, "pgkit.types", "from pgkit import core", "from pgkit import errors"),
        (check_floors, "pgkit.run.a", "from pgkit import load_policy", "from pgkit import __version__"),
        (check_floors, "pgkit.attic.a", "", ""),
        (check_configuration_stays_on_top, "pgkit.rl.a", "def f(cfg): ...", "def f(episodes): ..."),
        (check_configuration_stays_on_top, "pgkit.run.a", "def f(config: DictConfig): ...", "config: dict"),
        (check_configuration_stays_on_top, "pgkit.run.a", "from omegaconf import DictConfig", "import omegaconf"),
        (check_classes, "pgkit.core.a", "class A: ...", "@final\nclass A: ..."),
        (check_classes, "pgkit.core.a", "class A(nn.Module): ...", "class A(abc.ABC): ..."),
        (check_classes, "pgkit.core.a", "class A(Generic[T]): ...", "class A(Protocol[T]): ..."),
        (check_classes, "pgkit.core.a", "@cache\nclass A: ...", "@dataclass(frozen=True)\nclass A: ..."),
        (check_keywords, "pgkit.core.a", "def f(**kwargs): ...", "def f(**sizes): return len(sizes)"),
        (check_keywords, "pgkit.core.a", "def f(**rest): g(**rest)", "def f(a): g(a=a)"),
        (check_length, "pgkit.core.a", "\n" * 251, "\n" * 250),
    ],
)
def test_each_checker_bites(check: Checker, name: str, bad: str, good: str) -> None:
    assert check(name, bad)
    assert not check(name, good) or name == "pgkit.attic.a"


def test_only_build_passes_keywords_on() -> None:
    source = "def build(node, **runtime): return found(**runtime)"
    assert not check_keywords("pgkit.config", source)
    assert check_keywords("pgkit.rl.factors", source)


def test_no_light_module_imports_torch() -> None:
    entries = [name for name in MODULES if room(name) in LIGHT or name.endswith("__init__")]
    found = [" -> ".join(path) for name in entries if (path := heavy_path(name, MODULES))]
    assert set(LIGHT) <= set(map(room, entries)) and not found, "\n".join(found)


@pytest.mark.parametrize(
    "source",
    [
        "import torch.nn",
        "from torch import Tensor",
        "from safetensors.torch import load",
        "import pgkit.heavy",
        "from pgkit.heavy import name",
        "from pgkit.package import name",
        "import pgkit.package.light",
        "class A:\n    import torch",
        "try:\n    import torch\nexcept ImportError: ...",
    ],
)
def test_the_search_for_torch_bites(source: str) -> None:
    modules = {"pgkit.a": source, "pgkit.heavy": "import torch", "pgkit.package.light": ""}
    assert heavy_path("pgkit.a", modules | {"pgkit.package.__init__": "import pgkit.heavy"})


@pytest.mark.parametrize(
    "source", ["def f():\n    import torch", "if TYPE_CHECKING:\n    from torch import Tensor", "import torchless"]
)
def test_the_search_for_torch_spares_late_imports(source: str) -> None:
    assert heavy_path("pgkit.a", {"pgkit.a": source}) is None


def test_the_entry_points_really_load_without_torch() -> None:
    names = ", ".join(f"pgkit.{name}" for name in LIGHT)
    command = f"import {names}, sys; sys.exit('torch' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", command], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
