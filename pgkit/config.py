"""From the command line to a configuration that holds, and from its nodes to objects.

Hydra composes; here its mistakes become one line in pgkit's words. Nothing in this file imports torch before `build`.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
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
from pgkit.schema.commands import check_commands, groups_of, without_fit
from pgkit.schema.overrides import checked_overrides, forced, search_path, split_sweep, without_sweeps
from pgkit.schema.targets import class_of, maker, parts_of
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
        search = search_path(overrides, config_dirs)
        lines = checked_overrides(loader, overrides, search)
        while True:
            try:
                config = hydra.compose(config_name, lines, return_hydra_config=True)
                break
            except (YAMLError, UnicodeError) as error:
                raise UsageError(_unreadable(config_dirs, error)) from error
            except (HydraException, OmegaConfBaseException, OSError) as error:
                roots = {file.stem: groups_of(_as_dict(OmegaConf.load(file))) for file in config_dir().glob("*.yaml")}
                lines = forced(lines, error, config_name, dict(sorted(roots.items())))
    check_hydra(_as_dict(config.hydra))
    return config


def expand(config: DictConfig, overrides: Sequence[str]) -> list[list[str]]:
    """Returns the overrides of every job of a sweep, composed without its sweeps as `config`.

    A sweeper that does not walk a grid chooses its values as it goes; its one entry holds what is fixed.

    Raises: UsageError for a sweep that is no grid.
    """
    sweeper = config.hydra.sweeper
    if not str(sweeper._target_).endswith(".BasicSweeper"):
        return [without_sweeps(overrides)]
    with initialize_config_dir(str(config_dir()), version_base=VERSION_BASE):
        return split_sweep(GlobalHydra.instance().config_loader(), overrides, sweeper.params or {})


def check(config: DictConfig, *, trusted: Sequence[str] = ()) -> DictConfig:
    """Returns the configuration, resolved, converted and closed to new keys; Hydra's node is left out.

    `trusted` are the packages that this process's command line trusts; no file may add to them.

    Raises: UsageError for a name, type, range, interpolation, target or contradiction, and the file that it is in.
    """
    tree = _as_dict(config)
    own = tree.pop("hydra", None)
    name = own["job"]["config_name"] if own else "train"
    root = _as_dict(OmegaConf.load(config_dir() / f"{name}.yaml"))
    try:
        if own and name == "verify":
            fit = _as_dict(OmegaConf.load(config_dir() / "fit.yaml"))
            tree = without_fit(tree, root=root, fit=fit, typed=own["overrides"]["task"])
        if own:
            check_commands(name, tree, own["runtime"]["choices"], lambda group: _options(own, group))
        checked = check_tree(tree, root=root, files=_files(own, tree) if own else {}, trusted=trusted)
    except UsageError as error:
        raise UsageError(f"{error}{_origin(str(error).partition(':')[0], own) if own else ''}") from None
    result = OmegaConf.create(checked)
    OmegaConf.set_struct(result, True)
    return result


def build(
    node: Mapping[str, Any],
    *,
    expects: type[Any],
    trusted: Sequence[str] = (),
    offers: Mapping[str, Any] = MappingProxyType({}),
    **runtime: Any,
) -> Any:
    """Returns the object that a node describes: its `_target_`, called with its keys and what the program hands over.

    `runtime` goes to every constructor, `offers` to those that name it. The one place where a configuration becomes an
    object. A node inside a node is plain values, unless the constructor asks for a `Part`: then what it gets is a
    function that makes the object.

    Raises: UsageError where the target is not allowed, is no class, refuses its keys or is not what is expected.
    """
    keywords = _as_dict(node if isinstance(node, DictConfig) else OmegaConf.create(dict(node)), resolve=True)
    name = str(node._get_full_key("") or "_target_") if isinstance(node, DictConfig) else "_target_"
    target = keywords.pop("_target_", None)
    if not isinstance(target, str) or not is_allowed(target, trusted):
        raise UsageError(f"{name}: {show(target)}, expected {ALLOWED_IN_WORDS}")
    inner = {key: keywords.pop(key) for key in parts_of(target) if key in keywords}
    beneath = [{k: v for k, v in each.items() if k != "_target_"} for each in inner.values() if isinstance(each, dict)]
    for key in _keys([keywords, *beneath]):
        if key == "_target_" or key in RESERVED:
            raise UsageError(f"{name}: {key} inside {target}, expected plain values")
    if taken := sorted(set(keywords) & {*runtime, *offers}):
        raise UsageError(f"{name}.{taken[0]}: set in the configuration, expected to be left to the program")
    kind = class_of(name, target, trusted)
    keywords |= {key: maker(f"{name}.{key}", each, trusted) for key, each in inner.items()}
    runtime |= {key: value for key, value in offers.items() if key in inspect.signature(kind).parameters}
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


def _keys(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield str(key)
            yield from _keys(item)
    elif isinstance(value, list):
        for item in value:
            yield from _keys(item)


def _unreadable(folders: Sequence[Path | str], error: Exception) -> str:
    """Returns the complaint about a file that is no YAML, with its name, line and column."""
    for file in sorted(file for folder in folders for file in Path(folder).rglob("*.yaml")):
        try:
            OmegaConf.load(file)
        except (YAMLError, UnicodeError) as found:
            if type(found) is type(error):
                mark = getattr(found, "problem_mark", None)
                where = f"{file}:{mark.line + 1}:{mark.column + 1}" if mark else str(file)
                return f"{where}: {getattr(found, 'problem', None) or found}, expected YAML"
    return " ".join(f"{error}, expected YAML".split())


def _as_dict(config: Any, *, resolve: bool = False) -> dict[str, Any]:
    """Returns a plain copy of a configuration, empty for a file that holds anything but a mapping."""
    plain = OmegaConf.to_container(config, resolve=resolve)
    return {str(key): value for key, value in plain.items()} if isinstance(plain, dict) else {}


def _choices(own: Mapping[str, Any]) -> dict[str, list[Path]]:
    """Returns the files that each group was chosen from, in the order in which Hydra merges the groups."""
    chosen: dict[str, list[Path]] = {}
    for group, names in own["runtime"]["choices"].items():
        if not group.startswith("hydra/"):
            listed = names if isinstance(names, list) else [names]
            chosen[group] = [file for name in listed for file in _file(own, group, name)]
    return chosen


def _file(own: Mapping[str, Any], group: str, name: str) -> list[Path]:
    """Returns the file of an option, in the folder where Hydra finds it first, or nothing."""
    folders = [Path(source["path"]) for source in own["runtime"]["config_sources"] if source["schema"] == "file"]
    return [file for folder in folders if (file := folder / group / f"{name}.yaml").is_file()][:1]


def _options(own: Mapping[str, Any], group: str) -> dict[str, Any]:
    """Returns the node of every option of a group, by its name."""
    folders = [Path(source["path"]) for source in own["runtime"]["config_sources"] if source["schema"] == "file"]
    files = {file.stem: file for folder in folders for file in (folder / group).glob("*.yaml")}
    return {name: _as_dict(OmegaConf.load(files[name])) for name in sorted(files)}


def _files(own: Mapping[str, Any], tree: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Returns what the file of each node says, where the node is a group or, as `logger.csv`, one of several in it."""
    said = {group: _as_dict(OmegaConf.load(files[0])) for group, files in _choices(own).items() if len(files) == 1}
    # A file that also sets other groups keeps its own node under the group's name.
    said = {group: content.get(group, content) for group, content in said.items()}
    for group, nodes in tree.items():
        for name in nodes if isinstance(nodes, dict) else ():
            for file in _file(own, group, name):
                content = _as_dict(OmegaConf.load(file))
                said[f"{group}.{name}"] = content.get(name, content)
    return said


def _origin(key: str, own: Mapping[str, Any]) -> str:
    """Returns ` (in FILE)` for the last of the user's files that sets a key nobody typed, or an empty string."""
    typed = [line.lstrip("+").partition("=")[0] for line in own["overrides"]["task"]]
    files = [(group, file) for group, files in _choices(own).items() for file in files]
    for group, file in reversed([pair for pair in files if config_dir() not in pair[1].parents]):
        header = re.match(r"#\s*@package\s+(\S+)", file.read_text(encoding="utf-8"))
        package = header[1] if header else group
        inner = f"{key}." if package == "_global_" else f"{key}.".removeprefix(f"{package}.")
        if package != "_global_" and inner == f"{key}.":
            continue
        value: Any = _as_dict(OmegaConf.load(file))
        for part in inner.split(".")[:-1]:
            value = value.get(part) if isinstance(value, dict) else None
        if value is not None and not any(f"{name}.".startswith(f"{key}.") for name in typed):
            return f" (in {file})"
    return ""
