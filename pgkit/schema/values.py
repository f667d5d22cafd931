"""Types and ranges of configuration values, and what is said where a value does not fit."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pgkit import options
from pgkit.errors import UsageError, did_you_mean

ROOT: Mapping[str, Any] = {
    "seed": options.Index,
    "device": options.Device,
    "gamma": options.Fraction,
    "total_steps": options.Count,
    "stop_when_solved": bool,
    "save_every": options.Positive | None,
    "evaluation": {"episodes": options.Index, "num_envs": options.Count},
    "trusted_packages": list[str],
    "run": str,
    "episodes": options.Count,
    "num_envs": options.Count,
    "num_samples": options.Count,
    "total_samples": options.Count,
    "max_grad_norm": options.Positive | None,
    "schedule": Literal["linear", "constant"],
    "objective_every": options.Count,
    "problems": str | list[str],
    "estimators": str | list[str],
    "baselines": str | list[str],
    "repeats": Annotated[int, options.Range(least=2)],
    "alpha": Annotated[float, options.Range(above=0, below=1)],
    "cards": str | None,
    "workers": options.Count,
    "trajectories": str | None,
    "data": str,
    "behavior_policy": Literal["logged", "fitted"],
    "confidence": Annotated[float, options.Range(above=0, below=1)],
    "resamples": Annotated[int, options.Range(least=100)],
    "folds": Annotated[int, options.Range(least=2)],
    "fit_steps": options.Count,
    "return_range": list[float] | None,
    "steps": options.Count,
    "lanes": list[options.Count],
    "rounds": options.Count,
    "seconds": options.Positive,
    "weight_limit": options.Positive | None,
}
"""Types of the root keys of every entry point; a root key that is not here has the type of its default."""

_BelowOne = Annotated[float, options.Range(least=0, below=1)]

SHARED: Mapping[str, Any] = {
    "diagnostics.every": options.Count,
    "optimizer.lr": options.Positive,
    "optimizer.betas": tuple[_BelowOne, _BelowOne],
    "optimizer.alpha": _BelowOne,
    "optimizer.momentum": _BelowOne,
    "optimizer.eps": options.NonNegative,
    "optimizer.weight_decay": options.NonNegative,
}
"""Types of keys that no constructor of ours declares."""


def convert(key: str, value: Any, annotation: Any) -> Any:
    """Returns the value as the annotation wants it: a whole float becomes an integer, all else stays as it is.

    Raises: UsageError where the value does not fit.
    """
    try:
        return _fit(value, annotation)
    except _Misfit:
        hint = did_you_mean(value, _words(annotation)) if isinstance(value, str) else ""
        raise UsageError(f"{key}: {show(value)}, expected {describe(annotation)}{hint}") from None


def annotation_of(default: Any) -> Any:
    """Returns the type that a default stands for; null stands for anything."""
    if default is None:
        return Any
    if isinstance(default, list):
        return list[annotation_of(default[0])] if default else list  # type: ignore[misc]  # a type made at run time
    return type(default)


def describe(annotation: Any) -> str:
    """Returns the annotation in words, as they follow "expected"."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return f"{describe(arguments[0])} {arguments[1]}"
    if origin is Literal:
        return _either([str(option) for option in arguments])
    if origin in (Union, UnionType):
        return _either([describe(argument) for argument in arguments])
    kind = origin or annotation
    if kind is tuple and arguments and arguments[-1] is not Ellipsis:
        return f"a list of {len(arguments)}, each {describe(arguments[0])}"
    if kind in (list, tuple, Sequence):
        return f"a list, each item {describe(arguments[0])}" if arguments else "a list of finite values"
    words = {bool: "true or false", int: "an integer", float: "a number", str: "a string", NoneType: "null"}
    return words.get(kind, "a mapping of finite values" if kind in (dict, Mapping) else "a finite value")


def show(value: Any) -> str:
    """Returns the value as a user would type it, cut to a readable length."""
    text = {None: "null", True: "true", False: "false"}.get(value) if isinstance(value, bool | None) else str(value)
    text = " ".join((text or "''").split())
    return text if len(text) <= 80 else f"{text[:77]}..."


def suggestion(word: str, known: Sequence[str]) -> str:
    """Returns what could have been meant, to follow a complaint: all the names where few, and the nearest of them."""
    near = did_you_mean(word, known)
    if near and len(known) > 12:
        return near
    return f", expected one of {', '.join(known)}{near}" if known else ", expected none here"


class _Misfit(Exception):
    """A value that its annotation does not accept."""


def _fit(value: Any, annotation: Any) -> Any:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        fitted = _fit(value, arguments[0])
        return fitted if fitted in arguments[1] else _misfit()
    if origin is Literal:
        return value if any(type(value) is type(option) and value == option for option in arguments) else _misfit()
    if origin in (Union, UnionType):
        for argument in arguments:
            try:
                return _fit(value, argument)
            except _Misfit:
                continue
        _misfit()
    kind = origin or annotation
    if kind is Any:
        if isinstance(value, dict | list):
            return _fit(value, type(value))
        return value if not isinstance(value, float) or math.isfinite(value) else _misfit()
    if kind in (list, tuple, Sequence):
        fixed = kind is tuple and arguments and arguments[-1] is not Ellipsis
        if not isinstance(value, list) or (fixed and len(value) != len(arguments)):
            _misfit()
        each = arguments if fixed else (arguments[:1] or (Any,)) * len(value)
        return [_fit(item, argument) for item, argument in zip(value, each, strict=True)]
    if kind in (dict, Mapping):
        inner = arguments[1] if arguments else Any
        return {name: _fit(item, inner) for name, item in value.items()} if isinstance(value, dict) else _misfit()
    if kind in (None, NoneType):
        return None if value is None else _misfit()
    if kind is int and type(value) is float and value.is_integer():
        return int(value)
    if kind is float:
        return value if type(value) in (int, float) and math.isfinite(value) else _misfit()
    return value if type(value) is kind else _misfit()


def _either(words: Sequence[str]) -> str:
    return f"{', '.join(words[:-1])} or {words[-1]}" if len(words) > 1 else words[0]


def _misfit() -> Any:
    raise _Misfit


def _words(annotation: Any) -> Iterator[str]:
    if get_origin(annotation) is Literal:
        yield from (str(option) for option in get_args(annotation))
    else:
        for argument in get_args(annotation):
            yield from _words(argument)
