"""The lean synchronous form does what Gymnasium's own does, row for row."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import SyncVectorEnv

from pgkit.rl.side_by_side import SideBySide

pytestmark = pytest.mark.equivalence


class Named(gymnasium.Env[Any, Any]):
    """Short episodes with observations in a dict, and an info now and then."""

    observation_space = spaces.Dict(count=spaces.Discrete(9), place=spaces.Box(-1, 1, (2,)))
    action_space = spaces.MultiBinary(3)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.count = 0
        return self._obs(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.count += 1
        info = {"three": 3} if self.count == 3 else {}
        return self._obs(), float(action.sum()), self.np_random.random() < 0.1, self.count == 8, info

    def _obs(self) -> Any:
        return {"count": self.count, "place": self.np_random.random(2).astype(np.float32)}


MAKERS = {
    "CartPole": lambda: gymnasium.make("CartPole-v1", max_episode_steps=20),
    "Pendulum": lambda: gymnasium.make("Pendulum-v1", max_episode_steps=7),
    "FrozenLake": lambda: gymnasium.make("FrozenLake-v1"),
    "Named": Named,
}


def flat(value: Any) -> list[np.ndarray]:
    return [each.copy() for each in value.values()] if isinstance(value, dict) else [np.array(value)]


@pytest.mark.parametrize("name", MAKERS)
def test_every_step_is_gymnasiums(name: str) -> None:
    ours, theirs = SideBySide([MAKERS[name]] * 3, copy=False), SyncVectorEnv([MAKERS[name]] * 3)
    for one, other in zip(*(flat(each.reset(seed=5)[0]) for each in (ours, theirs)), strict=True):
        np.testing.assert_array_equal(one, other)
    assert ours.metadata["autoreset_mode"] is theirs.metadata["autoreset_mode"]
    theirs.action_space.seed(1)
    ends = 0
    for _ in range(60):
        actions = theirs.action_space.sample()
        one, other = ours.step(actions), theirs.step(actions)
        for mine, expected in zip([*flat(one[0]), *one[1:4]], [*flat(other[0]), *other[1:4]], strict=True):
            np.testing.assert_array_equal(mine, expected)
            assert mine.dtype == expected.dtype
        assert one[4].keys() == other[4].keys()
        ends += int((one[2] | one[3]).sum())
    assert ends > 3


def test_numbers_that_the_space_cannot_hold_are_refused() -> None:
    class Wrong(gymnasium.Env[Any, Any]):
        observation_space = spaces.Box(0, 9, (1,), np.int64)
        action_space = spaces.Discrete(2)

        def reset(self, **_: Any) -> tuple[Any, dict[str, Any]]:
            return np.zeros(1, np.int64), {}

        def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
            return np.array([0.5]), 0.0, False, False, {}

    lanes = SideBySide([Wrong], copy=False)
    lanes.reset()
    with pytest.raises(TypeError, match="same_kind"):
        lanes.step(np.zeros(1, int))
