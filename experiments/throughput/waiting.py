"""An environment whose step costs time and no processor: it waits. Importing this module registers `Waiting-v0`."""

from __future__ import annotations

import time
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces


class Waiting(gymnasium.Env[Any, Any]):
    """Steps that take `milliseconds` each, 100 an episode; pays nothing."""

    def __init__(self, *, milliseconds: float = 1.0) -> None:
        self.observation_space, self.action_space = spaces.Box(-1, 1, (4,), np.float32), spaces.Discrete(2)
        self._seconds = milliseconds / 1000

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        return np.zeros(4, np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        time.sleep(self._seconds)
        return np.zeros(4, np.float32), 0.0, False, False, {}


gymnasium.register("Waiting-v0", entry_point=Waiting, max_episode_steps=100)
