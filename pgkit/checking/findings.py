"""What a check found, and the walks through an environment that it is found on."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, final

import gymnasium
import numpy as np
from gymnasium import Space
from gymnasium.spaces import Box, Dict, Tuple

from pgkit.rl.pausable import show_action
from pgkit.rl.registry import brief
from pgkit.rl.spaces import mismatch

Result = Literal["ok", "warning", "failed", "skipped"]
Step = tuple[Any, float, bool, bool]
PATIENCE = 20.0
"""Seconds after which a walk through a slow environment is cut short."""


@final
@dataclass(frozen=True, kw_only=True)
class Finding:
    """What came of one check: `detail` is what was seen and, where it is not well, what to do."""

    check: str
    result: Result
    detail: str


@final
@dataclass(kw_only=True)
class Walk:
    """Episodes of random actions: what they paid, how they ended, and the first thing that was wrong."""

    rewards: list[float] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)
    flags: list[tuple[bool, bool]] = field(default_factory=list)
    outside: int = 0
    observation_fault: str = ""
    reward_fault: str = ""
    exception: str = ""

    @property
    def is_whole(self) -> bool:
        """Whether nothing stopped it."""
        return not (self.observation_fault or self.reward_fault or self.exception)


def actions_of(space: Space[Any], count: int, seed: int) -> list[Any]:
    """Returns random actions, the same for the same seed."""
    space.seed(seed)
    return [space.sample() for _ in range(count)]


def walked(env: gymnasium.Env[Any, Any], *, steps: int, seed: int) -> Walk:
    """Returns a walk of `steps` steps, fewer where something goes wrong or time runs out; the last episode is cut."""
    walk, space = Walk(), env.observation_space
    begun, length, doing = time.perf_counter(), 0, "in reset"
    try:
        obs, _ = env.reset(seed=seed)
        _look(walk, space, obs, doing)
        for index, action in enumerate(actions_of(env.action_space, steps, seed)):
            if not walk.is_whole or time.perf_counter() - begun > PATIENCE:
                break
            doing = f"at step {index + 1}, action {show_action(action)}"
            answer: Any = env.step(action)
            obs, reward, terminated, truncated, _ = answer
            length += 1
            _look(walk, space, obs, doing)
            for flag in (terminated, truncated):
                if not isinstance(flag, bool | np.bool_):
                    walk.exception = f"an end {flag!r} {doing}, expected a bool"
            if np.ndim(reward) or np.asarray(reward).dtype.kind not in "fiub" or not np.isfinite(reward):
                walk.reward_fault = f"{reward!r} {doing}, expected a finite number"
                break
            walk.rewards.append(float(reward))
            if terminated or truncated:
                walk.lengths.append(length)
                walk.flags.append((bool(terminated), bool(truncated)))
                length, doing = 0, f"in reset after step {index + 1}"
                obs, _ = env.reset()
                _look(walk, space, obs, doing)
        if walk.is_whole:
            doing = "in a reset in the middle of an episode"
            _look(walk, space, env.reset()[0], doing)
    except Exception as error:  # the environment's own
        walk.exception = f"{brief(error)} {doing}"
    return walk


def trace(env: gymnasium.Env[Any, Any], seed: int, actions: Sequence[Any]) -> list[Step]:
    """Returns what an environment answers to these actions after a reset with this seed, episode after episode."""
    steps: list[Step] = [(_copied(env.reset(seed=seed)[0]), 0.0, False, False)]
    for action in actions:
        steps += _answer(env, action)
    return steps


def side_by_side(envs: Sequence[gymnasium.Env[Any, Any]], seed: int, actions: Sequence[Any]) -> list[list[Step]]:
    """Returns the traces of several environments that take turns."""
    traces: list[list[Step]] = [[(_copied(env.reset(seed=seed)[0]), 0.0, False, False)] for env in envs]
    for action in actions:
        for env, steps in zip(envs, traces, strict=True):
            steps += _answer(env, action)
    return traces


def first_difference(one: Sequence[Step], other: Sequence[Step]) -> int | None:
    """Returns the index of the first entry in which two traces differ, None where they are equal."""
    for index, (a, b) in enumerate(zip(one, other, strict=False)):
        try:
            np.testing.assert_equal(a, b)
        except AssertionError:
            return index
    return None if len(one) == len(other) else min(len(one), len(other))


def _answer(env: gymnasium.Env[Any, Any], action: Any) -> list[Step]:
    obs, reward, terminated, truncated, _ = env.step(action)
    steps: list[Step] = [(_copied(obs), float(reward), bool(terminated), bool(truncated))]
    if terminated or truncated:
        steps.append((_copied(env.reset()[0]), 0.0, False, False))
    return steps


def _copied(obs: Any) -> Any:
    """Returns an observation that a later step cannot change."""
    if isinstance(obs, dict):
        return {key: _copied(value) for key, value in obs.items()}
    if isinstance(obs, tuple):
        return tuple(_copied(value) for value in obs)
    return np.array(obs)


def _look(walk: Walk, space: Space[Any], obs: Any, doing: str) -> None:
    found = mismatch(space, obs) or _not_finite(obs)
    if found is not None and not walk.observation_fault:
        walk.observation_fault = f"{found} {doing}"
    elif found is None:
        walk.outside += _is_outside(space, obs)


def _not_finite(obs: Any) -> str | None:
    if isinstance(obs, dict | tuple):
        inner = obs.values() if isinstance(obs, dict) else obs
        return next((found for each in inner if (found := _not_finite(each))), None)
    array = np.asarray(obs)
    return "values that are not finite" if array.dtype.kind == "f" and not np.isfinite(array).all() else None


def _is_outside(space: Space[Any], obs: Any) -> bool:
    if isinstance(space, Dict):
        return any(_is_outside(inner, obs[key]) for key, inner in space.items())
    if isinstance(space, Tuple):
        return any(_is_outside(inner, each) for inner, each in zip(space.spaces, obs, strict=True))
    return isinstance(space, Box) and bool(((obs < space.low) | (obs > space.high)).any())
