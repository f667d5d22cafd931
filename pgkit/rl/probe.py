"""A first look at an environment on a throw-away copy, so that a broken one is refused before anything is written."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium import Space
from gymnasium.envs.registration import EnvSpec

from pgkit.errors import UsageError
from pgkit.rl.registry import brief, make_environment, make_vector
from pgkit.rl.spaces import flattener, mismatch
from pgkit.rl.wrappers import Wrapper

_STEPS = 8
_SEED = 0


def probe_environment(spec: EnvSpec, kwargs: Mapping[str, Any], wrappers: Sequence[Wrapper] = ()) -> None:
    """Returns nothing; resets and steps one environment, then another inside its wrappers.

    The first has no time limit, which would hide the old API.
    Raises: UsageError, one line, naming `env.id` and what the environment did.
    """
    bare = make_environment(spec, {**kwargs, "max_episode_steps": -1})
    # What a wrapper leaves out need not be supported.
    _walk(spec.id, bare, None if wrappers else bare.observation_space)
    if wrappers:
        whole = make_environment(spec, kwargs, wrappers)
        _walk(spec.id, whole, whole.observation_space)


def _walk(id: str, env: gymnasium.Env[Any, Any], seen: Space[Any] | None) -> None:
    try:
        env.action_space.seed(_SEED)
        seed: int | None = _SEED
        ended = True
        for _ in range(_STEPS):
            if ended:
                with _inside(id, "reset"):
                    first: Any = env.reset(seed=seed)
                _look_at_reset(id, seen, first)
                seed = None
            with _inside(id, "step"):
                result: Any = env.step(env.action_space.sample())
            ended = _look_at_step(id, seen, result)
    finally:
        env.close()


def probe_vector(spec: EnvSpec, num_envs: int, kwargs: Mapping[str, Any], wrappers: Sequence[Wrapper] = ()) -> None:
    """Returns nothing; resets and steps a copy of an environment's own vectorised form.

    Raises: UsageError, one line, naming `env.id` and what the environment did.
    """
    vector = make_vector(spec, num_envs, kwargs, wrappers)
    try:
        vector.action_space.seed(_SEED)
        with _inside(spec.id, "reset"):
            results: list[Any] = [vector.reset(seed=_SEED)]
        with _inside(spec.id, "step"):
            results += [vector.step(vector.action_space.sample()) for _ in range(_STEPS)]
        for index, result in enumerate(results):
            count = 2 if index == 0 else 5
            if not isinstance(result, tuple) or len(result) != count:
                raise UsageError(f"env.id: {spec.id} returns {_shape_of(result)}, expected {count} values")
            _look_at_observation(spec.id, vector.single_observation_space, result[0], lanes=num_envs)
            if index and not np.isfinite(np.asarray(result[1], dtype=np.float64)).all():
                raise UsageError(f"env.id: {spec.id} gives rewards {result[1]}, expected finite numbers")
    finally:
        vector.close()


@contextlib.contextmanager
def _inside(id: str, name: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        raise UsageError(f"env.id: {id} raises {brief(error)} in {name}(), expected none") from error


def _look_at_reset(id: str, space: Space[Any] | None, result: Any) -> None:
    if not isinstance(result, tuple) or len(result) != 2 or not isinstance(result[1], dict):
        raise UsageError(
            f"env.id: {id} returns {_shape_of(result)} from reset(), expected (observation, info); "
            "an observation alone is the old Gym API"
        )
    _look_at_observation(id, space, result[0])


def _look_at_step(id: str, space: Space[Any] | None, result: Any) -> bool:
    """Returns whether the episode ended."""
    if not isinstance(result, tuple) or len(result) != 5:
        raise UsageError(
            f"env.id: {id} returns {_shape_of(result)} from step(), expected (observation, reward, terminated, "
            "truncated, info); 4 values are the old Gym API"
        )
    obs, reward, terminated, truncated, _ = result
    _look_at_observation(id, space, obs)
    if np.ndim(reward) != 0 or np.asarray(reward).dtype.kind not in "fiub" or not np.isfinite(reward):
        raise UsageError(f"env.id: {id} gives a reward {reward!r}, expected a finite number")
    for name, flag in (("terminated", terminated), ("truncated", truncated)):
        if not isinstance(flag, bool | np.bool_):
            raise UsageError(f"env.id: {id} gives {name} {flag!r}, expected a bool")
    return bool(terminated or truncated)


def _look_at_observation(id: str, space: Space[Any] | None, obs: Any, lanes: int | None = None) -> None:
    if space is None:
        return
    if lanes is None:
        found = mismatch(space, obs)
        if found is not None:
            raise UsageError(f"env.id: {id} gives an observation of {found}")
    flat = flattener(space)(obs)
    for array in flat.values() if isinstance(flat, dict) else (flat,):
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise UsageError(f"env.id: {id} gives an observation with values that are not finite, expected numbers")
        if lanes is not None and array.shape[:1] != (lanes,):
            raise UsageError(f"env.id: {id} gives observations of shape {array.shape}, expected {lanes} lanes")


def _shape_of(result: Any) -> str:
    return f"{len(result)} values" if isinstance(result, tuple) else f"a single {type(result).__name__}"
