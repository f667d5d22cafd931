"""Gymnasium spaces as JSON and back: what they hold, and no code."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

SUPPORTED = "Box, Discrete, MultiDiscrete, MultiBinary, Dict and Tuple"


def space_to_json(space: gym.Space[Any]) -> dict[str, Any]:
    """Returns a description of a space in plain JSON values; bounds that are all equal are stored once.

    Raises: TypeError for a space that cannot be described.
    """
    match space:
        case spaces.Box():
            bounds = {"low": _bounds_to_json(space.low), "high": _bounds_to_json(space.high)}
            return {"type": "Box", "shape": list(space.shape), "dtype": str(space.dtype), **bounds}
        case spaces.Discrete():
            return {"type": "Discrete", "n": int(space.n), "start": int(space.start), "dtype": str(space.dtype)}
        case spaces.MultiDiscrete():
            values = {"nvec": space.nvec.tolist(), "start": space.start.tolist()}
            return {"type": "MultiDiscrete", **values, "dtype": str(space.dtype)}
        case spaces.MultiBinary():
            return {"type": "MultiBinary", "n": space.n if isinstance(space.n, int) else list(map(int, space.n))}
        case spaces.Dict():
            # pairs and not an object, as the order of the keys is part of the space
            return {"type": "Dict", "spaces": [[key, space_to_json(value)] for key, value in space.spaces.items()]}
        case spaces.Tuple():
            return {"type": "Tuple", "spaces": [space_to_json(value) for value in space.spaces]}
    raise TypeError(f"space: {type(space).__name__}, expected {SUPPORTED}")


def space_from_json(description: Mapping[str, Any]) -> gym.Space[Any]:
    """Returns the space that was described.

    Raises: ValueError or KeyError where the description is none.
    """
    match description["type"]:
        case "Box":
            shape, dtype = tuple(description["shape"]), np.dtype(description["dtype"])
            low, high = (_bounds_from_json(description[end], shape, dtype) for end in ("low", "high"))
            return spaces.Box(low, high, shape=shape, dtype=dtype.type)
        case "Discrete":
            dtype = np.dtype(description["dtype"])
            return spaces.Discrete(description["n"], start=description["start"], dtype=dtype.type)
        case "MultiDiscrete":
            dtype = np.dtype(description["dtype"])
            return spaces.MultiDiscrete(description["nvec"], start=description["start"], dtype=dtype.type)
        case "MultiBinary":
            return spaces.MultiBinary(description["n"])
        case "Dict":
            return spaces.Dict([(key, space_from_json(value)) for key, value in description["spaces"]])
        case "Tuple":
            return spaces.Tuple([space_from_json(value) for value in description["spaces"]])
    raise ValueError(f"space: {description['type']!r}, expected {SUPPORTED}")


def _bounds_to_json(bounds: np.ndarray) -> Any:
    """Returns bounds as numbers, or `"inf"` and `"-inf"`, for which JSON has no number."""
    if bounds.size and (bounds == bounds.flat[0]).all():
        return _number_to_json(bounds.flat[0].item())
    return [_number_to_json(bound) for bound in bounds.ravel().tolist()]


def _bounds_from_json(content: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray:
    if not isinstance(content, list):
        return np.full(shape, float(content) if isinstance(content, str) else content, dtype)
    numbers = [float(bound) if isinstance(bound, str) else bound for bound in content]
    return np.asarray(numbers, dtype).reshape(shape)


def _number_to_json(number: float) -> float | str:
    return str(number) if number in (float("inf"), float("-inf")) else number
