"""Observation and action spaces: which are supported, how they flatten, and whether a value belongs to one."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from gymnasium import Space
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Tuple

from pgkit.errors import UsageError

Observation = np.ndarray | dict[str, np.ndarray]
"""A batch of observations `[N, *obs]`; a Dict or Tuple space gives a flat dict, keys joined by `/`."""


def flattener(space: Space[Any]) -> Callable[[Any], Observation]:
    """Returns the function from a batch as the environment gives it to fresh arrays, in the dtype of the space."""
    if not isinstance(space, Dict | Tuple):
        dtype = space.dtype
        return lambda batch: np.array(batch, dtype=dtype)
    entries: Iterable[tuple[Any, Space[Any]]] = space.items() if isinstance(space, Dict) else enumerate(space.spaces)
    parts = [(key, flattener(inner)) for key, inner in entries]

    def flatten(batch: Any) -> Observation:
        flat: dict[str, np.ndarray] = {}
        for key, inner in parts:
            value = inner(batch[key])
            if isinstance(value, dict):
                flat.update({f"{key}/{name}": array for name, array in value.items()})
            else:
                flat[str(key)] = value
        return flat

    return flatten


def check_action_space(space: Space[Any]) -> None:
    """Returns nothing.

    Raises: UsageError for anything but Discrete, MultiDiscrete (with any start), MultiBinary and Box (bounded or not).
    """
    if not isinstance(space, Box | Discrete | MultiDiscrete | MultiBinary):
        raise UsageError(
            f"env.id: an action space {type(space).__name__}, expected Discrete, MultiDiscrete, MultiBinary or Box"
        )


def mismatch(space: Space[Any], value: Any) -> str | None:
    """Returns how `value` differs in structure, shape or dtype from what `space` promises, None where it does not.

    Bounds of a Box are not looked at: many environments state nominal ones.
    """
    if isinstance(space, Discrete):
        whole = isinstance(value, int) or (isinstance(value, np.ndarray | np.generic) and value.dtype.kind in "iu")
        if not whole or np.ndim(value) != 0:
            return f"{type(value).__name__} {value!r}, expected an integer of {space}"
        return None if 0 <= value - space.start < space.n else f"{value}, expected an integer of {space}"
    if isinstance(space, Dict):
        if not isinstance(value, dict) or value.keys() != space.spaces.keys():
            got = sorted(value) if isinstance(value, dict) else type(value).__name__
            return f"{got}, expected a dict with keys {list(space.spaces)}"
        return _first_mismatch((key, space[key], value[key]) for key in space.spaces)
    if isinstance(space, Tuple):
        if not isinstance(value, tuple) or len(value) != len(space.spaces):
            return f"{type(value).__name__}, expected a tuple of {len(space.spaces)}"
        return _first_mismatch((index, space[index], item) for index, item in enumerate(value))
    if not isinstance(value, np.ndarray | np.generic):
        return f"{type(value).__name__}, expected an array of shape {space.shape}"
    if value.shape != space.shape:
        return f"shape {value.shape}, expected {space.shape}"
    if space.dtype is not None and not np.can_cast(value.dtype, space.dtype):
        return f"dtype {value.dtype}, expected {space.dtype}"
    return None


def _first_mismatch(entries: Any) -> str | None:
    for key, inner, item in entries:
        found = mismatch(inner, item)
        if found is not None:
            return f"{key}: {found}"
    return None
