"""Environments that are wrong, or odd, in one way each; importing this module registers them."""

from __future__ import annotations

from typing import Any, ClassVar

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode

from tests.rl.envs import CountingEnv, OneStepEnv, Step
from tests.rl.vector_envs import CountingVectorEnv, FixedModeVectorEnv

WALK = spaces.Box(-1, 1, (1,), np.float32)


class SoundEnv(gymnasium.Env[Any, Any]):
    """A random walk that ends when it leaves the middle; nothing is wrong with it."""

    observation_space: spaces.Space[Any] = WALK
    action_space: spaces.Space[Any] = spaces.Discrete(2)
    scale = 1.0

    def draw(self) -> float:
        return float(self.np_random.uniform(-0.2, 0.2))

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.place = self.draw()
        return self.seen(), {}

    def seen(self) -> Any:
        return np.array([self.place], np.float32)

    def step(self, action: Any) -> Any:
        self.place += 0.1 * (2 * int(action) - 1) + self.draw()
        return self.seen(), self.scale, abs(self.place) > 0.7, False, {}


class UnseededEnv(SoundEnv):
    """Draws from a generator that no seed reaches."""

    generator: ClassVar[np.random.Generator] = np.random.default_rng()

    def draw(self) -> float:
        return float(UnseededEnv.generator.uniform(-0.2, 0.2))


class FixedEnv(SoundEnv):
    """Draws nothing."""

    def draw(self) -> float:
        return 0.0


class SharedEnv(SoundEnv):
    """Keeps where it is in its class."""

    state: ClassVar[dict[str, float]] = {}

    @property
    def place(self) -> float:
        return SharedEnv.state["place"]

    @place.setter
    def place(self, value: float) -> None:
        SharedEnv.state["place"] = value


class RichEnv(SoundEnv):
    """Pays a million a step."""

    scale = 1e6


class PoorEnv(SoundEnv):
    """Pays a millionth a step."""

    scale = 1e-6


class IdleEnv(SoundEnv):
    """Pays nothing."""

    scale = 0.0


class OutsideEnv(SoundEnv):
    """Leaves its bounds."""

    def seen(self) -> Any:
        return np.array([9.0], np.float32)


class UnboundedEnv(SoundEnv):
    """Takes any number."""

    action_space = spaces.Box(-np.inf, np.inf, (), np.float32)

    def step(self, action: Any) -> Any:
        return super().step(action > 0)


class ClockEnv(SoundEnv):
    """Says that it is terminated when its time is up."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        self.time = 0
        return super().reset(seed=seed)

    def step(self, action: Any) -> Any:
        self.time += 1
        self.place = 0.5 * self.draw()
        return self.seen(), 1.0, self.time == 20, False, {}


class LyingVectorEnv(CountingVectorEnv):
    """States NEXT_STEP and begins the next episode in the same step."""

    def __init__(self, num_envs: int = 1) -> None:
        super().__init__(num_envs, AutoresetMode.SAME_STEP)
        self.metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP}


class SameStepVectorEnv(FixedModeVectorEnv):
    """Resets in the same step and takes no other mode."""

    def __init__(self, num_envs: int = 1) -> None:
        super().__init__(num_envs, "SAME_STEP")


class SilentVectorEnv(FixedModeVectorEnv):
    """Does not say how it resets."""

    def __init__(self, num_envs: int = 1) -> None:
        super().__init__(num_envs)


class UnseededVectorEnv(CountingVectorEnv):
    """Gives observations that no seed reaches."""

    def __init__(self, num_envs: int = 1, kind: str = "random") -> None:
        super().__init__(num_envs, AutoresetMode.NEXT_STEP)
        self.kind, self.generator = kind, np.random.default_rng()

    def _changed(self, obs: Any) -> Any:
        if self.kind == "random":
            return obs + self.generator.normal(size=obs.shape).astype(np.float32)
        return np.zeros_like(obs) if self.kind == "fixed" else np.broadcast_to(obs[:1], obs.shape).copy()

    def reset(self, *, seed: Any = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        obs, info = super().reset(seed=seed)
        return self._changed(obs), info

    def step(self, actions: Any) -> Step:
        obs, rewards, terminated, truncated, info = super().step(np.zeros_like(actions))
        return self._changed(obs), 0 * rewards, 0 * terminated > 0, 0 * truncated > 0, info


class FloatingVectorEnv(CountingVectorEnv):
    """Gives rewards that are not finite."""

    def __init__(self, num_envs: int = 1) -> None:
        super().__init__(num_envs, AutoresetMode.NEXT_STEP)

    def step(self, actions: Any) -> Step:
        obs, rewards, *rest = super().step(actions)
        return obs, rewards * np.nan, *rest  # type: ignore[return-value]  # of five


for _kind in (
    SoundEnv, UnseededEnv, FixedEnv, SharedEnv, RichEnv, PoorEnv, IdleEnv, OutsideEnv, UnboundedEnv, ClockEnv
):  # fmt: skip
    gymnasium.register(f"{_kind.__name__.removesuffix('Env')}-v0", entry_point=_kind)
gymnasium.register("SoundLimited-v0", entry_point=FixedEnv, max_episode_steps=5)
for _name, _vector in {
    "SameStepOnly": SameStepVectorEnv,
    "Silent": SilentVectorEnv,
    "Lying": LyingVectorEnv,
    "UnseededLanes": UnseededVectorEnv,
    "Floating": FloatingVectorEnv,
}.items():
    gymnasium.register(f"{_name}-v0", entry_point=CountingEnv, vector_entry_point=_vector)
for _word in ("fixed", "alike"):
    gymnasium.register(f"Lanes{_word.title()}-v0", vector_entry_point=UnseededVectorEnv, kwargs={"kind": _word})
gymnasium.register("Bandit-v1", entry_point=OneStepEnv)
