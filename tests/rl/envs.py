"""Toy environments whose every number can be told beforehand, and environments that break their contract on demand.

Importing this module registers them, so `tests.rl.envs:Counting-v0` is an id that works in worker processes too.
"""

from __future__ import annotations

import os
import time
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

Step = tuple[Any, Any, Any, Any, dict[str, Any]]
NUMBERS = spaces.Box(-np.inf, np.inf, (4,), np.float32)


def toy(name: str) -> str:
    """Returns the id of a toy environment, in the form that imports this module first."""
    return f"tests.rl.envs:{name}-v0"


def length_of(seed: int) -> int:
    """Returns how long the episodes of a lane with this seed are: 2, 3 or 4 steps."""
    return 2 + seed % 3


class CountingEnv(gymnasium.Env[Any, Any]):
    """Observes [seed, episode, step, last action]; the reward is 10 * step + action; ends after `length_of(seed)`."""

    observation_space = NUMBERS
    action_space = spaces.Discrete(5)

    def __init__(self, truncates: bool = False) -> None:
        self.truncates = truncates
        self.seed, self.episode, self.count, self.action = 0, 0, 0, 0

    def _obs(self) -> np.ndarray:
        return np.array([self.seed, self.episode, self.count, self.action], dtype=np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        if seed is not None:
            self.seed, self.episode = seed, 0
        self.episode += 1
        self.count = self.action = 0
        return self._obs(), {}

    def step(self, action: Any) -> Step:
        self.count += 1
        self.action = int(action)
        ended = self.count >= length_of(self.seed)
        reward = 10 * self.count + self.action
        return self._obs(), reward, ended and not self.truncates, ended and self.truncates, {"noise": object()}


class FaultyEnv(CountingEnv):
    """A CountingEnv of endless episodes that breaks in the way `fault` names at step `at` of lanes with seed `seed`."""

    def __init__(self, fault: str = "", at: int = 20, only: int | None = None) -> None:
        super().__init__()
        self.fault, self.at, self.only = fault, at, only

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        obs, info = super().reset(seed=seed)
        if self.fault == "raise_in_reset" and self._due(self.episode):
            raise RuntimeError("the robot\nfell off the table")
        if self.fault == "float64_in_reset" and self._due(self.episode):
            obs = obs.astype(np.float64)
        return obs, info

    def _due(self, count: int) -> bool:
        return count == self.at and self.only in (None, self.seed)

    def step(self, action: Any) -> Step:
        obs, reward, _, _, info = super().step(action)
        ended = False
        if self._due(self.count):
            match self.fault:
                case "raise":
                    raise ZeroDivisionError("division by zero")
                case "raise_in_reset" | "float64_in_reset":
                    ended = True
                case "nan_observation":
                    obs[2] = np.nan
                case "inf_observation":
                    obs[2] = np.inf
                case "huge":
                    obs[2] = 1e30
                case "nan_reward":
                    reward = np.nan
                case "text_reward":
                    reward = "many"
                case "longer":
                    obs = np.concatenate([obs, obs])
                case "shorter":
                    obs = obs[:1]
                case "turned":
                    obs = obs.reshape(2, 2)
                case "list":
                    obs = list(obs)
                case "float64":
                    obs = obs.astype(np.float64)
                case "text":
                    obs = np.array(["a", "b", "c", "d"])
                case "four_values":
                    return obs, reward, False, {}  # type: ignore[return-value]
                case "flag":
                    return obs, reward, "no", False, info
                case "hang":
                    time.sleep(600)
                case "die":
                    os._exit(3)
        return obs, reward, ended, False, info


class OldApiEnv(CountingEnv):
    """Returns an observation alone from reset and four values from step, as Gym did before 0.26."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        return super().reset(seed=seed)[0]

    def step(self, action: Any) -> Any:
        obs, reward, terminated, truncated, info = super().step(action)
        return obs, reward, terminated or truncated, info


class EndlessEnv(CountingEnv):
    """Never ends."""

    def step(self, action: Any) -> Step:
        obs, reward, _, _, info = super().step(action)
        return obs, reward, False, False, info


class OneStepEnv(CountingEnv):
    """Ends at its first step."""

    def step(self, action: Any) -> Step:
        obs, reward, _, _, info = super().step(action)
        return obs, reward, True, False, info


class TwoFlagsEnv(CountingEnv):
    """Sets both flags at its third step."""

    def step(self, action: Any) -> Step:
        obs, reward, _, _, info = super().step(action)
        return obs, reward, self.count == 3, self.count == 3, info


class OffsetEnv(CountingEnv):
    """A bandit with actions -1, 0 and 1 of which only -1 pays."""

    action_space = spaces.Discrete(3, start=-1)

    def step(self, action: Any) -> Step:
        assert self.action_space.contains(action), action
        obs, _, _, _, info = super().step(action)
        return obs, float(action == -1), True, False, info


class NestedEnv(CountingEnv):
    """The counts of CountingEnv in a Dict with a Tuple inside."""

    observation_space = spaces.Dict(
        {
            "seed": spaces.Box(0, 1000, (1, 1), np.uint16),
            "pair": spaces.Tuple((spaces.Discrete(100), spaces.MultiDiscrete([100, 5]))),
            "bits": spaces.MultiBinary(2),
        }
    )

    def _obs(self) -> Any:
        return {
            "seed": np.array([[self.seed]], dtype=np.uint16),
            "pair": (self.episode, np.array([self.count, self.action])),
            "bits": np.array([1, 0], dtype=np.int8),
        }


class SpacesEnv(CountingEnv):
    """Has the spaces that its keywords name."""

    KINDS: dict[str, spaces.Space[Any]] = {  # noqa: RUF012
        "Text": spaces.Text(5),
        "Graph": spaces.Graph(spaces.Discrete(2), None),
        "Sequence": spaces.Sequence(spaces.Discrete(2)),
        "OneOf": spaces.OneOf((spaces.Discrete(2), spaces.Discrete(3))),
        "DictOfText": spaces.Dict({"mission": spaces.Text(5)}),
        "MultiDiscrete": spaces.MultiDiscrete([2, 3]),
        "MultiBinary": spaces.MultiBinary(3),
        "Dict": spaces.Dict({"a": spaces.Discrete(2)}),
        "Tuple": spaces.Tuple((spaces.Discrete(2),)),
        "Empty": spaces.Dict({}),
        "Twins": spaces.Dict({"a/b": spaces.Discrete(2), "a": spaces.Dict({"b": spaces.Discrete(2)})}),
        "Infinite": spaces.Box(-np.inf, np.inf, (2,), np.float64),
        "Image": spaces.Box(0, 255, (2, 2, 3), np.uint8),
        "HalfInfinite": spaces.Box(np.array([0, -np.inf], np.float32), np.array([np.inf, 1], np.float32)),
    }

    def __init__(self, observation: str = "", action: str = "") -> None:
        super().__init__()
        self.observation_space = self.KINDS.get(observation, self.observation_space)
        self.action_space = self.KINDS.get(action, self.action_space)

    def _obs(self) -> Any:
        space = self.observation_space
        return np.zeros(space.shape or (), dtype=space.dtype)

    def step(self, action: Any) -> Step:
        assert self.action_space.contains(action), action
        return super().step(0)


class ScaledEnv(CountingEnv):
    """Never ends and pays the action, from -5 to 5."""

    action_space = spaces.Box(-5, 5, (1,), np.float32)

    def step(self, action: Any) -> Step:
        obs, _, _, _, info = super().step(0)
        return obs, float(action[0]), False, False, info


class MissionEnv(CountingEnv):
    """Observes two numbers and a line of text; never ends."""

    observation_space = spaces.Dict({"mission": spaces.Text(9), "seen": spaces.Box(-1, 1, (2,), np.float32)})

    def _obs(self) -> Any:
        return {"mission": "go", "seen": np.zeros(2, np.float32)}

    def step(self, action: Any) -> Step:
        obs, reward, _, _, info = super().step(action)
        return obs, reward, False, False, info


class WideEnv(CountingEnv):
    """Has a vectorised form of other observations than its own."""

    observation_space = spaces.Box(-1, 1, (7,), np.float32)

    def _obs(self) -> np.ndarray:
        return np.zeros(7, np.float32)


for _name, _class in {
    "Counting": "CountingEnv",
    "Faulty": "FaultyEnv",
    "OldApi": "OldApiEnv",
    "Endless": "EndlessEnv",
    "OneStep": "OneStepEnv",
    "TwoFlags": "TwoFlagsEnv",
    "Offset": "OffsetEnv",
    "Nested": "NestedEnv",
    "Spaces": "SpacesEnv",
}.items():
    gymnasium.register(f"{_name}-v0", entry_point=f"tests.rl.envs:{_class}")
gymnasium.register("Limited-v0", entry_point="tests.rl.envs:EndlessEnv", max_episode_steps=4, reward_threshold=7.0)
gymnasium.register(
    "SameStep-v0", entry_point="tests.rl.envs:CountingEnv", vector_entry_point="tests.rl.vector_envs:CountingVectorEnv"
)
for _mode in ("SAME_STEP", "DISABLED", None):
    gymnasium.register(
        f"Only{_mode}-v0",
        entry_point="tests.rl.envs:CountingEnv",
        vector_entry_point="tests.rl.vector_envs:FixedModeVectorEnv",
        kwargs={} if _mode is None else {"stated": _mode},
    )
for _name, _entry, _vector in (
    ("Scaled", "ScaledEnv", "scaled"),
    ("Mission", "MissionEnv", "missions"),
    ("OtherSpaces", "WideEnv", "CountingVectorEnv"),
):
    gymnasium.register(
        f"{_name}-v0", entry_point=f"tests.rl.envs:{_entry}", vector_entry_point=f"tests.rl.vector_envs:{_vector}"
    )
gymnasium.register("VectorOnly-v0", vector_entry_point="tests.rl.vector_envs:CountingVectorEnv")
