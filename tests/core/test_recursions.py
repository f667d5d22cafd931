"""Backward recursions against their definitions, on episodes cut every way they can be."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pgkit.core.recursions import episode_time, lambda_return, linear_scan, n_step_return

pytestmark = [pytest.mark.equivalence, pytest.mark.usefixtures("float64")]

SIZES = {"seed": st.integers(0, 10**6), "num_steps": st.integers(1, 9), "num_columns": st.integers(1, 4)}


@dataclass(frozen=True, kw_only=True)
class Slab:
    """A slab as a collector may leave it; `episodes` lists (column, rows) of each piece of an episode in it."""

    rewards: Tensor
    values: Tensor
    log_weight: Tensor
    terminated: Tensor
    truncated: Tensor
    starts: Tensor
    mask: Tensor
    episodes: list[tuple[int, list[int]]]

    @property
    def ends(self) -> dict[str, Tensor]:
        return {"terminated": self.terminated, "truncated": self.truncated, "mask": self.mask}


def slab(seed: int, num_steps: int, num_columns: int) -> Slab:
    """Returns random episodes with reset rows between them, or padding to the end; wild numbers where none is valid."""
    generator = np.random.default_rng(seed)
    shape = (num_steps, num_columns)
    terminated, truncated, starts, mask = (np.zeros(shape, bool) for _ in range(4))
    episodes = []
    for column in range(num_columns):
        row = int(generator.integers(0, 2))  # a reset row may come first
        begins = row == 1 or bool(generator.random() < 0.5)
        while row < num_steps:
            length = int(generator.integers(1, 6))
            rows = list(range(row, min(row + length, num_steps)))
            episodes.append((column, rows))
            mask[rows, column] = True
            starts[row, column] = begins
            if row + length < num_steps or (row + length == num_steps and generator.random() < 0.5):
                kind = generator.integers(0, 3)  # both flags may be set
                terminated[rows[-1], column], truncated[rows[-1], column] = kind != 1, kind != 0
            row, begins = row + length + 1, True
            if generator.random() < 0.2:
                break
    wild = np.where(generator.random(shape) < 0.5, 999.0, -1e6)
    rewards = np.where(mask, generator.normal(size=shape), wild)
    reached = mask | np.vstack([np.zeros((1, num_columns), bool), mask])[:-1]
    values = generator.normal(size=(num_steps + 1, num_columns))
    values[:-1] = np.where(reached, values[:-1], wild)
    log_weight = np.where(mask, generator.normal(size=shape), wild)
    arrays = {"rewards": rewards, "values": values, "log_weight": log_weight}
    arrays |= {"terminated": terminated, "truncated": truncated, "starts": starts, "mask": mask}
    return Slab(episodes=episodes, **{name: torch.from_numpy(array) for name, array in arrays.items()})


@settings(deadline=None, max_examples=100)
@given(**SIZES)
def test_the_scan_is_the_loop(seed: int, num_steps: int, num_columns: int) -> None:
    generator = np.random.default_rng(seed)
    decay, increment = generator.normal(size=(2, num_steps, num_columns))
    decay[generator.random(decay.shape) < 0.3] = 0.0
    expected = increment.copy()
    for t in reversed(range(num_steps - 1)):
        expected[t] = increment[t] + decay[t] * expected[t + 1]
    found = linear_scan(torch.from_numpy(decay), torch.from_numpy(increment))
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-12, atol=1e-12)


def truncated_sum(batch: Slab, column: int, rows: list[int], n: int, gamma: float, *, corrected: bool = False) -> float:
    """Returns the first n rewards of `rows`, discounted, and the value of what follows unless that is an end.

    Each is weighted by the choices after the first row's.
    """
    taken, logs = rows[:n], batch.log_weight[:, column]
    weights = [math.exp(float(logs[t] - logs[taken[0]])) if corrected else 1.0 for t in taken]
    total = sum(gamma**k * weights[k] * float(batch.rewards[t, column]) for k, t in enumerate(taken))
    over = bool(batch.terminated[taken[-1], column])
    return total + (0.0 if over else gamma ** len(taken) * weights[-1] * float(batch.values[taken[-1] + 1, column]))


@settings(deadline=None, max_examples=100)
@given(corrected=st.booleans(), n=st.integers(1, 12), gamma=st.sampled_from([0.0, 0.7, 1.0]), **SIZES)
def test_the_n_step_return_is_n_rewards_and_a_value_with_the_weights_of_the_choices_since(
    corrected: bool, n: int, gamma: float, seed: int, num_steps: int, num_columns: int
) -> None:
    batch = slab(seed, num_steps, num_columns)
    expected = torch.zeros(num_steps, num_columns)
    for column, rows in batch.episodes:
        for index, row in enumerate(rows):
            expected[row, column] = truncated_sum(batch, column, rows[index:], n, gamma, corrected=corrected)
    logs = batch.log_weight if corrected else torch.zeros_like(batch.log_weight)
    found = n_step_return(batch.rewards, batch.values, logs, **batch.ends, gamma=gamma, n=n)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)


@settings(deadline=None, max_examples=100)
@given(lam=st.sampled_from([0.0, 0.6, 1.0]), gamma=st.sampled_from([0.0, 0.7, 1.0]), **SIZES)
def test_the_lambda_return_is_the_geometric_mixture_of_n_step_returns(
    lam: float, gamma: float, seed: int, num_steps: int, num_columns: int
) -> None:
    batch = slab(seed, num_steps, num_columns)
    expected = torch.zeros(num_steps, num_columns)
    for column, rows in batch.episodes:
        for index, row in enumerate(rows):
            left = len(rows) - index
            each = [truncated_sum(batch, column, rows[index:], n, gamma) for n in range(1, left + 1)]
            mixture = sum((1 - lam) * lam ** (n - 1) * each[n - 1] for n in range(1, left))
            expected[row, column] = mixture + lam ** (left - 1) * each[-1]
    on_policy = torch.zeros_like(batch.rewards)
    found = lambda_return(batch.rewards, batch.values, on_policy, **batch.ends, gamma=gamma, lam=lam)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)


@settings(deadline=None, max_examples=100)
@given(lam=st.sampled_from([0.0, 0.6, 1.0]), **SIZES)
def test_later_rewards_carry_the_weight_of_the_choices_since(
    lam: float, seed: int, num_steps: int, num_columns: int
) -> None:
    batch = slab(seed, num_steps, num_columns)
    gamma = 0.7
    expected = torch.zeros(num_steps, num_columns)
    for column, rows in batch.episodes:
        for row in reversed(rows):
            following = 0.0
            if row != rows[-1]:
                ratio = float((batch.log_weight[row + 1, column] - batch.log_weight[row, column]).exp())
                following = lam * ratio * float(expected[row + 1, column])
                following += (1 - lam) * float(batch.values[row + 1, column])
            elif not batch.terminated[row, column]:
                following = float(batch.values[row + 1, column])
            expected[row, column] = batch.rewards[row, column] + gamma * following
    found = lambda_return(batch.rewards, batch.values, batch.log_weight, **batch.ends, gamma=gamma, lam=lam)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)


@settings(deadline=None, max_examples=50)
@given(**SIZES)
def test_time_counts_from_the_last_start(seed: int, num_steps: int, num_columns: int) -> None:
    batch = slab(seed, num_steps, num_columns)
    expected = torch.zeros(num_steps, num_columns)
    for column in range(num_columns):
        time = -1
        for row in range(num_steps):
            time = 0 if batch.starts[row, column] else time + 1
            expected[row, column] = time
    assert torch.equal(episode_time(batch.starts), expected)


def test_a_culprit_of_wrong_shape_is_named() -> None:
    two, three = torch.zeros(2, 1), torch.zeros(3, 1)
    ends = {"terminated": two.bool(), "truncated": two.bool(), "mask": two.bool()}
    with pytest.raises(ValueError, match="log_weight: T=3, but T=2 in rewards"):
        lambda_return(two, three, three, **ends, gamma=1.0, lam=1.0)
    with pytest.raises(ValueError, match="rewards: U=2, but U=1 in values"):
        n_step_return(two, two, two, **ends, gamma=1.0, n=1)
    # The [N, 1] against [N] that would broadcast to [N, N].
    with pytest.raises(ValueError, match="rewards"):
        lambda_return(two.squeeze(1), three, two, **ends, gamma=1.0, lam=1.0)
