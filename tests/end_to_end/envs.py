"""Small environments for whole runs: bandits with a known answer, tasks of a known shape, and one that is counted.

Importing this module registers them, so `tests.end_to_end.envs:Bandit-v0` is an id that works anywhere.
"""

from __future__ import annotations

from typing import Any, ClassVar

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.envs.classic_control.cartpole import CartPoleEnv, CartPoleVectorEnv

Step = tuple[Any, Any, bool, bool, dict[str, Any]]
SEEN = spaces.Box(-1, 1, (2,), np.float32)


class Bandit(gymnasium.Env[Any, Any]):
    """One step an episode; of the actions -1, 0 and 1 only -1 pays."""

    observation_space: spaces.Space[Any] = SEEN
    action_space: spaces.Space[Any] = spaces.Discrete(3, start=-1)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        return np.ones(2, np.float32), {}

    def step(self, action: Any) -> Step:
        assert self.action_space.contains(action), action
        return np.zeros(2, np.float32), float(action == -1), True, False, {}


class ContinuousBandit(Bandit):
    """One step an episode; pays most at (0.5, -0.25)."""

    action_space = spaces.Box(-2, 2, (2,), np.float32)

    def step(self, action: Any) -> Step:
        assert self.action_space.contains(action), action
        reward = -float(np.square(action - np.array([0.5, -0.25])).sum())
        return np.zeros(2, np.float32), reward, True, False, {}


class Constant(gymnasium.Env[Any, Any]):
    """Five steps an episode, each of which pays 1 whatever is done; observes a random number and the time."""

    observation_space = spaces.Box(-10, 10, (2,), np.float32)
    action_space = spaces.Discrete(2)

    def _obs(self) -> np.ndarray:
        return np.array([self.np_random.normal(), self.time], np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.time = 0
        return self._obs(), {}

    def step(self, action: Any) -> Step:
        self.time += 1
        return self._obs(), 1, self.time == 5, False, {}


class Shapes(gymnasium.Env[Any, Any]):
    """Three steps an episode, with observations and actions drawn from the spaces that its keywords name."""

    OBSERVATIONS: ClassVar[dict[str, spaces.Space[Any]]] = {
        "dict": spaces.Dict({"near": spaces.Box(-1, 1, (2, 2), np.float32), "kind": spaces.Discrete(3, start=4)}),
        "tuple": spaces.Tuple((spaces.Discrete(3), spaces.MultiDiscrete([2, 4]), spaces.MultiBinary(2))),
        "discrete": spaces.Discrete(5, start=-2),
        "image": spaces.Box(0, 255, (4, 4, 3), np.uint8),
        "double": spaces.Box(-1, 1, (3,), np.float64),
        "scalar": spaces.Box(-1, 1, (), np.float32),
    }
    ACTIONS: ClassVar[dict[str, spaces.Space[Any]]] = {
        "discrete": spaces.Discrete(3, start=7),
        "half_infinite": spaces.Box(np.array([0, -np.inf], np.float32), np.array([np.inf, 1], np.float32)),
        "infinite": spaces.Box(-np.inf, np.inf, (2, 2), np.float64),
        "unequal": spaces.Box(np.array([-1, 0], np.float32), np.array([0.5, 9], np.float32)),
        "scalar": spaces.Box(-1, 1, (), np.float32),
        "several": spaces.MultiDiscrete([2, 3], start=[0, 4]),
        "bits": spaces.MultiBinary(3),
    }

    def __init__(self, observation: str = "double", action: str = "discrete") -> None:
        self.observation_space = self.OBSERVATIONS[observation]
        self.action_space = self.ACTIONS[action]

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.observation_space.seed(seed)
        self.time = 0
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> Step:
        box = isinstance(self.action_space, spaces.Box)
        assert self.action_space.contains(np.asarray(action) if box else action), action
        self.time += 1
        return self.observation_space.sample(), float(np.sum(action)), False, self.time == 3, {}


class Counted(CartPoleEnv):
    """CartPole that counts, over all copies, the transitions that were made."""

    transitions: ClassVar[int] = 0

    def step(self, action: Any) -> Any:
        Counted.transitions += 1
        return super().step(action)


class CountedVector(CartPoleVectorEnv):
    """The vectorised form, whose lanes that begin an episode make no transition."""

    def step(self, action: Any) -> Any:
        Counted.transitions += int((~self.prev_done).sum())
        return super().step(action)


gymnasium.register("Bandit-v0", entry_point=f"{__name__}:Bandit")
gymnasium.register("ContinuousBandit-v0", entry_point=f"{__name__}:ContinuousBandit")
gymnasium.register("Constant-v0", entry_point=f"{__name__}:Constant")
gymnasium.register("Shapes-v0", entry_point=f"{__name__}:Shapes")
gymnasium.register(
    "Counted-v0",
    entry_point=f"{__name__}:Counted",
    vector_entry_point=f"{__name__}:CountedVector",
    max_episode_steps=500,
)
