"""Every weight with every kind of baseline, over every batch there can be: its mean and its whole covariance.

Batch by batch the estimate is held to the definition in `batches.py`; what is unbiased is so at 1e-10, and what is not
has the bias that arithmetic on single trajectories gives it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any

import numpy as np
import pytest
import torch

from pgkit.baselines.base import MemorylessBaseline
from pgkit.baselines.batch import LeaveOneOut, Mean
from pgkit.baselines.constant import Constant, Zero
from pgkit.baselines.optimal import Optimal, OptimalTime
from pgkit.baselines.value import Value
from pgkit.core.processes import BANDIT, CHAIN
from pgkit.errors import UsageError
from pgkit.weights.mixtures import Balance, ConstantMixture, PowerHeuristic
from pgkit.weights.ratios import PerDecision, Trajectory
from tests.weights import batches
from tests.weights.batches import TREE, Form, Pool, Reference, mixture, own

pytestmark = [pytest.mark.exact, pytest.mark.usefixtures("float64")]

ONE, TWO = (0, 0, 0), (0, 0, 1, 1)
"""Columns of one policy, and of two."""
UNEVEN = (0, 0, 0, 1, 1)
SEEDS = {ONE: (5,), TWO: (5, 6), UNEVEN: (4, 6)}
PROCESSES = {"tree": TREE, "bandit": BANDIT}


@cache
def pool_of(process: str, seeds: Sequence[int]) -> Pool:
    return Pool({**PROCESSES, "chain": CHAIN}[process], seeds)


def truncated(form: Form, limit: float) -> Form:
    return lambda *batch: np.minimum(form(*batch), limit)


def power_mean(form: Form, mixing: float) -> Form:
    def at(*batch: Any) -> Any:
        weights = form(*batch)
        return weights / (1 - mixing + mixing * weights)

    return at


def normalised(form: Form) -> Form:
    def at(*batch: Any) -> Any:
        weights = form(*batch)
        return weights / weights.mean(axis=0)

    return at


whole, prefix = partial(own, prefix=False), partial(own, prefix=True)
balance = partial(mixture, prefix=False, exponent=1.0)
balance_prefix = partial(mixture, prefix=True, exponent=1.0)

OF_ONE: dict[str, tuple[Callable[[], Any], Form]] = {
    "trajectory": (Trajectory, whole),
    "per_decision": (PerDecision, prefix),
    "trajectory self_normalise": (lambda: Trajectory(self_normalise=True), normalised(whole)),
    "per_decision self_normalise": (lambda: PerDecision(self_normalise=True), normalised(prefix)),
    "trajectory truncate": (lambda: Trajectory(truncate=1.2), truncated(whole, 1.2)),
    "trajectory power_mean": (lambda: Trajectory(power_mean=0.3), power_mean(whole, 0.3)),
    "trajectory all three": (
        lambda: Trajectory(power_mean=0.3, truncate=1.1, self_normalise=True),
        normalised(truncated(power_mean(whole, 0.3), 1.1)),
    ),
}
OF_SEVERAL: dict[str, tuple[Callable[[], Any], Form]] = {
    "balance": (Balance, balance),
    "balance per_decision": (lambda: Balance(per_decision=True), balance_prefix),
    "balance defensive": (
        lambda: Balance(defensive=0.8), partial(mixture, prefix=False, exponent=1.0, defensive=0.8)
    ),
    "balance defensive per_decision": (
        lambda: Balance(defensive=0.8, per_decision=True), partial(mixture, prefix=True, exponent=1.0, defensive=0.8)
    ),
    "balance self_normalise": (lambda: Balance(self_normalise=True), normalised(balance)),
    "balance self_normalise per_decision": (
        lambda: Balance(self_normalise=True, per_decision=True), normalised(balance_prefix)
    ),
    "balance truncate": (lambda: Balance(truncate=1.1), truncated(balance, 1.1)),
    "balance power_mean": (lambda: Balance(power_mean=0.3), power_mean(balance, 0.3)),
    "power": (PowerHeuristic, partial(mixture, prefix=False, exponent=2.0)),
    "power per_decision": (lambda: PowerHeuristic(per_decision=True), partial(mixture, prefix=True, exponent=2.0)),
    "power defensive": (
        lambda: PowerHeuristic(exponent=3.0, defensive=0.3),
        partial(mixture, prefix=False, exponent=3.0, defensive=0.3),
    ),
    "constant": (ConstantMixture, partial(mixture, prefix=False, exponent=None)),
    "constant decay": (lambda: ConstantMixture(decay=0.4), partial(mixture, prefix=False, exponent=None, decay=0.4)),
    "constant decay per_decision": (
        lambda: ConstantMixture(decay=0.4, per_decision=True),
        partial(mixture, prefix=True, exponent=None, decay=0.4),
    ),
    "constant defensive": (
        lambda: ConstantMixture(defensive=0.7), partial(mixture, prefix=False, exponent=None, defensive=0.7)
    ),
}  # fmt: skip
FORMS = {**OF_ONE, **OF_SEVERAL}


def reference_of(baseline: str, weights: Any) -> tuple[MemorylessBaseline, Reference]:
    several = batches.stratified if weights.reach == "all" else batches.leave_one_out
    return {
        "zero": (Zero(), batches.zero),
        "constant": (Constant(value=0.7), lambda signal, values, ids: np.full_like(signal, 0.7)),
        "value": (Value(), batches.value),
        "leave_one_out": (LeaveOneOut(), several),
        "mean": (Mean(), batches.mean),
    }[baseline]


def moments(
    pool: Pool, ids: Sequence[int], weights: Any, form: Form, baseline: MemorylessBaseline, reference: Reference
) -> tuple[np.ndarray, np.ndarray]:
    """Returns mean `[P]` and covariance `[P, P]` over all batches, each held to its definition."""
    mean, second = np.zeros(()), np.zeros(())
    for drawn, chance in pool.batches(ids):
        found = pool.estimate(drawn, ids, weights, baseline).numpy()
        np.testing.assert_allclose(found, pool.defined(drawn, ids, form, reference), rtol=0, atol=1e-10)
        mean, second = mean + chance * found, second + chance * np.outer(found, found)
    return mean, second - np.outer(mean, mean)


CASES = [
    *((name, ONE, process) for name in OF_ONE for process in PROCESSES),
    *((name, TWO, process) for name in FORMS for process in PROCESSES),
]
DRAWN = [(*case, baseline) for case in CASES for baseline in ("zero", "value", "leave_one_out")]
DRAWN += [(*case, baseline) for case in CASES[:2] for baseline in ("constant", "mean")]
DRAWN += [("balance", UNEVEN, "bandit", "leave_one_out"), ("power per_decision", UNEVEN, "tree", "leave_one_out")]


@pytest.mark.parametrize(("name", "ids", "process", "baseline"), DRAWN)
def test_mean_and_covariance_are_those_of_the_definition(
    name: str, ids: tuple[int, ...], process: str, baseline: str
) -> None:
    pool, (make, form) = pool_of(process, SEEDS[ids]), FORMS[name]
    weights = make()
    reference, definition = reference_of(baseline, weights)
    mean, covariance = moments(pool, ids, weights, form, reference, definition)
    distance = np.abs(mean - pool.gradient().numpy()).max()
    assert weights.unbiased is not any(word in name for word in ("self", "truncate", "power_mean", "all three"))
    assert distance < 1e-10 if weights.unbiased and reference.unbiased else distance > 1e-4
    assert np.trace(covariance) > 0


@pytest.mark.parametrize("process", PROCESSES)
@pytest.mark.parametrize("name", [name for name in FORMS if "self" not in name and "all three" not in name])
def test_bias_and_covariance_of_columns_that_know_nothing_of_each_other(name: str, process: str) -> None:
    """The bias is Σ_k (n_k/n) Σ_τ q_k (w̃ − w) g(τ), the covariance Σ_k n_k Cov_k(w̃ g) / n²."""
    pool, (make, form) = pool_of(process, (5, 6)), FORMS[name]
    mean, covariance = moments(pool, TWO, make(), form, Zero(), batches.zero)
    expected, spread = np.zeros_like(mean), np.zeros_like(covariance)
    for k in range(2):
        first, second = np.zeros_like(mean), np.zeros_like(covariance)
        for m, chance in enumerate(pool.chances[k]):
            # One column among four: the shares of the mixture are those of the batch.
            weights = form(pool, [m] * 4, TWO)[2 * k]
            later = [batches.GAMMA**t * weights[t] * step[2] for t, step in enumerate(pool.steps[m])]
            one = np.sum([pool.scores[m, t] * sum(later[t:]) for t in range(len(later))], axis=0)
            first, second = first + chance * one, second + chance * np.outer(one, one)
        expected, spread = expected + first / 2, spread + 2 * (second - np.outer(first, first)) / 16
    np.testing.assert_allclose(mean, expected, rtol=0, atol=1e-10)
    np.testing.assert_allclose(covariance, spread, rtol=0, atol=1e-10)


def test_random_outcomes_and_longer_episodes_change_nothing() -> None:
    pool = pool_of("chain", (4, 6))
    for name in ("balance", "power per_decision", "per_decision"):
        make, form = FORMS[name]
        mean, _ = moments(pool, (0, 1), make(), form, Value(), batches.value)
        np.testing.assert_allclose(mean, pool.gradient().numpy(), rtol=0, atol=1e-10)


def test_a_plain_leave_one_out_is_biased_under_balance_and_strata_are_what_mends_it() -> None:
    pool = pool_of("tree", (5, 6))
    mean = sum(
        (chance * pool.defined(drawn, TWO, balance, batches.leave_one_out) for drawn, chance in pool.batches(TWO)),
        np.zeros(()),
    )
    distance = np.linalg.norm(mean - pool.gradient().numpy()) / pool.gradient().norm()
    assert float(distance) == pytest.approx(0.0300, abs=5e-4)


@pytest.mark.parametrize("weights", [Balance(), PowerHeuristic(per_decision=True)])
@pytest.mark.parametrize("make", [Optimal, OptimalTime, lambda: LeaveOneOut(ended="exclude"), lambda: Optimal(folds=2)])
def test_what_is_fitted_to_the_other_folds_is_unbiased_over_strata(weights: Any, make: Callable[[], Any]) -> None:
    pool, baseline = pool_of("tree", (5, 6)), make()
    mean = sum(
        (chance * pool.estimate(drawn, TWO, weights, baseline) for drawn, chance in pool.batches(TWO)),
        torch.zeros(()),
    )
    torch.testing.assert_close(mean, pool.gradient(), rtol=0, atol=1e-10)


def test_strata_that_cannot_be_dealt_evenly_are_refused() -> None:
    pool = pool_of("tree", (5, 6))
    with pytest.raises(UsageError, match=r"^baseline: 1 folds of columns that 2 policies sampled, 2, 1, expected"):
        pool.estimate((0, 1, 2), (0, 0, 1), Balance(), Optimal())


def test_what_counts_once_is_the_balance_heuristic_and_one_policy_is_the_trajectory_weight() -> None:
    pool = pool_of("tree", (5, 6))
    for drawn in itertools.product(range(3), repeat=4):
        batch = pool.trajectories(drawn, TWO)
        same = [w.log_weight(pool.target.policy, batch) for w in (Balance(), PowerHeuristic(exponent=1.0))]
        torch.testing.assert_close(*same)
    pool = pool_of("tree", (5,))
    batch = pool.trajectories((0, 1, 2), ONE)
    for weights in (Balance(defensive=0.3), PowerHeuristic(), ConstantMixture(decay=0.5)):
        expected = Trajectory().log_weight(pool.target.policy, batch)
        torch.testing.assert_close(weights.log_weight(pool.target.policy, batch), expected)
