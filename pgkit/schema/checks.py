"""The walk over a configuration: every name, type, range, interpolation and target."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from pgkit.errors import UsageError
from pgkit.options import Part
from pgkit.schema.commands import groups_of
from pgkit.schema.contradictions import CONTRADICTIONS
from pgkit.schema.source import parameters
from pgkit.schema.values import ROOT, SHARED, annotation_of, convert, show, suggestion

Tree = Mapping[str, Any]

ALLOWED = ("pgkit", "torch.optim", "torch.nn")
"""Packages whose classes a `_target_` may name without being trusted."""

ALLOWED_IN_WORDS = "a class of pgkit, torch.optim, torch.nn or a trusted package"

RESERVED = ("_partial_", "_args_", "_recursive_", "_convert_")
"""Keys that steer Hydra's own instantiation, which pgkit does not use."""

_PRESETS = ("agent", "experiment", "sweep")
_COLLECTIONS = ("diagnostics", "logger")
_HYDRA_TARGETS = ("hydra.experimental.callbacks.", "hydra._internal.core_plugins.", "hydra_plugins.")
_LOGGING_TARGETS = ("logging.", "colorlog.")
_LOGGING_STREAMS = ("ext://sys.stdout", "ext://sys.stderr")
_INTERPOLATION = re.compile(r"\$\{([^{}]*)\}")


def is_allowed(target: str, trusted: Sequence[str]) -> bool:
    """Returns whether a dotted name lies in an allowed or a trusted package."""
    return any(target.startswith(f"{package}.") for package in (*ALLOWED, *trusted))


def check_tree(tree: Tree, *, root: Tree, files: Mapping[str, Tree], trusted: Sequence[str]) -> dict[str, Any]:
    """Returns the tree with interpolations resolved and whole floats turned into the integers they stand for.

    `root` is the content of the root file; `files` holds, for each node, what the file it was chosen from says.

    Raises: UsageError for the first thing that does not hold.
    """
    groups = groups_of(root)
    keys = [key for key in root if key not in ("defaults", "hydra")]
    values = _resolved(tree, [key for key in keys if not isinstance(root[key], dict | list)])
    if list(values.get("trusted_packages") or ()) != list(trusted):
        shown = show(values.get("trusted_packages"))
        raise UsageError(f"trusted_packages: {shown} from a file, expected on the command line alone")
    checked: dict[str, Any] = {}
    for key, value in values.items():
        if key in _PRESETS and value == {}:
            continue  # a file that sets nothing
        if key in groups:
            checked[key] = _group(key, value, files, trusted)
        elif key in keys:
            checked[key] = _plain(key, value, ROOT.get(key, annotation_of(root[key])))
        else:
            _unknown(key, [*keys, *groups])
    for contradiction in CONTRADICTIONS:
        if complaint := contradiction(checked):
            raise UsageError(complaint)
    return checked


def check_hydra(node: Any, key: str = "hydra") -> None:
    """Raises UsageError where Hydra's own node names a class or function that is not Hydra's or logging's."""
    for name, value in node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ():
        inner = f"{key}.{name}"
        text = str(value)
        if (
            (name == "_target_" and not text.startswith(_HYDRA_TARGETS))
            or (name in ("()", "class") and not text.startswith(_LOGGING_TARGETS))
            or (text.startswith("ext://") and text not in _LOGGING_STREAMS)
        ):
            raise UsageError(f"{inner}: {show(value)}, expected one of Hydra's own")
        check_hydra(value, inner)


def _resolved(tree: Tree, scalars: Sequence[str]) -> dict[str, Any]:
    """Returns the tree with its interpolations replaced; only plain root keys and `diagnostics.every` may be named.

    Those are plain values themselves, so that no interpolation can lead back to where it started.
    """
    diagnostics = tree.get("diagnostics")
    named = {key: tree.get(key) for key in scalars}
    if isinstance(diagnostics, dict) and "every" in diagnostics:
        named["diagnostics.every"] = diagnostics["every"]
    for key, value in named.items():
        if isinstance(value, str) and "${" in value:
            raise UsageError(f"{key}: the interpolation {show(value)}, expected a plain value")

    def resolve(key: str, value: Any) -> Any:
        if isinstance(value, dict):
            return {name: resolve(f"{key}.{name}" if key else str(name), item) for name, item in value.items()}
        if isinstance(value, list):
            return [resolve(key, item) for item in value]
        if not isinstance(value, str) or "${" not in value:
            return value
        if any(name not in named for name in _INTERPOLATION.findall(value)) or "${" in _INTERPOLATION.sub("", value):
            raise UsageError(f"{key}: {show(value)}, expected no interpolation but ${{{'}, ${'.join(named)}}}")
        whole = _INTERPOLATION.fullmatch(value)
        return named[whole[1]] if whole else _INTERPOLATION.sub(lambda match: str(named[match[1]]), value)

    resolved = resolve("", tree)
    assert isinstance(resolved, dict)
    return resolved


