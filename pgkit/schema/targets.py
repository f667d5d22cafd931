"""From the name in a `_target_` to its class, and to what makes an object of it later."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pgkit import options
from pgkit.errors import UsageError
from pgkit.schema.checks import ALLOWED_IN_WORDS, RESERVED, is_allowed
from pgkit.schema.source import parameters
from pgkit.schema.values import show


def class_of(name: str, target: Any, trusted: Sequence[str]) -> type:
    """Returns the class behind the target of a node called `name`.

    A prefix decides what may be imported; the class found must then say itself that it lives in an allowed package,
    because modules hold much that is not theirs.

    Raises: UsageError where the target is not allowed, cannot be imported or is no class.
    """
    if not isinstance(target, str) or not is_allowed(target, trusted):
        raise UsageError(f"{name}: {show(target)}, expected {ALLOWED_IN_WORDS}")
    module, _, attribute = target.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), attribute, None)
    except Exception as error:  # importing a plug-in runs its author's code
        raise UsageError(f"{name}: {target} cannot be imported: {error}") from error
    if not inspect.isclass(found) or not is_allowed(f"{found.__module__}.{found.__qualname__}", trusted):
        raise UsageError(f"{name}: {target} is no class of {module.partition('.')[0]}'s own, expected one that is")
    return found


def parts_of(target: str) -> list[str]:
    """Returns the keywords of a class of pgkit that are nodes themselves, to be made by it."""
    if not target.startswith("pgkit."):
        return []
    return [key for key, (kind, _) in parameters(target).items() if kind == options.Part]


def maker(name: str, node: Any, trusted: Sequence[str]) -> Callable[..., Any]:
    """Returns a function that makes the object of a node inside a node; it hands over those of its keywords that the
    class names.

    Raises: UsageError where the target is not allowed; the function does, where the class refuses its keywords.
    """
    keywords = dict(node) if isinstance(node, Mapping) else {}
    kind = class_of(name, keywords.pop("_target_", None), trusted)
    if wrong := [key for key in RESERVED if key in keywords]:
        raise UsageError(f"{name}.{wrong[0]}: {show(keywords[wrong[0]])}, expected no such key")

    def make(**offers: Any) -> Any:
        taken = {key: value for key, value in offers.items() if key in inspect.signature(kind).parameters}
        try:
            return kind(**taken, **keywords)
        except UsageError:
            raise
        except (TypeError, ValueError) as error:
            target = f"{kind.__module__}.{kind.__qualname__}"
            raise UsageError(f"{name}: {target} refuses its keys: {' '.join(str(error).split())}") from error

    return make
