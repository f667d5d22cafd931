"""What was typed, before Hydra acts on it: keys given once, options that exist, and Hydra's complaints in our words."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_loader import ConfigLoader
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException, MissingConfigException

from pgkit.errors import UsageError
from pgkit.schema.values import show, suggestion

_PACKAGE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")


def trusted_packages(overrides: Sequence[str]) -> tuple[str, ...]:
    """Returns the packages that a command line trusts: the one way in which a package comes to be trusted.

    Raises: UsageError where they are no list of package names.
    """
    for override in parsed(overrides):
        if override.key_or_group == "trusted_packages" and not override.is_sweep_override():
            value = override.value()
            if not isinstance(value, list) or not all(isinstance(p, str) and _PACKAGE.fullmatch(p) for p in value):
                raise UsageError(f"trusted_packages: {show(value)}, expected a list of package names")
            return tuple(str(package) for package in value)
    return ()


def parsed(overrides: Sequence[str]) -> list[Override]:
    """Returns the overrides as Hydra reads them.

    Raises: UsageError for what it cannot read, and for a key that is given twice.
    """
    found: dict[str, Override] = {}
    for line in overrides:
        try:
            override = OverridesParser.create().parse_override(line)
        except (HydraException, ValueError):
            hint = "" if "=" in line else ", expected key=value"
            raise UsageError(f"{show(line)}: cannot be read{hint}; quote what the shell or Hydra would read") from None
        if override.key_or_group in found:
            raise UsageError(f"{override.key_or_group}: given twice, expected once")
        found[override.key_or_group] = override
    return list(found.values())


def split_sweep(loader: ConfigLoader, overrides: Sequence[str], params: Mapping[str, Any]) -> list[list[str]]:
    """Returns the overrides of every job of a grid, in the order of Hydra's own sweeper.

    Raises: UsageError for a sweep that is no grid.
    """
    lines = [*(f"{key}={value}" for key, value in params.items()), *overrides]
    try:
        found = OverridesParser.create(config_loader=loader).parse_overrides(lines)
        return BasicSweeper.split_arguments(found, None)[0]
    except HydraException as error:
        raise UsageError(f"--multirun: {error}") from None


def without_sweeps(overrides: Sequence[str]) -> list[str]:
    """Returns the overrides that name one value."""
    return [
        line for line, override in zip(overrides, parsed(overrides), strict=True) if not override.is_sweep_override()
    ]


def forced_keys(composed: Iterable[Sequence[str]]) -> set[str]:
    """Returns the keys that had to be forced on Hydra in any of several compositions."""
    return {_key(line) for lines in composed for line in lines if line.startswith("++")}


def with_force(overrides: Sequence[str], keys: set[str]) -> list[str]:
    """Returns the overrides as they were typed, those of `keys` forced."""
    return [f"++{line.lstrip('+')}" if _key(line) in keys else line for line in overrides]


def search_path(overrides: Sequence[str], config_dirs: Sequence[Path | str]) -> list[str]:
    """Returns the override that lets Hydra see further folders, joined with the user's own."""
    own = [o.value() for o in parsed(overrides) if o.get_key_element() == "hydra.searchpath"]
    paths = [
        *(own[0] if own and isinstance(own[0], list) else ()),
        *(f"file://{Path(d).resolve()}" for d in config_dirs),
    ]
    return [f"hydra.searchpath=[{','.join(quoted(path) for path in paths)}]"] if paths else []


def quoted(text: str) -> str:
    """Returns the text as Hydra reads a string."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def checked_overrides(loader: ConfigLoader, overrides: Sequence[str], search: list[str]) -> list[str]:
    """Returns the overrides as Hydra shall see them, once their keys and the options they choose are known to exist."""
    known = groups(loader, search)
    lines = []
    for line, override in zip(overrides, parsed(overrides), strict=True):
        key = override.key_or_group
        if override.package is not None:
            raise UsageError(f"{key}@{override.package}: a package, expected {key}=OPTION")
        if override.is_delete():
            raise UsageError(f"{line}: a deletion, expected key=value")
        if override.is_sweep_override():
            raise UsageError(f"{key}: {show(override.get_value_string())} is a sweep, expected one value or --multirun")
        if key in known:
            _check_option(key, override.value(), loader.get_group_options(key, overrides=search))
            if override.is_add() or override.is_force_add():
                raise UsageError(f"{line}: a group has a choice already, expected {line.lstrip('+')}")
        if key != "hydra.searchpath":
            lines.append(line)
    return lines + search


def groups(loader: ConfigLoader, search: list[str]) -> list[str]:
    """Returns the names of the groups that the user may choose from."""
    return [group for group in loader.get_group_options("", ObjectType.GROUP, overrides=search) if group != "hydra"]


def _check_option(group: str, value: Any, known: Sequence[str]) -> None:
    for name in value if isinstance(value, list) else [value]:
        if not isinstance(name, str | int | float) or str(name) not in known:
            raise UsageError(f"{group}: {show(name)}{suggestion(str(name), known)}")


def forced(lines: list[str], error: Exception, command: str, groups_of: Mapping[str, Sequence[str]]) -> list[str]:
    """Returns the overrides with `++` where Hydra asked for it: whether the key exists is for `check` to say.

    `groups_of` lists the groups of every command.
    Raises: UsageError for any other complaint of Hydra's, in one line and without its advice.
    """
    text = str(error) or str(error.__cause__ or type(error).__name__)
    absent = re.match(r"Could not override '([^']*)'\.\s*To append", text)
    present = re.match(r"Could not append to config. An item is already at '([^']*)'", text)
    if key := (absent or present):
        again = with_force(lines, {key[1]})
        if again != lines and not key[1].startswith("hydra."):
            return again
        raise UsageError(f"{key[1]}: unknown key, expected one of Hydra's") from None
    if isinstance(error, MissingConfigException):
        missing = error.missing_cfg_file or ""
        parent, _, name = missing.rpartition("/")
        known = [str(option) for option in error.options or ()]
        raise UsageError(f"{parent or 'config'}: {name}{suggestion(name, known)}") from None
    if unmatched := re.match(r"(?:In '([^']*)': )?Could not override '([^']*)'\. No match in the defaults list", text):
        where = f" (in {unmatched[1]})" if unmatched[1] else ""
        homes = [f"pgkit.{name}" for name, own in groups_of.items() if unmatched[2] in own]
        belongs = f"; {unmatched[2]} belongs to {' and '.join(homes)}" if homes else ""
        meant = suggestion(unmatched[2], groups_of.get(command, []))
        raise UsageError(f"{unmatched[2]}: no group of this command{meant}{where}{belongs}") from None
    # What is left is rare, such as one file overriding a group twice: Hydra's own words, without its advice.
    cause = f": {error.__cause__}" if error.__cause__ and str(error.__cause__) not in text else ""
    raise UsageError(" ".join(re.sub(r"\bTo append to your \w+.*", "", f"{text}{cause}").split())) from None


def _key(line: str) -> str:
    return line.lstrip("+").partition("=")[0]
