"""An environment that only shows. Importing this module registers it."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces


class Quarters(gymnasium.Env[Any, Any]):
    """One step an episode: a quarter of a small image is bright, and the action that names it pays 1."""

    observation_space = spaces.Box(0, 255, (8, 8, 1), np.uint8)
    action_space = spaces.Discrete(4)

    def _image(self) -> np.ndarray:
        self.bright = int(self.np_random.integers(4))
        shown = self.np_random.integers(0, 100, (8, 8, 1), dtype=np.uint8)
        row, column = divmod(self.bright, 2)
        shown[4 * row : 4 * row + 4, 4 * column : 4 * column + 4] += 150
        return shown

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        return self._image(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        reward = float(action == self.bright)
        return self._image(), reward, True, False, {}


gymnasium.register("Quarters-v0", entry_point=Quarters)
