"""Looks at every batch that the environments hand over, at the price of a few dot products."""

from __future__ import annotations

from typing import Any, final

import numpy as np
from gymnasium import Space

from pgkit.rl.spaces import Observation, flattener, leaves


@final
class Inspector:
    """Turns batches into fresh flat arrays and finds in them what must not reach a policy."""

    def __init__(self, space: Space[Any], num_lanes: int) -> None:
        self.flatten = flattener(space)
        self._num_lanes = num_lanes
        self._shapes = {name: (num_lanes, *(leaf.shape or ())) for name, leaf in leaves(space).items()}
        # The dot product with zeros is NaN exactly where something is not finite, and never overflows.
        self._zeros = {
            name: np.zeros(int(np.prod(self._shapes[name])), dtype=leaf.dtype)
            for name, leaf in leaves(space).items()
            if leaf.dtype is not None and leaf.dtype.kind == "f"
        }
        self._no_rewards = np.zeros(num_lanes)

    def problem(self, obs: Observation, rewards: np.ndarray | None) -> tuple[int | None, str] | None:
        """Returns (lane, what is wrong), lane None where it concerns all of them; None where all is well.

        Shapes: obs as `flatten` gave them; rewards `[N]` float64, or None after a reset.
        """
        with np.errstate(invalid="ignore"):  # an infinity times 0
            for name, array in obs.items() if isinstance(obs, dict) else (("", obs),):
                label = f"observation {name}" if name else "observation"
                if array.shape != self._shapes[name]:
                    return None, f"{label} of shape {array.shape}, expected {self._shapes[name]}"
                zeros = self._zeros.get(name)
                if zeros is not None and array.ravel(order="K").dot(zeros) != 0:
                    return self._first_not_finite(label, array)
            if rewards is not None:
                if rewards.shape != (self._num_lanes,):
                    return None, f"rewards of shape {rewards.shape}, expected {(self._num_lanes,)}"
                if rewards.dot(self._no_rewards) != 0:
                    return self._first_not_finite("reward", rewards)
        return None

    def _first_not_finite(self, label: str, array: np.ndarray) -> tuple[int, str]:
        good = np.isfinite(array).reshape(self._num_lanes, -1).all(axis=1)
        lane = int(np.flatnonzero(~good)[0])
        shown = " ".join(np.array2string(array[lane], threshold=12, precision=4).split())
        return lane, f"{label} {shown}, expected finite numbers"
