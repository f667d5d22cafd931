"""Every function of core/ says what comes back, in which shape, and where its formula is from."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

CORE = Path(__file__).resolve().parent.parent / "pgkit" / "core"
FORMULA = re.compile(r"[ΣΠ∇∫·√^−]| = ")
"""The signs of a formula; a first line without any states a fact about data and needs no source."""
SHAPE = re.compile(r"Shapes?:|`\[[^\]]*\]`")


def offences(source: str, name: str = "snippet") -> list[str]:
    """Returns what the docstrings of a module's public functions lack."""
    tree = ast.parse(source)
    of_module, found = ast.get_docstring(tree) or "", []
    for node in tree.body:
        if not isinstance(node, ast.FunctionDef) or node.name.startswith("_"):
            continue
        text = ast.get_docstring(node) or ""
        first = text.partition("\n")[0]
        place = f"{name}:{node.lineno}: {node.name}"
        if not first.startswith(("Returns ", "Yields ")):
            found.append(f"{place}: first line {first!r}, expected 'Returns …'")
        if "Tensor" in ast.unparse(node.args) and not SHAPE.search(text):
            found.append(f"{place}: takes tensors, expected 'Shapes:' or a shape as in `[T, N]`")
        if FORMULA.search(first) and "Source:" not in text + of_module:
            found.append(f"{place}: computes a formula, expected 'Source:' here or at the top of the file")
    return found


def test_core_says_what_it_returns_in_which_shape_and_from_where() -> None:
    sources = {path.name: path.read_text(encoding="utf-8") for path in sorted(CORE.glob("*.py"))}
    found = [line for name, source in sources.items() for line in offences(source, name)]
    assert sources and not found, "\n".join(found)


@pytest.mark.parametrize(
    "source",
    [
        "def f(): ...",
        "def f():\n    'Computes the mean.'",
        "def f(x: Tensor):\n    'Returns the mean.'",
        "def f(x: list[Tensor]):\n    'Returns the mean.'",
        "def f(*, a: float):\n    'Returns a = b.'",
    ],
)
def test_the_checker_bites(source: str) -> None:
    assert offences(source)


@pytest.mark.parametrize(
    "source",
    [
        "def _f(x: Tensor): ...",
        "def f(a: float):\n    'Returns the mean.'",
        "def f(x: Tensor):\n    'Returns the mean `[N]`.'",
        "def f(x: Tensor):\n    'Returns a = b.\\n\\nShapes: `[N]`.\\nSource: somebody 1992.'",
        "'Means. Source: somebody 1992.'\ndef f(a: float):\n    'Returns a = b.'",
    ],
)
def test_the_checker_spares_what_is_right(source: str) -> None:
    assert not offences(source)
