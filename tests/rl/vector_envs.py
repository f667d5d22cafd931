"""The vectorised form of the counting environment, in every autoreset mode."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv
from gymnasium.vector.utils import batch_space

from tests.rl.envs import NUMBERS, CountingEnv, MissionEnv, ScaledEnv, Step


class CountingVectorEnv(VectorEnv[Any, Any, Any]):
    """Lanes of CountingEnv with seeds s, s+1, …; resets in the same step unless it is asked for the next one."""

    def __init__(self, num_envs: int = 1, autoreset_mode: AutoresetMode = AutoresetMode.SAME_STEP) -> None:
        self.num_envs = num_envs
        self.mode = autoreset_mode
        self.metadata = {"autoreset_mode": autoreset_mode}
        self.envs = [CountingEnv() for _ in range(num_envs)]
        self.single_observation_space, self.single_action_space = NUMBERS, CountingEnv.action_space
        self.observation_space = batch_space(NUMBERS, num_envs)
        self.action_space = batch_space(CountingEnv.action_space, num_envs)
        self.ended = np.zeros(num_envs, dtype=bool)

    def reset(self, *, seed: Any = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        seeds = [None if seed is None else seed + lane for lane in range(self.num_envs)]
        self.ended[:] = False
        return np.stack([env.reset(seed=each)[0] for env, each in zip(self.envs, seeds, strict=True)]), {}

    def step(self, actions: Any) -> Step:
        rows, final = [], np.full(self.num_envs, None, dtype=object)
        for lane, env in enumerate(self.envs):
            if self.mode is AutoresetMode.NEXT_STEP and self.ended[lane]:
                rows.append((env.reset()[0], 0, False, False))
                continue
            obs, reward, terminated, truncated, _ = env.step(actions[lane])
            if self.mode is AutoresetMode.SAME_STEP and terminated:
                final[lane] = obs
                obs = env.reset()[0]
            rows.append((obs, reward, terminated, truncated))
        obs, rewards, terminated, truncated = (np.stack(column) for column in zip(*rows, strict=True))
        self.ended = terminated | truncated
        return obs, rewards, terminated, truncated, {"final_obs": final}


class FixedModeVectorEnv(CountingVectorEnv):
    """States whatever autoreset mode it was registered with and takes no other."""

    def __init__(self, num_envs: int = 1, stated: str | None = None) -> None:
        super().__init__(num_envs, AutoresetMode.NEXT_STEP)
        self.metadata = {} if stated is None else {"autoreset_mode": AutoresetMode[stated]}


def scaled(num_envs: int = 1) -> VectorEnv[Any, Any, Any]:
    """Returns lanes of ScaledEnv."""
    return SyncVectorEnv([ScaledEnv] * num_envs)


def missions(num_envs: int = 1) -> VectorEnv[Any, Any, Any]:
    """Returns lanes of MissionEnv."""
    return SyncVectorEnv([MissionEnv] * num_envs)
