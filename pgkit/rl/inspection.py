"""Looks at every batch that the environments hand over, at the price of a dot product for each array."""

from __future__ import annotations

from math import isfinite
from typing import Any, final

import numpy as np
from gymnasium import Space

from pgkit.core.spaces import leaves
from pgkit.rl.spaces import Observation, flattener


@final
class Inspector:
    """Turns batches into fresh flat arrays and finds in them what must not reach a policy."""

    def __init__(self, space: Space[Any], num_lanes: int) -> None:
        self.flatten = flattener(space)
        self._num_lanes = num_lanes
        self._expected = {
            name: ((num_lanes, *(leaf.shape or ())), leaf.dtype is not None and leaf.dtype.kind == "f")
            for name, leaf in leaves(space).items()
        }

    def problem(self, obs: Observation, rewards: np.ndarray | None) -> tuple[int | None, str] | None:
        """Returns (lane, what is wrong), lane None where it concerns all of them; None where all is well.

        Shapes: obs as `flatten` gave them; rewards `[N]` float64, or None after a reset.
        """
        for name, array in obs.items() if isinstance(obs, dict) else (("", obs),):
            shape, real = self._expected[name]
            if array.shape != shape:
                return None, f"{_label(name)} of shape {array.shape}, expected {shape}"
            if real:
                # A sum of squares is finite only where every term is; where it merely overflows, a closer look helps.
                flat = array.ravel("K")
                if not isfinite(flat.dot(flat)) and (lane := self._lane_not_finite(array)) is not None:
                    return lane, f"{_label(name)} {_show(array[lane])}, expected finite numbers"
        if rewards is None:
            return None
        if rewards.shape != (self._num_lanes,):
            return None, f"rewards of shape {rewards.shape}, expected {(self._num_lanes,)}"
        if not isfinite(rewards.dot(rewards)) and (lane := self._lane_not_finite(rewards)) is not None:
            return lane, f"reward {rewards[lane]}, expected finite numbers"
        return None

    def _lane_not_finite(self, array: np.ndarray) -> int | None:
        bad = np.flatnonzero(~np.isfinite(array).reshape(self._num_lanes, -1).all(axis=1))
        return int(bad[0]) if len(bad) else None


def _label(name: str) -> str:
    return f"observation {name}" if name else "observation"


def _show(row: np.ndarray) -> str:
    return " ".join(np.array2string(row, threshold=12, precision=4).split())