def _plain(key: str, value: Any, annotation: Any) -> Any:
    """Returns a value, or a mapping of values, that is no node."""
    if isinstance(annotation, dict):
        if not isinstance(value, dict):
            raise UsageError(f"{key}: {show(value)}, expected the keys {', '.join(annotation)}")
        for name in value:
            if name not in annotation:
                _unknown(f"{key}.{name}", list(annotation))
        return {name: _plain(f"{key}.{name}", item, annotation[name]) for name, item in value.items()}
    _check_plain(key, value)
    return convert(key, value, annotation)


def _check_plain(key: str, value: Any) -> None:
    """Raises UsageError for a missing value, and for a class where plain values are expected."""
    if value == "???":
        raise UsageError(f"{key}: missing, expected a value")
    if isinstance(value, dict):
        for name, item in value.items():
            if name == "_target_" or name in RESERVED:
                raise UsageError(f"{key}.{name}: {show(item)}, expected plain values")
            _check_plain(f"{key}.{name}", item)
    elif isinstance(value, list):
        for item in value:
            _check_plain(key, item)


def _group(group: str, value: Any, files: Mapping[str, Tree], trusted: Sequence[str]) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise UsageError(f"{group}: {show(value)}, expected a mapping with _target_")
    if group in _PRESETS:
        expected = "expected those of other groups, or # @package _global_ atop its file"
        raise UsageError(f"{group}.{next(iter(value))}: a preset has no keys of its own, {expected}")
    if group not in _COLLECTIONS:
        return _node(group, value, files.get(group, {}), trusted)
    checked = {}
    for name, item in value.items():
        key = f"{group}.{name}"
        if isinstance(item, dict):
            checked[name] = _node(key, item, files.get(key, {}), trusted)
        elif key in SHARED:
            checked[name] = _plain(key, item, SHARED[key])
        else:
            shared = [k.partition(".")[2] for k in SHARED if k.startswith(f"{group}.")]
            _unknown(key, [*(k for k in value if k != name), *shared])
    return checked


def _node(key: str, node: Tree, file: Tree, trusted: Sequence[str]) -> dict[str, Any]:
    """Returns a node whose target may be imported and whose keys its constructor takes."""
    target = node.get("_target_")
    for name in RESERVED:
        if name in node:
            raise UsageError(f"{key}.{name}: {show(node[name])}, expected no such key")
    if not isinstance(target, str) or not is_allowed(target, trusted):
        raise UsageError(
            f"{key}._target_: {show(target) if '_target_' in node else 'missing'}, expected {ALLOWED_IN_WORDS}"
        )
    try:
        schema = _schema(key, target, node, file)
    except UsageError as error:
        raise UsageError(f"{key}.{error}") from None
    checked: dict[str, Any] = {"_target_": target}
    for name, value in node.items():
        if name == "_target_":
            continue
        if name not in schema:
            _unknown(f"{key}.{name}", list(schema))
        if schema[name] != Part:
            checked[name] = _plain(f"{key}.{name}", value, schema[name])
        elif isinstance(value, dict):
            checked[name] = _node(f"{key}.{name}", value, {}, trusted)
        else:
            raise UsageError(f"{key}.{name}: {show(value)}, expected a mapping with _target_")
    return checked


def _schema(key: str, target: str, node: Tree, file: Tree) -> dict[str, Any]:
    """Returns the type of every key that a node of this target may hold.

    A constructor's argument that the group's file leaves out is the program's to hand over, unless it has a default.
    """
    plain = {name: value for name, value in file.items() if name not in ("_target_", "defaults")}
    if target.startswith("pgkit."):
        given = file or node
        return {name: kind for name, (kind, optional) in parameters(target).items() if optional or name in given}
    known = plain if file.get("_target_") == target else {**plain, **node}
    kinds = {name: annotation_of(value) for name, value in known.items() if name != "_target_"}
    return {name: SHARED.get(f"{key}.{name}", kind if name in plain else Any) for name, kind in kinds.items()}


def _unknown(key: str, known: Sequence[str]) -> None:
    name = key.rpartition(".")[2]
    raise UsageError(f"{key}: unknown key{suggestion(name, sorted(set(known)))}")
