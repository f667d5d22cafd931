"""Measurements find biases that are there, none that are not, and the numbers that are known exactly."""

from __future__ import annotations

import pytest
import torch

from pgkit.baselines.batch import LeaveOneOut
from pgkit.baselines.constant import Zero
from pgkit.errors import UsageError
from pgkit.estimators.biased_twin import BiasedTwin
from pgkit.estimators.discrete import Enumeration, GumbelSoftmax
from pgkit.estimators.pathwise import Pathwise
from pgkit.estimators.score import Score
from pgkit.problems.discrete import CategoricalCost, SoftmaxBandit
from pgkit.problems.gaussian import GaussianSum
from pgkit.problems.known import KnownProblem
from pgkit.problems.measurement import GROWTH, Measurement, measure
from pgkit.protocols import GradientEstimator

pytestmark = pytest.mark.statistical
ALPHA = 1e-5
"""False-alarm rate of a whole test; the seeds are fixed."""


def measured(
    problem: KnownProblem, estimator: GradientEstimator, *, repeats: int = 200, num_samples: int = 4
) -> Measurement:
    return measure(
        problem,
        estimator,
        num_samples=num_samples,
        repeats=repeats,
        generator=torch.Generator().manual_seed(0),
        exact=problem.exact_gradient(problem.parameters()),
    )


def is_biased(found: Measurement) -> bool:
    assert found.p_value is not None
    return found.p_value * found.tests < ALPHA


@pytest.mark.parametrize("baseline", [Zero(), LeaveOneOut()], ids=["zero", "leave_one_out"])
def test_the_score_function_is_unbiased_and_its_error_falls_as_the_root(baseline: Zero | LeaveOneOut) -> None:
    found = measured(SoftmaxBandit(), Score(baseline=baseline))
    assert found.claims_unbiased and not is_biased(found)
    assert found.slope == pytest.approx(-0.5, abs=0.1)
    assert list(found.errors) == [4 * growth for growth in GROWTH]


def test_a_baseline_that_holds_its_own_sample_is_found_out_in_small_batches() -> None:
    found = measured(SoftmaxBandit(), BiasedTwin(baseline=Zero()))
    assert found.claims_unbiased and is_biased(found) and found.bias_batch == 4


def test_a_relaxation_is_found_out_in_large_batches_and_its_error_stays() -> None:
    found = measured(CategoricalCost(), GumbelSoftmax(baseline=Zero(), temperature=2.0))
    assert not found.claims_unbiased and is_biased(found)
    assert found.slope is not None and found.slope > -0.45


def test_what_does_not_sample_has_no_variance_no_bias_and_no_slope() -> None:
    found = measured(SoftmaxBandit(), Enumeration(baseline=Zero()), repeats=10)
    assert not is_biased(found) and found.variance < 1e-20 and found.slope is None


def test_variances_are_the_exact_ones() -> None:
    problem = GaussianSum(cost="quadratic", dimension=2, scale=1.0, learn_scale=True)
    parameters = problem.parameters()
    for name, estimator in (("score", Score(baseline=Zero())), ("pathwise", Pathwise(baseline=Zero()))):
        found = measured(problem, estimator)
        exact = float(problem.exact_variance(name, parameters).sum())
        assert abs(found.variance - exact) < 5 * found.variance_standard_error < 0.5 * exact


def test_the_variance_of_coupled_samples_is_that_of_their_means() -> None:
    problem = SoftmaxBandit()
    found = measured(problem, Score(baseline=LeaveOneOut()))
    # In large batches leave-one-out is a constant baseline of E[f].
    points, weights = problem.nodes(problem.parameters())
    rewards = problem.expectation().cost(points)
    score = torch.eye(3, dtype=torch.float64) - weights
    gradients = (rewards - weights @ rewards)[:, None] * score
    exact = float(weights @ gradients.square().sum(1) - (weights @ gradients).square().sum())
    assert abs(found.variance - exact) < 5 * found.variance_standard_error < exact


def test_rows_that_are_pairs_count_as_two_samples() -> None:
    problem = GaussianSum(cost="quadratic", dimension=1, scale=1.0, learn_scale=False)
    # In the mean the noise of x² is odd, so that pairs cancel it: no variance is left.
    found = measured(problem, Pathwise(baseline=Zero(), antithetic=True))
    assert found.variance < 1e-20 and not is_biased(found)


def test_batches_grow_until_the_baseline_has_what_it_needs() -> None:
    found = measured(SoftmaxBandit(), Score(baseline=LeaveOneOut()), num_samples=1, repeats=20)
    assert min(found.errors) == 2


def test_a_refusal_comes_through() -> None:
    with pytest.raises(UsageError, match="not reparameterised"):
        measured(SoftmaxBandit(), Pathwise(baseline=Zero()))


def test_without_a_known_gradient_there_is_variance_and_no_bias() -> None:
    found = measure(
        SoftmaxBandit(),
        Score(baseline=Zero()),
        num_samples=4,
        repeats=20,
        generator=torch.Generator().manual_seed(0),
        exact=None,
    )
    assert found.bias is None and found.p_value is None and found.tests == 0 and found.variance > 1
