"""What the texts say of variances, and where their order fails: by exact numbers wherever there are any."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from pgkit.baselines.constant import Zero
from pgkit.core.processes import CHAIN, GAMBLE, Process
from pgkit.estimators.pathwise import Pathwise
from pgkit.problems.gaussian import GaussianSum
from pgkit.problems.measurement import measure
from pgkit.types import Expectation


def lipschitz(x: Tensor) -> Tensor:
    """Returns |x − 1|, of Lipschitz constant 1 in any dimension."""
    return (x - 1).square().sum(-1).sqrt()


def pathwise_variance(cost: Callable[[Tensor], Tensor], dimension: int) -> float:
    """Returns the trace of the covariance of one sample's gradient in the mean of a standard normal law."""
    law = lambda theta: torch.distributions.Independent(torch.distributions.Normal(theta["mean"], 1.0), 1)  # noqa: E731
    estimate = Pathwise(baseline=Zero()).estimate(
        Expectation(cost=cost, law=law),
        {"mean": torch.zeros(dimension, dtype=torch.float64)},
        num_samples=2000,
        generator=torch.Generator().manual_seed(0),
    )
    assert estimate.per_sample is not None
    return float(estimate.per_sample.var(dim=0).sum())


@pytest.mark.parametrize("dimension", [1, 10, 100, 1000])
def test_the_pathwise_variance_of_a_lipschitz_cost_stays_below_its_constant_squared(dimension: int) -> None:
    # |∇f| is at most L = 1 for every sample, so that the bound holds without any statistics.
    assert pathwise_variance(lipschitz, dimension) <= 1.0
    assert pathwise_variance(lambda x: 3 * lipschitz(x), dimension) <= 9.0


def test_a_cost_that_is_not_lipschitz_has_no_such_bound() -> None:
    assert pathwise_variance(lambda x: x.square().sum(-1), 100) > 100 * pathwise_variance(lipschitz, 100)


def in_mean(estimator: str, dimension: int, **changed: float) -> float:
    problem = GaussianSum(cost="quadratic", dimension=dimension, scale=1.0, learn_scale=False)
    variance = problem.exact_variance(estimator, problem.parameters())
    assert variance is not None
    return float(variance[0])


def test_more_noisy_terms_more_score_variance_and_no_more_pathwise_variance() -> None:
    sizes = (1, 10, 100, 1000)
    noisy, flat = ([in_mean(name, dimension) for dimension in sizes] for name in ("score", "pathwise"))
    assert noisy == pytest.approx([30 + 22 * (d - 1) + 4 * (d - 1) ** 2 for d in sizes])
    assert flat == pytest.approx([4.0] * 4)


@pytest.mark.parametrize(("frequency", "pathwise_wins"), [(0.5, True), (1.0, True), (5.0, False), (20.0, False)])
def test_pathwise_wins_on_slow_cosines_and_loses_on_fast_ones(frequency: float, pathwise_wins: bool) -> None:
    problem = GaussianSum(cost="cosine", dimension=1, scale=1.0, learn_scale=False, frequency=frequency)
    pathwise, score = (float(problem.exact_variance(name, problem.parameters())) for name in ("pathwise", "score"))
    assert (pathwise < score) == pathwise_wins


def test_the_measured_variance_is_the_exact_one() -> None:
    # A deviation of five standard errors has a probability of about 6e-7.
    problem = GaussianSum(cost="cosine", dimension=3, scale=1.0, learn_scale=True, frequency=2.0)
    found = measure(
        problem,
        Pathwise(baseline=Zero()),
        num_samples=4,
        repeats=100,
        generator=torch.Generator().manual_seed(0),
        exact=problem.exact_gradient(problem.parameters()),
    )
    exact = float(problem.exact_variance("pathwise", problem.parameters()).sum())
    assert abs(found.variance - exact) < 5 * found.variance_standard_error
    assert abs(2 * exact - found.variance) > 5 * found.variance_standard_error


def variance_under_value_baseline(process: Process, logits: Tensor, share: float) -> float:
    """Returns the trace of the covariance of Σ_t s_t (G_t − share · V_t(s_t)), by the sum over all trajectories."""
    table = logits.softmax(1)
    value, _ = process.values(table, 1.0)
    probabilities = process.probabilities(table)
    gradients = torch.zeros(len(process.trajectories), *logits.shape, dtype=torch.float64)
    for number, (_, steps) in enumerate(process.trajectories):
        for t, (state, action, *_rest) in enumerate(steps):
            to_go = sum(reward for _, _, reward, _ in steps[t:])
            gradients[number, state] -= table[state] * (to_go - share * value[t, state])
            gradients[number, state, action] += to_go - share * value[t, state]
    flat = gradients.flatten(1)
    return float((probabilities @ flat.square().sum(1)) - (probabilities @ flat).square().sum())


SKEWED = torch.tensor([[0.0, 0.0, 3.0]], dtype=torch.float64)


def test_the_exact_value_is_a_baseline_that_can_raise_the_variance() -> None:
    # Rare actions have large scores, and it is their returns that the best baseline is near: here 0 and 1, while the
    # value is near the return of the common action, 5.
    assert variance_under_value_baseline(GAMBLE, SKEWED, 1.0) > 1.1 * variance_under_value_baseline(GAMBLE, SKEWED, 0.0)


def test_elsewhere_it_lowers_it() -> None:
    even = torch.zeros(2, 2, dtype=torch.float64)
    assert variance_under_value_baseline(CHAIN, even, 1.0) < 0.9 * variance_under_value_baseline(CHAIN, even, 0.0)
