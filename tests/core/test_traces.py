"""Targets with traces: their definitions summed term by term, their fixed points by dynamic programming."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pgkit.core.processes import CHAIN, Process
from pgkit.core.recursions import lambda_return
from pgkit.core.traces import LARGEST_LOG_RATIO, action_value_target, clipped_ratio, v_trace
from tests.core.test_recursions import SIZES, slab
from tests.off_policy import BEHAVIOR, TARGET, every_path

pytestmark = [pytest.mark.exact, pytest.mark.usefixtures("float64")]

GAMMA = 0.9
CLIPS = [(1.0, 1.0), (math.inf, 1.0), (0.8, 0.5), (2.0, 1.5)]


def products(trace: list[float]) -> list[float]:
    """Returns 1, c_0, c_0 c_1, …"""
    return [math.prod(trace[:k]) for k in range(len(trace))]


@settings(deadline=None, max_examples=100)
@given(
    clips=st.sampled_from(CLIPS),
    lam=st.sampled_from([0.0, 0.6, 1.0]),
    gamma=st.sampled_from([0.0, 0.7, 1.0]),
    leak=st.sampled_from([0.0, 0.3, 1.0]),
    **SIZES,
)
def test_v_trace_is_its_sum_of_corrected_errors(
    clips: tuple[float, float], lam: float, gamma: float, leak: float, seed: int, num_steps: int, num_columns: int
) -> None:
    batch = slab(seed, num_steps, num_columns)
    rho_clip, c_clip = clips
    targets, signal = torch.zeros_like(batch.rewards), torch.zeros_like(batch.rewards)
    for column, rows in batch.episodes:
        values, rewards, logs = batch.values[:, column], batch.rewards[:, column], batch.log_weight[:, column]

        def ratio(t: int, clip: float, logs: Tensor = logs) -> float:
            plain = math.exp(float(logs[t]))
            return (1 - leak) * min(clip, plain) + leak * plain

        over = bool(batch.terminated[rows[-1], column])
        following = {t: 0.0 if over and t == rows[-1] else float(values[t + 1]) for t in rows}
        error = {t: ratio(t, rho_clip) * float(rewards[t] + gamma * following[t] - values[t]) for t in rows}
        for place, row in enumerate(rows):
            rest = rows[place:]
            reach = products([gamma * lam * ratio(t, c_clip) for t in rest])
            targets[row, column] = values[row] + sum(c * error[t] for c, t in zip(reach, rest, strict=True))
        for row in rows:
            later = following[row] if row == rows[-1] else targets[row + 1, column]
            signal[row, column] = rewards[row] + gamma * later
    options = {"gamma": gamma, "lam": lam, "rho_clip": rho_clip, "c_clip": c_clip, "leak": leak}
    found = v_trace(batch.rewards, batch.values, batch.log_weight, **batch.ends, **options)
    torch.testing.assert_close(found, (targets, signal), rtol=0, atol=1e-9)


@settings(deadline=None, max_examples=100)
@given(gamma=st.sampled_from([0.0, 0.7, 1.0]), **SIZES)
def test_a_target_of_actions_is_its_sum_of_believed_errors(
    gamma: float, seed: int, num_steps: int, num_columns: int
) -> None:
    batch = slab(seed, num_steps, num_columns)
    chosen, trace = batch.rewards.roll(1, 0) + 0.3, batch.log_weight.abs()
    expected = torch.zeros_like(batch.rewards)
    for column, rows in batch.episodes:
        over = bool(batch.terminated[rows[-1], column])
        following = {t: 0.0 if over and t == rows[-1] else float(batch.values[t + 1, column]) for t in rows}
        error = {t: float(batch.rewards[t, column] - chosen[t, column]) + gamma * following[t] for t in rows}
        for place, row in enumerate(rows):
            rest = rows[place:]
            reach = products([gamma * float(trace[t, column]) for t in rest[1:]] + [0.0])
            expected[row, column] = chosen[row, column] + sum(c * error[t] for c, t in zip(reach, rest, strict=True))
    found = action_value_target(batch.rewards, batch.values, chosen, trace, **batch.ends, gamma=gamma)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


@settings(deadline=None, max_examples=50)
@given(lam=st.sampled_from([0.0, 0.6, 1.0]), **SIZES)
def test_on_policy_v_trace_is_the_lambda_return(lam: float, seed: int, num_steps: int, num_columns: int) -> None:
    batch = slab(seed, num_steps, num_columns)
    same = torch.zeros_like(batch.rewards)
    ours, _ = v_trace(
        batch.rewards, batch.values, same, **batch.ends, gamma=GAMMA, lam=lam, rho_clip=1.0, c_clip=1.0
    )  # fmt: skip
    theirs = lambda_return(batch.rewards, batch.values, same, **batch.ends, gamma=GAMMA, lam=lam)
    torch.testing.assert_close(ours, torch.where(batch.mask, theirs, 0.0), rtol=0, atol=1e-10)


@settings(deadline=None, max_examples=50)
@given(lam=st.sampled_from([0.0, 0.6, 1.0]), **SIZES)
def test_with_values_for_action_values_the_uncorrected_trace_is_the_lambda_return(
    lam: float, seed: int, num_steps: int, num_columns: int
) -> None:
    batch = slab(seed, num_steps, num_columns)
    trace, same = torch.full_like(batch.rewards, lam), torch.zeros_like(batch.rewards)
    found = action_value_target(batch.rewards, batch.values, batch.values[:-1], trace, **batch.ends, gamma=GAMMA)
    theirs = lambda_return(batch.rewards, batch.values, same, **batch.ends, gamma=GAMMA, lam=lam)
    torch.testing.assert_close(found, torch.where(batch.mask, theirs, 0.0), rtol=0, atol=1e-10)


def test_extreme_ratios_stay_numbers() -> None:
    log_ratio = torch.tensor([-torch.inf, -1000.0, 0.0, 1000.0])
    assert clipped_ratio(log_ratio, 1.0).tolist() == [0.0, 0.0, 1.0, 1.0]
    assert clipped_ratio(log_ratio, math.inf)[-1] == pytest.approx(math.exp(LARGEST_LOG_RATIO))
    assert clipped_ratio(log_ratio, 1.0, leak=0.5).isfinite().all()


def every_batch(process: Process = CHAIN) -> tuple[Any, dict[str, Tensor], Tensor, Tensor]:
    """Returns all trajectories, their ends, their probabilities under the behaviour and the rows' log ratios."""
    paths = every_path(process)
    last = paths.mask & ~torch.cat([paths.mask[1:], torch.zeros_like(paths.mask[:1])])
    nowhere = torch.zeros_like(last)
    ends = {"terminated": last, "truncated": nowhere, "mask": paths.mask}
    return paths, ends, process.probabilities(BEHAVIOR), paths.log_ratio()


