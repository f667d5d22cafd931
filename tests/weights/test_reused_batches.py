"""A batch that moved the policy and is then used again: how far the second estimate is off, exactly.

Two updates are enumerated: every first batch of the policy, the step that its own gradient makes, every second batch of
the policy that comes of it, and the estimate from both.
"""

from __future__ import annotations

import copy
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from pgkit.baselines.batch import LeaveOneOut
from pgkit.baselines.constant import Zero
from pgkit.weights.mixtures import Balance
from pgkit.weights.ratios import Trajectory
from tests.weights.batches import TREE, Pool

pytestmark = [pytest.mark.exact, pytest.mark.usefixtures("float64")]


def moved(pool: Pool, step: Tensor) -> Pool:
    """Returns the pool of a policy that is a step away from the one that learnt, which is now an old one."""
    new = copy.deepcopy(pool)
    for name in ("log_densities", "chances", "ratios", "scores"):
        new.__dict__.pop(name, None)
    start = 0
    with torch.no_grad():
        for parameter in new.target.policy.parameters():
            parameter += step[start : start + parameter.numel()].view_as(parameter)
            start += parameter.numel()
        rows = new.target.trajectories
        rows.behavior_log_prob.copy_(new.target.policy.log_prob(rows.obs[:-1], rows.actions))
    new.target.__dict__.pop("scores", None)
    new.acting = [new.target, pool.target]
    return new


@cache
def bias(
    rate: float, weights_name: str = "balance", baseline_name: str = "zero", *, columns: int = 2, another: bool = False
) -> tuple[float, float, float]:
    """Returns |E[ĝ − ∇J]| at the policy after one step of that learning rate, |E ∇J| there, and the noise of ĝ.

    With `another` the old batch that is used is not the one that made the step.
    """
    weights: Any = {"balance": Balance(), "trajectory": Trajectory()}[weights_name]
    baseline = {"zero": Zero(), "leave_one_out": LeaveOneOut()}[baseline_name]
    pool, ids = Pool(TREE, (4,)), (0,) * columns
    first = [(tuple(drawn.tolist()), chance) for drawn, chance in pool.target.batches(columns)]
    error, truth, square = torch.zeros(()), torch.zeros(()), 0.0
    for drawn, chance in first:
        new = moved(pool, rate * pool.estimate(drawn, ids, Trajectory(), baseline))
        gradient = new.gradient()
        truth = truth + chance * gradient
        for again, other in first if another else [(drawn, 1.0)]:
            for fresh, likely in new.target.batches(columns):
                found = new.estimate((*fresh.tolist(), *again), (*ids, *(1,) * columns), weights, baseline)
                error = error + chance * other * likely * (found - gradient)
                square += chance * other * likely * float((found - gradient).square().sum())
    return float(error.norm()), float(truth.norm()), (square - float(error.square().sum())) ** 0.5


@pytest.mark.parametrize(
    ("weights", "baseline", "columns", "rate", "share"),
    [
        ("balance", "zero", 2, 0.01, 0.0317),
        ("balance", "zero", 2, 0.1, 0.2740),
        ("balance", "leave_one_out", 2, 0.1, 0.0485),
        ("trajectory", "zero", 2, 0.1, 0.7294),
        ("trajectory", "leave_one_out", 2, 0.1, 0.0939),
        ("balance", "leave_one_out", 4, 0.1, 0.0189),
    ],
)
def test_a_batch_that_steered_the_policy_is_biased_by_so_much(
    weights: str, baseline: str, columns: int, rate: float, share: float
) -> None:
    error, truth, _ = bias(rate, weights, baseline, columns=columns)
    assert error / truth == pytest.approx(share, abs=1e-4)


@pytest.mark.parametrize("weights", ["balance", "trajectory"])
@pytest.mark.parametrize("baseline", ["zero", "leave_one_out"])
def test_another_batch_of_the_old_policy_would_not_be(weights: str, baseline: str) -> None:
    error, *_ = bias(0.1, weights, baseline, another=True)
    assert error < 1e-10


def test_the_bias_is_proportional_to_a_small_step_and_to_one_over_the_columns() -> None:
    small, smaller, more = bias(0.01), bias(0.005), bias(0.01, columns=4)
    assert small[0] / smaller[0] == pytest.approx(2.0, rel=0.03)
    assert small[0] / more[0] == pytest.approx(2.0, rel=0.03)
