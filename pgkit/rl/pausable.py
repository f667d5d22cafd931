"""One lane: an environment that can stand still and that turns its own faults into reports."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, final

import gymnasium
import numpy as np
from gymnasium.envs.registration import EnvSpec
from gymnasium.spaces import Box
from gymnasium.vector.utils import create_empty_array

from pgkit.errors import EnvironmentFault
from pgkit.rl.registry import brief, make_environment
from pgkit.rl.spaces import mismatch
from pgkit.rl.workers import follow_parent
from pgkit.rl.wrappers import Wrapper

FAULT = "pgkit_fault"
"""The key of `info` under which a fault travels: an exception would stop a worker and lose its message on the way."""


def show_action(action: Any) -> str:
    """Returns an action on one line; long ones are abridged."""
    return " ".join(np.array2string(np.asarray(action), threshold=12, precision=4).split())


@final
class Pausable(gymnasium.Wrapper[Any, Any, Any, Any]):
    """An environment whose `step` does nothing while `paused`, and whose `info` carries nothing but a fault.

    A reset goes through even while paused, so that the autoreset that follows an end is still done, once. Under a
    `start_seed` every episode has a seed of its own that follows from it and the episode's number alone. The `info`
    of the environment is dropped here: nothing downstream reads it, and batching it costs more than many a step.
    """

    def __init__(self, env: gymnasium.Env[Any, Any], *, lane: int) -> None:
        super().__init__(env)
        self.paused = False
        self.start_seed: int | None = None
        self._step = env.step
        self._space = env.observation_space
        # Arrays of a Box are compared in place, by shape; all else goes through `mismatch`. Their dtype is looked at in
        # every reset: in between, what cannot be cast to that of the space fails where the lanes are put together.
        self._shape = self._space.shape if isinstance(self._space, Box) else False
        self._lane = lane
        self._seed: int | None = None
        self._episode = 0
        self._count = 0
        self._before = 0
        self._last: Any = None

    def step(self, action: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        if self.paused:
            return self._last, 0.0, False, False, {}
        self._count += 1
        try:
            obs, reward, terminated, truncated, _ = self._step(action)
            if obs.__class__ is not np.ndarray or obs.shape != self._shape:
                self._check(obs)
            reward = float(reward)
        except Exception as error:
            return self._last, 0.0, False, False, {FAULT: self._fault(f", action {show_action(action)}", error)}
        self._last = obs
        return obs, reward, terminated, truncated, {}

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        if seed is not None:
            self._seed, self._episode, self._before, self._count = seed, 0, 0, 0
        self._before += self._count
        self._episode += 1
        self._count = 0
        if seed is None and self.start_seed is not None:
            seed = int(np.random.SeedSequence((self.start_seed, self._episode)).generate_state(1)[0])
        try:
            obs, _ = self.env.reset(seed=seed, options=options)
            self._check(obs)
        except Exception as error:
            placeholder = create_empty_array(self._space, n=1, fn=np.zeros)
            return _first(placeholder), {FAULT: self._fault(", in reset", error)}
        self._last = obs
        return obs, {}

    def where(self) -> str:
        """Returns how to find this moment again: lane, seed, step since the seed was set, episode."""
        return (
            f"lane {self._lane}, seed {self._seed}, step {self._before + self._count} "
            f"(episode {self._episode}, its step {self._count})"
        )

    def misfit(self) -> str | None:
        """Returns what is wrong with the last observation, if anything."""
        return mismatch(self._space, self._last)

    def _check(self, obs: Any) -> None:
        found = mismatch(self._space, obs)
        if found is not None:
            raise EnvironmentFault(f"observation: {found}")

    def _fault(self, doing: str, error: Exception) -> EnvironmentFault:
        cause = str(error) if isinstance(error, EnvironmentFault) else brief(error)
        fault = EnvironmentFault(f"{self.where()}{doing}: {cause}")
        fault.__cause__ = error
        return fault


@final
@dataclass(frozen=True, kw_only=True)
class LaneMaker:
    """Makes one lane, here or in a worker process; what it holds can be sent there."""

    spec: EnvSpec
    kwargs: Mapping[str, Any]
    lane: int
    wrappers: Sequence[Wrapper] = ()
    owner: int = field(default_factory=os.getpid)

    def __call__(self) -> Pausable:
        if os.getpid() != self.owner:
            follow_parent()
        return Pausable(make_environment(self.spec, self.kwargs, self.wrappers), lane=self.lane)


def _first(batch: Any) -> Any:
    """Returns row 0 of a batch of any structure."""
    if isinstance(batch, dict):
        return {key: _first(value) for key, value in batch.items()}
    if isinstance(batch, tuple):
        return tuple(_first(value) for value in batch)
    return batch[0]