def conditional(paths: Any, chances: Tensor, numbers: Tensor, *, of_actions: bool) -> dict[tuple[int, ...], float]:
    """Returns the mean of numbers `[T, N]` at every time and state, or every time, state and action."""
    totals: dict[tuple[int, ...], list[float]] = {}
    for t, n in paths.mask.nonzero().tolist():
        key = (t, int(paths.states[t, n]), *((int(paths.actions[t, n]),) if of_actions else ()))
        sums = totals.setdefault(key, [0.0, 0.0])
        sums[0] += float(chances[n] * numbers[t, n])
        sums[1] += float(chances[n])
    return {key: total / weight for key, (total, weight) in totals.items()}


@pytest.mark.parametrize("lam", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("clips", [(1.0, 1.0), (math.inf, 1.0), (0.7, 1.0), (1.2, 0.4)])
def test_the_fixed_point_of_v_trace_values_the_policy_it_names(clips: tuple[float, float], lam: float) -> None:
    paths, ends, chances, log_ratio = every_batch()
    rho_clip, c_clip = clips
    named = torch.minimum(TARGET, rho_clip * BEHAVIOR)
    named = named / named.sum(dim=1, keepdim=True)
    truth, _ = CHAIN.values(named, GAMMA)
    options = {"gamma": GAMMA, "lam": lam, "rho_clip": rho_clip, "c_clip": min(c_clip, rho_clip)}
    # Truth is a fixed point …
    assert _next_table(truth, paths, ends, chances, log_ratio, options) == pytest.approx(_entries(truth, paths))
    # … and where everything leads.
    table = torch.zeros_like(truth)
    for _ in range(100):
        for (t, s), value in _next_table(table, paths, ends, chances, log_ratio, options).items():
            table[t, s] = value
    assert _entries(table, paths) == pytest.approx(_entries(truth, paths), abs=1e-9)
    plain, _ = CHAIN.values(TARGET, GAMMA)
    matches = bool((plain - truth).abs().max() < 1e-9)
    assert matches == (rho_clip == math.inf)


def _entries(table: Tensor, paths: Any) -> dict[tuple[int, ...], float]:
    visited = {(t, int(paths.states[t, n])) for t, n in paths.mask.nonzero().tolist()}
    return {(t, s): float(table[t, s]) for t, s in visited}


def _next_table(
    table: Tensor, paths: Any, ends: dict[str, Tensor], chances: Tensor, log_ratio: Tensor, options: dict[str, float]
) -> dict[tuple[int, ...], float]:
    here = table[:-1].gather(1, paths.states)
    values = torch.cat((here, torch.zeros_like(here[:1])))
    return conditional(
        paths, chances, v_trace(paths.rewards, values, log_ratio, **ends, **options)[0], of_actions=False
    )


@pytest.mark.parametrize("kind", ["retrace", "tree_backup", "importance", "one_step"])
def test_the_fixed_point_of_targets_of_actions_is_q_of_the_target(kind: str) -> None:
    paths, ends, chances, log_ratio = every_batch()
    _, quality = CHAIN.values(TARGET, GAMMA)
    trace = {
        "retrace": clipped_ratio(log_ratio, 1.0),
        "tree_backup": TARGET[paths.states, paths.actions],
        "importance": log_ratio.exp(),
        "one_step": torch.zeros_like(log_ratio),
    }[kind]

    def targets(table: Tensor) -> dict[tuple[int, ...], float]:
        time = torch.arange(len(table))[:, None]
        chosen = table[time, paths.states, paths.actions]
        value = (TARGET * table).sum(dim=-1).gather(1, paths.states)
        values = torch.cat((value, torch.zeros_like(value[:1])))
        found = action_value_target(paths.rewards, values, chosen, trace, **ends, gamma=GAMMA)
        return conditional(paths, chances, found, of_actions=True)

    exact = targets(quality)
    for (t, s, a), value in exact.items():
        assert value == pytest.approx(float(quality[t, s, a]), abs=1e-10)
    table = torch.zeros_like(quality)
    for _ in range(CHAIN.horizon):
        for (t, s, a), value in targets(table).items():
            table[t, s, a] = value
    for (t, s, a), value in exact.items():
        assert float(table[t, s, a]) == pytest.approx(value, abs=1e-9)
