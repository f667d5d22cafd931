"""Environments in which not everything is allowed. Importing this module registers them."""

from __future__ import annotations

from typing import Any, ClassVar

import gymnasium
import numpy as np
from gymnasium import spaces


class Permits(gymnasium.Env[Any, Any]):
    """Five steps an episode; allows some actions only, refuses the others loudly, and pays for the last allowed one.

    At its end it allows nothing. `where=observation` says so in the observation, `info` in `info`; `blocks` names a
    step at which nothing is allowed, `forgets` one at which nothing is said.
    """

    ACTIONS: ClassVar[dict[str, spaces.Space[Any]]] = {
        "discrete": spaces.Discrete(4, start=2),
        "several": spaces.MultiDiscrete([2, 3]),
        "bits": spaces.MultiBinary(2),
        "box": spaces.Box(-1, 1, (2,), np.float32),
    }

    def __init__(
        self, *, action: str = "discrete", where: str = "info", blocks: int = -1, forgets: int = -1, plain: bool = True
    ) -> None:
        self.action_space, self.where, self.blocks, self.forgets = self.ACTIONS[action], where, blocks, forgets
        self.counts = {"discrete": [4], "several": [2, 3], "bits": [2, 2], "box": [2]}[action]
        seen = spaces.Box(-1, 1, (2,), np.float32)
        inside = where == "observation"
        entries = {"seen": seen, **({"action_mask": spaces.MultiBinary(sum(self.counts))} if inside else {})}
        self.plain = plain and not inside
        self.observation_space = seen if self.plain else spaces.Dict(entries)

    def _told(self, *, over: bool = False) -> tuple[Any, dict[str, Any]]:
        self.masks = [self.np_random.random(count) < 0.5 for count in self.counts]
        for mask in self.masks:
            mask[self.np_random.integers(len(mask))] = True
        if over or self.time == self.blocks:
            self.masks = [np.zeros(count, bool) for count in self.counts]
        seen = self.np_random.uniform(-1, 1, 2).astype(np.float32)
        flat = np.concatenate(self.masks).astype(np.int8)
        if self.where == "observation":
            return {"seen": seen, "action_mask": flat}, {}
        given = tuple(each.astype(np.int8) for each in self.masks) if len(self.counts) > 1 else flat
        info = {} if self.time == self.forgets else {"action_mask": given}
        return (seen if self.plain else {"seen": seen}), info

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.time = 0
        return self._told()

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        choices = np.ravel(action - 2 if len(self.counts) == 1 else action)
        if any(mask.any() and not mask[choice] for mask, choice in zip(self.masks, choices, strict=True)):
            raise ValueError(f"action {action} is not allowed")
        reward = float(
            np.mean([mask[choice + 1 :].sum() == 0 for mask, choice in zip(self.masks, choices, strict=True)])
        )
        self.time += 1
        over = self.time == 5
        obs, info = self._told(over=over)
        return obs, reward, over, False, info


gymnasium.register("Permits-v0", entry_point=Permits)
