"""The checks of an environment's own vectorised form."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from gymnasium.vector import VectorEnv

from pgkit.checking.findings import Finding, Result, Step, actions_of, first_difference
from pgkit.errors import UsageError
from pgkit.rl.forms import Blueprint, check_spaces
from pgkit.rl.probe import probe_vector
from pgkit.rl.registry import brief
from pgkit.rl.wrappers import without_vector_form

_TRACED = 60
CHECKS = ("vector form", "autoreset", "vector seeding")


def examine_vector(plan: Blueprint, *, num_envs: int, steps: int, seed: int) -> Iterator[Finding]:
    """Yields a finding for each check; of an environment without such a form, nothing."""
    if not plan.has_vector:
        return
    lone = without_vector_form(plan.wrappers)
    form, *rest = CHECKS
    if lone:
        yield Finding(check=form, result="skipped", detail=f"{lone} cannot wrap it")
        return
    try:
        vector = plan.vector(num_envs)
    except UsageError as error:
        # Where there is a single form too, the environment can be used nevertheless.
        result: Result = "warning" if plan.has_single else "failed"
        yield Finding(check=form, result=result, detail=_without_key(error))
        yield from (Finding(check=check, result="skipped", detail="see above") for check in rest)
        return
    try:
        first = _form(plan, vector, num_envs)
        yield first
        if first.result == "failed":
            yield from (Finding(check=check, result="skipped", detail="see above") for check in rest)
            return
        yield _autoreset(vector, steps, seed)
        yield _seeding(vector, seed)
    except Exception as error:  # the environment's own
        yield Finding(check=form, result="failed", detail=brief(error))
    finally:
        vector.close()


def _form(plan: Blueprint, vector: VectorEnv[Any, Any, Any], num_envs: int) -> Finding:
    check = CHECKS[0]
    seen, acts = vector.single_observation_space, vector.single_action_space
    try:
        check_spaces(seen, acts)
        probe_vector(plan.spec, num_envs, plan.kwargs, plan.wrappers)
    except UsageError as error:
        return Finding(check=check, result="failed", detail=_without_key(error))
    if plan.has_single:
        one = plan.single()
        one.close()
        if (seen, acts) != (one.observation_space, one.action_space):
            detail = f"sees {seen.shape} and acts {acts}, the single one {one.observation_space.shape} and "
            detail += f"{one.action_space}: env.vectorization=auto takes sync"
            return Finding(check=check, result="warning", detail=detail)
    return Finding(check=check, result="ok", detail=f"{num_envs} lanes of the shapes promised")


def _autoreset(vector: VectorEnv[Any, Any, Any], steps: int, seed: int) -> Finding:
    """Returns whether the row after an end is one on which nothing happens but the reset."""
    check = CHECKS[1]
    vector.reset(seed=seed)
    ended, ends = np.zeros(vector.num_envs, bool), 0
    for action in actions_of(vector.action_space, steps, seed):
        _, rewards, terminated, truncated, _ = vector.step(action)
        rewards, done = np.asarray(rewards, dtype=np.float64), np.asarray(terminated) | np.asarray(truncated)
        wrong = ended & ((rewards != 0) | done)
        if wrong.any():
            lane = int(np.flatnonzero(wrong)[0])
            detail = (
                f"NEXT_STEP is stated, but the row after an end on lane {lane} has reward {rewards[lane]:g} and "
                f"{'another' if done[lane] else 'no'} end, expected a reset with reward 0"
            )
            return Finding(check=check, result="failed", detail=detail)
        ends, ended = ends + int(done.sum()), done
    if not ends:
        return Finding(check=check, result="skipped", detail=f"no end in {steps} steps of {vector.num_envs} lanes")
    return Finding(check=check, result="ok", detail=f"NEXT_STEP, as {ends} ends show")


def _seeding(vector: VectorEnv[Any, Any, Any], seed: int) -> Finding:
    check = CHECKS[2]
    actions = actions_of(vector.action_space, _TRACED, seed)
    first, again, other = (_trace(vector, each, actions) for each in (seed, seed, seed + 1))
    differs = first_difference(first, again)
    if differs is not None:
        detail = f"seed {seed} twice gives other episodes from step {differs} on: runs cannot be repeated"
        return Finding(check=check, result="warning", detail=detail)
    if first_difference(first, other) is None:
        detail = f"seeds {seed} and {seed + 1} give the same {_TRACED} steps: well where nothing in it is random"
        return Finding(check=check, result="warning", detail=detail)
    if vector.num_envs > 1 and _alike(first[0][0]):
        detail = "every lane begins alike, though seeds differ: lanes that repeat each other teach nothing"
        return Finding(check=check, result="warning", detail=detail)
    return Finding(
        check=check, result="ok", detail="the same seed gives the same episodes, others and other lanes differ"
    )


def _trace(vector: VectorEnv[Any, Any, Any], seed: int, actions: list[Any]) -> list[Step]:
    def kept(obs: Any, *rest: Any) -> Any:
        arrays = {key: np.array(value) for key, value in obs.items()} if isinstance(obs, dict) else np.array(obs)
        return (arrays, *(np.array(each) for each in rest))

    return [kept(vector.reset(seed=seed)[0]), *(kept(*vector.step(action)[:4]) for action in actions)]


def _alike(obs: Any) -> bool:
    arrays = obs.values() if isinstance(obs, dict) else [obs]
    return all((array == array[:1]).all() for array in arrays)


def _without_key(error: UsageError) -> str:
    return str(error).partition(": ")[2]
