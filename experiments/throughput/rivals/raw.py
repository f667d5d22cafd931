"""Stepping without learning."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import gymnasium as gym
import numpy as np
from common import BATCH, LANES, Rates, Stopwatch


def raw_lanes(steps: int) -> Rates:
    """Steps the very lanes that a pgkit run uses, inspection included."""
    from pgkit.rl.lanes import Lanes

    lanes = Lanes(id="CartPole-v1", num_envs=LANES, vectorization="sync")
    lanes.reset(list(range(LANES)))
    result = _step(lambda actions: lanes.step(actions)[2:], lanes.action_space, steps)
    lanes.close()
    return result


def raw_gymnasium(steps: int) -> Rates:
    """Steps gymnasium's own synchronous vector environment."""
    return _gymnasium("CartPole-v1", steps)


def raw_cheetah(steps: int) -> Rates:
    """The same with HalfCheetah-v5."""
    return _gymnasium("HalfCheetah-v5", steps)


def _gymnasium(name: str, steps: int) -> Rates:
    vector = gym.make_vec(name, num_envs=LANES, vectorization_mode="sync")
    vector.reset(seed=0)
    result = _step(lambda actions: vector.step(actions)[2:4], vector.single_action_space, steps)
    vector.close()
    return result


def _step(step: Callable[[np.ndarray], Any], space: gym.Space[Any], steps: int) -> Rates:
    """Returns the rate at which transitions are made under random actions drawn beforehand; resets are none."""
    space.seed(0)
    actions = np.array([[space.sample() for _ in range(LANES)] for _ in range(BATCH)])

    def ended() -> Iterator[int]:
        while True:
            for row in actions:
                terminated, truncated = step(row)
                yield int((terminated | truncated).sum())

    lane_ends = ended()
    for _ in range(BATCH):
        next(lane_ends)
    watch, rows = Stopwatch(), steps // LANES
    resets = sum(next(lane_ends) for _ in range(rows))  # the row after an end only resets
    return watch.rates(rows * LANES - resets)
