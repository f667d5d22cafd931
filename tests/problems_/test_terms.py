"""Problems whose cost is a sum of terms: the estimators that use them, integrated over all that they may draw."""

from __future__ import annotations

from typing import get_args

import pytest
import torch
from torch import Tensor

from pgkit.baselines.constant import Zero
from pgkit.config import build
from pgkit.core import expectation as core
from pgkit.core.rao_blackwell import Separable
from pgkit.errors import UsageError
from pgkit.estimators.rao_blackwell import TermwiseScore
from pgkit.estimators.score import Score
from pgkit.problems.base import Problem
from pgkit.problems.conjugate_gaussian import ConjugateGaussian
from pgkit.problems.discrete import BernoulliChain, BernoulliToy
from pgkit.problems.gaussian import Cost, GaussianSum, hermite_grid
from pgkit.problems.known import IntegratedProblem, KnownProblem
from pgkit.protocols import GradientEstimator
from pgkit.types import Expectation, Parameters
from pgkit.verifying.pairs import options
from pgkit.vi.estimators import BlanketScore

pytestmark = pytest.mark.exact

SUMS = [GaussianSum(cost=cost, dimension=2, scale=0.7, learn_scale=True, mean=0.5) for cost in get_args(Cost)]
BITS = [BernoulliToy(dimension=5), BernoulliChain(dimension=6), BernoulliChain(dimension=2)]


def nodes(problem: Problem, parameters: Parameters, count: int = 40) -> tuple[Tensor, Tensor]:
    """Returns samples and weights over which any estimator from samples of the law may be integrated."""
    if isinstance(problem, IntegratedProblem):
        return problem.nodes(parameters)
    law = problem.expectation().law(parameters)
    noise, weights = hermite_grid(law.event_shape.numel(), count)
    return law.mean + noise * law.stddev, weights


def integrated(
    estimator: GradientEstimator,
    expectation: Expectation,
    parameters: Parameters,
    rule: tuple[Tensor, Tensor],
    monkeypatch: pytest.MonkeyPatch,
) -> tuple[Tensor, Tensor]:
    """Returns mean and variance `[P]` of one sample's gradient."""
    samples, weights = rule
    monkeypatch.setattr(core, "draw", lambda law, num_samples, generator: samples)
    generator = torch.Generator().manual_seed(0)
    found = estimator.estimate(expectation, parameters, num_samples=len(samples), generator=generator)
    assert found.per_sample is not None
    mean = weights @ found.per_sample
    return mean, weights @ (found.per_sample - mean).square()


def same(found: Tensor, expected: Tensor | None) -> bool:
    assert expected is not None
    return bool(((found - expected).abs() <= 1e-10 * (1 + expected.abs())).all())


@pytest.mark.parametrize("kind", [Score, TermwiseScore])
@pytest.mark.parametrize("problem", [*SUMS, *BITS], ids=lambda problem: type(problem).__name__)
def test_mean_and_variance_are_those_that_the_problem_says(
    problem: KnownProblem, kind: type[GradientEstimator], monkeypatch: pytest.MonkeyPatch
) -> None:
    name, parameters = "score" if kind is Score else "termwise_score", problem.parameters()
    rule = nodes(problem, parameters)
    mean, variance = integrated(kind(baseline=Zero()), problem.expectation(), parameters, rule, monkeypatch)
    assert same(mean, problem.exact_gradient(parameters))
    assert same(variance, problem.exact_variance(name, parameters))


def test_terms_of_their_own_take_the_golden_variance_from_41412_to_30() -> None:
    problem = GaussianSum(cost="quadratic", dimension=100, scale=1.0, learn_scale=False)
    for name, expected in (("score", 41412.0), ("termwise_score", 30.0)):
        variance = problem.exact_variance(name, problem.parameters())
        assert variance is not None and same(variance, torch.full((100,), expected, dtype=torch.float64))


def test_terms_add_up_to_the_cost_and_a_list_of_ones_own_comes_first() -> None:
    problem = BernoulliChain(dimension=4)
    expectation, parameters = problem.expectation(), problem.parameters()
    assert isinstance(expectation, Separable)
    samples, _ = problem.nodes(parameters)
    assert torch.equal(expectation.terms(samples).sum(dim=1), expectation.cost(samples))
    too_few = TermwiseScore(baseline=Zero(), terms=[[0], [1], [1, 2], [2]])
    with pytest.raises(UsageError, match="term 0 moves with factor 1"):
        too_few.estimate(expectation, parameters, num_samples=50, generator=torch.Generator().manual_seed(0))


def mean_field() -> ConjugateGaussian:
    problem = build(options("problem")["conjugate_mean_field"].node, expects=Problem)
    assert isinstance(problem, ConjugateGaussian)
    return problem


@pytest.mark.parametrize("kind", [Score, BlanketScore])
def test_blankets_have_the_exact_mean_and_variance(
    kind: type[GradientEstimator], monkeypatch: pytest.MonkeyPatch
) -> None:
    problem = mean_field()
    parameters = problem.parameters()
    rule = nodes(problem, parameters, count=6)
    mean, variance = integrated(kind(baseline=Zero()), problem.at(parameters), parameters, rule, monkeypatch)
    assert same(mean, problem.exact_gradient(parameters))
    assert same(variance, problem.exact_variance("score" if kind is Score else "blanket_score", parameters))


def test_blankets_vary_less() -> None:
    problem = mean_field()
    whole, apart = (problem.exact_variance(name, problem.parameters()) for name in ("score", "blanket_score"))
    assert whole is not None and apart is not None and float(apart.sum()) < 0.9 * float(whole.sum())


@pytest.mark.parametrize("name", ["pathwise", "sticking_the_landing"])
def test_the_variance_of_the_path_is_that_of_a_quadratic_form(name: str) -> None:
    """∇(log p − log q) is a + Bε, so that the variances are sums of squares: E[ε⁴] − 1 = 2 on the diagonal."""
    problem = mean_field()
    parameters = problem.parameters()
    scale = parameters["log_scale"].exp()
    constant = problem.precision @ (problem.mean - parameters["mean"])
    squares = (torch.diag(1 / scale) - problem.precision * scale).square()
    in_scale = scale**2 * (constant**2 + squares.sum(1) + squares.diagonal())
    assert same(torch.cat([squares.sum(1), in_scale]), problem.exact_variance(name, parameters))


def test_variances_that_are_not_known_are_not_told() -> None:
    problem = ConjugateGaussian(dimension=2, family="full_rank")
    assert problem.exact_variance("blanket_score", problem.parameters()) is None
    assert problem.exact_variance("score", problem.parameters()) is not None
    for other in (ConjugateGaussian(dimension=5), ConjugateGaussian(dimension=2, entropy="sampled")):
        assert other.exact_variance("score", other.parameters()) is None
    many = BernoulliChain(dimension=13)
    assert many.exact_variance("termwise_score", many.parameters()) is None
