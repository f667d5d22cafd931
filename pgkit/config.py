"""From the command line to a configuration that holds, and from its nodes to objects.

Hydra composes; here its mistakes become one line in pgkit's words. Nothing in this file imports torch before `build`.
"""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import hydra
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError  # type: ignore[import-untyped]  # ships no types

from pgkit.errors import UsageError
from pgkit.schema.checks import ALLOWED_IN_WORDS, RESERVED, check_hydra, check_tree, is_allowed
from pgkit.schema.overrides import checked_overrides, forced, search_path
from pgkit.schema.values import show

VERSION_BASE = "1.3"
"""The Hydra behaviour that pgkit is written for, here and in `hydra.main`."""


def config_dir() -> Path:
    """Returns the folder of the configuration: inside the package when installed, else beside it in a checkout."""
    package = Path(__file__).resolve().parent
    inside = package / "conf"
    return inside if inside.is_dir() else package.parent / "conf"


def compose(config_name: str, overrides: Sequence[str], *, config_dirs: Sequence[Path | str] = ()) -> DictConfig:
    """Returns the composed configuration, Hydra's own node included, its values unchecked.

    `config_dirs` are further folders of groups, after pgkit's own. The overrides that Hydra understands to the same
    effect stand in `hydra.overrides`: a key that a group file leaves out gets the `++` that Hydra asks for.

    Raises: UsageError for every mistake that names or files allow.
    """
    for folder in config_dirs:
        if not Path(folder).is_dir():
            raise UsageError(f"--config-dir: {folder}, expected a folder")
    with initialize_config_dir(str(config_dir()), version_base=VERSION_BASE):
        loader = GlobalHydra.instance().config_loader()
        lines = checked_overrides(loader, config_name, list(overrides), search_path(overrides, config_dirs))
        while True:
            try:
                config = hydra.compose(config_name, lines, return_hydra_config=True)
                break
            except (HydraException, OmegaConfBaseException, YAMLError, OSError, UnicodeError) as error:
                lines = forced(lines, error)
    check_hydra(_as_dict(config.hydra))
    return config


def check(config: DictConfig, *, trusted: Sequence[str] = ()) -> DictConfig:
    """Returns the configuration, resolved, converted and closed to new keys; Hydra's node is left out.

    `trusted` are the packages that this process's command line trusts; no file may add to them.

    Raises: UsageError for a name, type, range, interpolation, target or contradiction, and the file that it is in.
    """
    tree = _as_dict(config)
    own = tree.pop("hydra", None)
    name = own["job"]["config_name"] if own else "train"
    root = _as_dict(OmegaConf.load(config_dir() / f"{name}.yaml"))
    choices = _choices(own) if own else {}
    files = {group: _merged(files) for group, files in choices.items()}
    try:
        checked = check_tree(tree, root=root, files=files, trusted=trusted)
    except UsageError as error:
        key = str(error).partition(":")[0]
        typed = own["overrides"]["task"] if own else ()
        if any(line.lstrip("+").partition("=")[0] in (key, key.partition(".")[0]) for line in typed):
            raise
        raise UsageError(f"{error}{_origin(key, choices)}") from None
    result = OmegaConf.create(checked)
    OmegaConf.set_struct(result, True)
    return result


def build(node: Mapping[str, Any], *, expects: type[Any], trusted: Sequence[str] = (), **runtime: Any) -> Any:
    """Returns the object that a node describes: its `_target_`, called with its keys and what the program hands over.

    The one place where a configuration becomes an object. A prefix decides what may be imported; the class found must
    then say itself that it lives in an allowed package, because modules hold much that is not theirs.

    Raises: UsageError where the target is not allowed, is no class, refuses its keys or is not what is expected.
    """
    keywords = _as_dict(node, resolve=True) if isinstance(node, DictConfig) else dict(node)
    name = str(node._get_full_key("") or "_target_") if isinstance(node, DictConfig) else "_target_"
    target = keywords.pop("_target_", None)
    if not isinstance(target, str) or not is_allowed(target, trusted):
        raise UsageError(f"{name}: {show(target)}, expected {ALLOWED_IN_WORDS}")
    for key in _keys(keywords):
        if key == "_target_" or key in RESERVED:
            raise UsageError(f"{name}: {key} inside {target}, expected plain values")
    if taken := sorted(set(keywords) & set(runtime)):
        raise UsageError(f"{name}.{taken[0]}: set in the configuration, expected to be left to the program")
    kind = _class(name, target, trusted)
    try:
        inspect.signature(kind).bind(**keywords, **runtime)
        made = kind(**keywords, **runtime)
    except UsageError:
        raise
    except (TypeError, ValueError) as error:
        raise UsageError(f"{name}: {target} refuses its keys: {error}") from error
    if not isinstance(made, expects):
        raise UsageError(f"{name}: {target}, expected a class with the methods of {expects.__name__}")
    return made


def _class(name: str, target: str, trusted: Sequence[str]) -> type:
    module, _, attribute = target.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), attribute, None)
    except Exception as error:  # importing a plug-in runs its author's code
        raise UsageError(f"{name}: {target} cannot be imported: {error}") from error
    if not inspect.isclass(found) or not is_allowed(f"{found.__module__}.{found.__qualname__}", trusted):
        raise UsageError(f"{name}: {target} is no class of {module.partition('.')[0]}'s own, expected one that is")
    return found


def _keys(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield str(key)
            yield from _keys(item)
    elif isinstance(value, list):
        for item in value:
            yield from _keys(item)


def _as_dict(config: Any, *, resolve: bool = False) -> dict[str, Any]:
    """Returns a plain copy of a configuration, empty for a file that holds anything but a mapping."""
    plain = OmegaConf.to_container(config, resolve=resolve)
    return {str(key): value for key, value in plain.items()} if isinstance(plain, dict) else {}


def _choices(own: Mapping[str, Any]) -> dict[str, list[Path]]:
    """Returns the files that each group was chosen from, in the order in which Hydra merges the groups."""
    folders = [Path(s["path"]) for s in own["runtime"]["config_sources"] if s["schema"] == "file"]
    chosen: dict[str, list[Path]] = {}
    for group, names in own["runtime"]["choices"].items():
        if group.startswith("hydra/"):
            continue
        for name in names if isinstance(names, list) else [names]:
            found = [file for folder in folders if (file := folder / group / f"{name}.yaml").is_file()]
            chosen.setdefault(group, []).extend(found[:1])
    return chosen


def _merged(files: Sequence[Path]) -> dict[str, Any]:
    """Returns what group files say, later ones over earlier ones."""
    merged: dict[str, Any] = {}
    for file in files:
        merged.update(_as_dict(OmegaConf.load(file)))
    return merged


def _origin(key: str, choices: Mapping[str, Sequence[Path]]) -> str:
    """Returns ` (in FILE)` for the last chosen file that sets the key, or an empty string."""
    for group, files in reversed(list(choices.items())):
        for file in reversed(files):
            header = re.match(r"#\s*@package\s+(\S+)", file.read_text(encoding="utf-8"))
            package = header[1] if header else group
            inner = key if package == "_global_" else key.removeprefix(f"{package}.")
            if inner != key or package == "_global_":
                node: Any = _as_dict(OmegaConf.load(file))
                for part in inner.split("."):
                    node = node.get(part) if isinstance(node, dict) else None
                if node is not None:
                    return f" (in {file})"
    return ""
