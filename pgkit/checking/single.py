"""The checks of one environment."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from gymnasium.spaces import Box

from pgkit.checking.findings import Finding, Walk, actions_of, first_difference, side_by_side, trace, walked
from pgkit.errors import UsageError
from pgkit.rl.forms import Blueprint, check_spaces
from pgkit.rl.probe import probe_environment
from pgkit.rl.registry import brief

_LARGE, _SMALL = 100.0, 1e-3
"""Typical rewards of a step beyond which learning rates and clip norms no longer mean what they say."""
_TRACED = 200
"""Steps that are compared for seeding."""
CHECKS = ("spaces", "api", "observations", "rewards", "exceptions", "episodes", "time limit", "seeding", "copies")


def examine(plan: Blueprint, *, steps: int, seed: int) -> Iterator[Finding]:
    """Yields a finding for each check; once spaces or API fail, the others are skipped."""
    spaces = _spaces(plan)
    yield spaces
    if spaces.result == "failed":
        yield from (Finding(check=check, result="skipped", detail="see above") for check in CHECKS[1:])
        return
    try:
        probe_environment(plan.spec, plan.kwargs, plan.wrappers)
        api = Finding(check="api", result="ok", detail="reset gives 2 values, step gives 5")
    except UsageError as error:
        api = Finding(check="api", result="failed", detail=str(error).removeprefix(f"env.id: {plan.spec.id} "))
    yield api
    if api.result == "failed":
        yield from (Finding(check=check, result="skipped", detail="see above") for check in CHECKS[2:])
        return
    env = plan.single()
    try:
        walk = walked(env, steps=steps, seed=seed)
    finally:
        env.close()
    yield from _of_walk(plan, walk)
    if not walk.is_whole:
        yield from (Finding(check=check, result="skipped", detail="see above") for check in CHECKS[-2:])
        return
    try:
        yield from _seeding(plan, seed, min(steps, _TRACED, len(walk.rewards)))
    except Exception as error:  # the environment's own
        yield Finding(check="seeding", result="failed", detail=brief(error))


def _spaces(plan: Blueprint) -> Finding:
    env = plan.single()
    env.close()
    seen, acts = env.observation_space, env.action_space
    try:
        check_spaces(seen, acts)
    except UsageError as error:
        return Finding(check="spaces", result="failed", detail=str(error).removeprefix("env.id: "))
    detail = f"sees {_short(seen)}, acts {_short(acts)}"
    if isinstance(acts, Box) and not acts.is_bounded("both"):
        return Finding(
            check="spaces",
            result="warning",
            detail=f"{detail}: actions without bounds, which a Gaussian takes and squashed and Beta policies do not",
        )
    return Finding(check="spaces", result="ok", detail=detail)


def _of_walk(plan: Blueprint, walk: Walk) -> Iterator[Finding]:
    count = len(walk.rewards)
    if walk.observation_fault:
        yield Finding(check="observations", result="failed", detail=walk.observation_fault)
    elif walk.outside:
        detail = f"{walk.outside} of {count} outside the bounds of their Box; nothing here relies on these"
        yield Finding(check="observations", result="warning", detail=detail)
    else:
        yield Finding(check="observations", result="ok", detail=f"{count} of the shape and type promised, all finite")
    yield _rewards(walk)
    exception = walk.exception or f"none in {count} steps, {len(walk.lengths)} resets after an end and one before it"
    yield Finding(check="exceptions", result="failed" if walk.exception else "ok", detail=exception)
    if walk.is_whole:
        yield _episodes(plan, walk)
        yield _time_limit(plan, walk)
    else:
        yield from (Finding(check=check, result="skipped", detail="see above") for check in ("episodes", "time limit"))


def _rewards(walk: Walk) -> Finding:
    if walk.reward_fault:
        return Finding(check="rewards", result="failed", detail=walk.reward_fault)
    if not walk.rewards:
        return Finding(check="rewards", result="skipped", detail="no step was made")
    paid = np.array(walk.rewards)
    typical, detail = float(np.sqrt(np.mean(paid**2))), f"{paid.min():.4g} to {paid.max():.4g}, mean {paid.mean():.4g}"
    if not paid.any():
        detail += ": random actions earn nothing, so a policy begins without a signal"
        return Finding(check="rewards", result="warning", detail=detail)
    if not _SMALL <= typical <= _LARGE:
        size = "large" if typical > _LARGE else "small"
        detail += f": {size}, expected about 1 a step; returns.scale_rewards=true or env.reward_clip=[-1,1]"
        return Finding(check="rewards", result="warning", detail=detail)
    return Finding(check="rewards", result="ok", detail=detail)


def _episodes(plan: Blueprint, walk: Walk) -> Finding:
    count = len(walk.rewards)
    if not walk.lengths:
        limit = plan.max_episode_steps
        if limit is not None and limit >= count:
            detail = f"none ended in {count} steps, fewer than its time limit; steps={limit + 1} sees one end"
            return Finding(check="episodes", result="ok", detail=detail)
        detail = f"none ended in {count} steps, expected collect=steps or env.kwargs={{max_episode_steps:1000}}"
        return Finding(check="episodes", result="warning", detail=detail)
    lengths = np.array(walk.lengths)
    detail = f"{len(lengths)} of {lengths.min()} to {lengths.max()} steps, mean {lengths.mean():.4g}"
    both = sum(terminated and truncated for terminated, truncated in walk.flags)
    if both:
        detail += f"; {both} both terminated and truncated, which counts as terminated"
        return Finding(check="episodes", result="warning", detail=detail)
    return Finding(check="episodes", result="ok", detail=detail)


def _time_limit(plan: Blueprint, walk: Walk) -> Finding:
    limit = plan.max_episode_steps
    registered = "none registered" if limit is None else f"{limit} steps"
    same = len(walk.lengths) > 1 and len(set(walk.lengths)) == 1 and walk.lengths[0] > 1
    if same and all(terminated for terminated, _ in walk.flags):
        detail = (
            f"{registered}, but every episode is terminated after {walk.lengths[0]} steps: where that is a limit of "
            "time and not of the task, expected truncated, or values after it count as 0"
        )
        return Finding(check="time limit", result="warning", detail=detail)
    cut = sum(truncated and not terminated for terminated, truncated in walk.flags)
    return Finding(
        check="time limit", result="ok", detail=f"{registered}; {cut} of {len(walk.flags)} episodes were cut"
    )


def _seeding(plan: Blueprint, seed: int, steps: int) -> Iterator[Finding]:
    envs = [plan.single() for _ in range(3)]
    try:
        actions = actions_of(envs[0].action_space, steps, seed)
        first, again = trace(envs[0], seed, actions), trace(envs[0], seed, actions)
        others = [trace(envs[0], seed + 1 + offset, actions) for offset in range(2)]
        copies = side_by_side(envs[1:], seed, actions)
    finally:
        for env in envs:
            env.close()
    differs = first_difference(first, again)
    if differs is not None:
        detail = (
            f"seed {seed} twice gives other episodes from step {differs} on: runs cannot be repeated; "
            "draw from self.np_random, after super().reset(seed=seed)"
        )
        yield Finding(check="seeding", result="warning", detail=detail)
        yield Finding(check="copies", result="skipped", detail="nothing to compare, where a seed does not tell")
        return
    if all(first_difference(first, other) is None for other in others):
        detail = f"seeds {seed} to {seed + 2} give the same {steps} steps: well where nothing in it is random"
        yield Finding(check="seeding", result="warning", detail=detail)
    else:
        yield Finding(check="seeding", result="ok", detail="the same seed gives the same episodes, others give others")
    apart = [found for copy in copies if (found := first_difference(first, copy)) is not None]
    if apart:
        detail = f"two side by side are not what one alone is, from step {min(apart)} on: they share state"
        yield Finding(check="copies", result="failed", detail=detail)
    else:
        yield Finding(check="copies", result="ok", detail="two side by side do what one alone does")


def _short(space: object) -> str:
    text = " ".join(str(space).split())
    return text if len(text) <= 60 else f"{text[:57]}..."
