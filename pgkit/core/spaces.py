"""The simple spaces inside a composite one; torch stays out, because worker processes read this too."""

from __future__ import annotations

from typing import Any

from gymnasium import Space
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Tuple

from pgkit.errors import UsageError


def leaves(space: Space[Any]) -> dict[str, Space[Any]]:
    """Returns the Box and discrete spaces inside `space`, by name, in the order of the space.

    Keys of a Dict are joined by `/`, entries of a Tuple are numbered; a plain space is its own leaf, named "".

    Raises: UsageError naming a space that is not supported, or two entries that would share a name.
    """
    if isinstance(space, Box | Discrete | MultiDiscrete | MultiBinary):
        return {"": space}
    if not isinstance(space, Dict | Tuple):
        raise UsageError(
            f"env.id: an observation space {type(space).__name__}, "
            "expected Box, Discrete, MultiDiscrete, MultiBinary, Dict or Tuple"
        )
    flat: dict[str, Space[Any]] = {}
    for key, inner in space.items() if isinstance(space, Dict) else enumerate(space.spaces):
        for name, leaf in leaves(inner).items():
            path = f"{key}/{name}" if name else str(key)
            if path in flat:
                raise UsageError(f"env.id: two entries of its observation space are both called {path}, expected one")
            flat[path] = leaf
    if not flat:
        raise UsageError(f"env.id: an observation space {space} without entries, expected at least one")
    return flat
