"""EnvPool's environments, `envpool/CartPole-v1` and the like: lanes in C++ threads, in one form alone."""

from __future__ import annotations

import contextlib
import importlib
import warnings
from collections.abc import Iterator, Mapping
from typing import Any, final

import numpy as np
from gymnasium import error as gym_error
from gymnasium.envs.registration import EnvSpec
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from pgkit.errors import UsageError, did_you_mean

PREFIX = "envpool/"
_LARGEST_SEED = 2**31 - 1


@final
class Pool(VectorEnv[Any, Any, Any]):
    """The lanes of one EnvPool task; EnvPool takes a seed when it is made alone, so a seeded reset makes it anew.

    `options` are EnvPool's own keywords of the task. It resets in NEXT_STEP mode.
    """

    metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP}  # noqa: RUF012  (as Gymnasium declares it)

    def __init__(
        self,
        *,
        task: str,
        num_envs: int = 1,
        num_threads: int = 0,
        max_episode_steps: int | None = None,
        options: Mapping[str, Any] = {},
    ) -> None:
        limit = {} if max_episode_steps is None else {"max_episode_steps": max_episode_steps}
        self._task, self._options = task, {**options, **limit, "num_threads": num_threads}
        self.num_envs = num_envs
        with _quiet():
            self._pool = self._made(0)
            self.single_observation_space = self._pool.observation_space
            self.single_action_space = self._pool.action_space
            self.observation_space = batch_space(self.single_observation_space, num_envs)
            self.action_space = batch_space(self.single_action_space, num_envs)

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        with _quiet():
            if seed is not None:
                self._pool.close()
                self._pool = self._made(int(seed) % _LARGEST_SEED)
            return self._pool.reset()[0], {}

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        taken = np.asarray(actions, dtype=self.single_action_space.dtype)
        return (*self._pool.step(taken)[:4], {})

    def close_extras(self, **_: Any) -> None:
        self._pool.close()

    def _made(self, seed: int) -> Any:
        envpool = importlib.import_module("envpool")
        return envpool.make_gymnasium(self._task, num_envs=self.num_envs, seed=seed, **self._options)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Lets no warning through of bounds that are cast to another precision."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*precision lowered by casting.*")
        yield


def find_pool(id: str) -> EnvSpec:
    """Returns the specification of an EnvPool task; EnvPool itself must be there.

    Raises: UsageError naming near matches.
    """
    envpool, task = importlib.import_module("envpool"), id.removeprefix(PREFIX)
    known = envpool.list_all_envs()
    if task not in known:
        raise UsageError(f"env.id: {id}, expected a task of EnvPool{did_you_mean(task, known)}")
    try:
        with _quiet():
            config = envpool.make_spec(task).config
    except Exception as error:
        raise UsageError(f"env.id: {id}, expected a task that EnvPool can make ({error})") from error
    try:
        return EnvSpec(
            id,
            vector_entry_point=f"{__name__}:Pool",
            kwargs={"task": task},
            max_episode_steps=_limit(config),
            reward_threshold=getattr(config, "reward_threshold", None),
        )
    except gym_error.Error as error:
        raise UsageError(f"env.id: {id}, expected a name that Gymnasium accepts ({error})") from error


def _limit(config: Any) -> int | None:
    limit = getattr(config, "max_episode_steps", None)
    return limit if isinstance(limit, int) and limit < _LARGEST_SEED else None
