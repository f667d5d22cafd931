"""Summing what is known: same mean, less variance, each enumerated or integrated over the samples drawn."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import (
    Bernoulli,
    Categorical,
    Distribution,
    Independent,
    MultivariateNormal,
    Normal,
    OneHotCategorical,
    Poisson,
)

from pgkit.baselines.batch import LeaveOneOut
from pgkit.baselines.constant import Zero
from pgkit.baselines.optimal import Optimal
from pgkit.core import discrete, expectation, rao_blackwell
from pgkit.errors import UsageError
from pgkit.estimate import estimate_gradient
from pgkit.estimators.rao_blackwell import MarginalisedScore, SumAndSample, TermwiseScore
from pgkit.estimators.score import Score
from pgkit.protocols import GradientEstimator
from pgkit.types import Expectation, Parameters

pytestmark = [pytest.mark.exact, pytest.mark.usefixtures("float64")]

THETA = {"phi": torch.tensor([0.3, -0.8, 1.1], dtype=torch.float64)}


def bits(theta: Parameters) -> Distribution:
    return Independent(Bernoulli(logits=theta["phi"]), 1)


def three(b: Tensor) -> Tensor:
    return (b[:, 0] - 0.49) ** 2 + 2 * b[:, 0] * b[:, 1] - 1.5 * b[:, 1] * b[:, 2] + b.prod(dim=1) + 0.7 * b[:, 2]


def chained(b: Tensor) -> Tensor:
    """Terms that share neighbours, `[N, 2]`."""
    return torch.stack([2 * b[:, 0] * b[:, 1] + b[:, 0], b[:, 1] * b[:, 2] - 3 * b[:, 2]], dim=1)


def normals(theta: Parameters) -> Distribution:
    return Independent(Normal(theta["mean"], torch.ones_like(theta["mean"])), 1)


def hermite(dimensions: int, order: int) -> tuple[Tensor, Tensor]:
    """Returns nodes `[Q, D]` and weights of N(1, 1)^D, exact for polynomials of degree 2 order − 1 in each."""
    points, weights = (torch.as_tensor(each) for each in np.polynomial.hermite_e.hermegauss(order))
    grid = torch.cartesian_prod(*[1 + points] * dimensions).reshape(-1, dimensions)
    return grid, torch.cartesian_prod(*[weights / weights.sum()] * dimensions).reshape(len(grid), -1).prod(dim=1)


def rows(
    monkeypatch: pytest.MonkeyPatch,
    estimator: GradientEstimator,
    problem: tuple[Expectation, Parameters],
    samples: Tensor,
) -> Tensor:
    """Returns the per-sample gradients `[N, P]` of an estimator that draws these samples."""
    monkeypatch.setattr(expectation, "draw", lambda law, num_samples, generator: samples)
    found = estimator.estimate(*problem, num_samples=len(samples), generator=torch.Generator().manual_seed(0))
    assert found.per_sample is not None
    return found.per_sample


def moments(per_sample: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    mean = weights @ per_sample
    return mean, weights @ per_sample.square() - mean.square()


def truth(cost: Callable[[Tensor], Tensor], law: Callable[[Parameters], Distribution], theta: Parameters) -> Tensor:
    values = discrete.support(law(theta), 1000)
    return discrete.enumerated(Expectation(cost=cost, law=law), theta, values)


@pytest.mark.parametrize("dimensions", [1, 2, 6])
def test_a_sum_over_normals_has_the_variances_of_the_closed_forms(
    dimensions: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """x ~ N(1, 1)^D, f = Σ x_d²: 30 + 22(D−1) + 4(D−1)² by the score function, 30 whatever D termwise."""
    theta = {"mean": torch.ones(dimensions)}
    samples, weights = hermite(dimensions, 4)
    whole = Expectation(cost=lambda x: x.square().sum(dim=1), law=normals), theta
    apart = Expectation(cost=lambda x: x.square(), law=normals), theta
    plain = moments(rows(monkeypatch, Score(baseline=Zero()), whole, samples), weights)
    termwise = moments(rows(monkeypatch, TermwiseScore(baseline=Zero()), apart, samples), weights)
    for mean, _ in (plain, termwise):
        torch.testing.assert_close(mean, torch.full((dimensions,), 2.0), rtol=0, atol=1e-10)
    others = dimensions - 1
    expected = torch.full((dimensions,), 30.0 + 22 * others + 4 * others**2)
    torch.testing.assert_close(plain[1], expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(termwise[1], torch.full((dimensions,), 30.0), rtol=1e-12, atol=0)


def test_shared_terms_are_credited_to_every_factor_that_moves_them(monkeypatch: pytest.MonkeyPatch) -> None:
    values, chance = discrete.support(bits(THETA), 8), bits(THETA).log_prob(discrete.support(bits(THETA), 8)).exp()
    exact = truth(lambda b: chained(b).sum(dim=1), bits, THETA)
    estimator = TermwiseScore(baseline=Zero(), terms=[[0], [0, 1], [1]])
    mean, variance = moments(rows(monkeypatch, estimator, (Expectation(cost=chained, law=bits), THETA), values), chance)
    torch.testing.assert_close(mean, exact, rtol=0, atol=1e-12)
    # Closed form: the conditional mean of each coordinate is a sum over the neighbours of its factor.
    score = values - THETA["phi"].sigmoid()
    terms = chained(values)
    credit = torch.stack([terms[:, 0], terms.sum(dim=1), terms[:, 1]], dim=1)
    torch.testing.assert_close(variance, chance @ (credit * score).square() - exact**2, rtol=0, atol=1e-12)


def test_leave_one_out_keeps_termwise_scores_unbiased(monkeypatch: pytest.MonkeyPatch) -> None:
    values, exact = discrete.support(bits(THETA), 8), truth(lambda b: chained(b).sum(dim=1), bits, THETA)
    chance, mean = bits(THETA).log_prob(values).exp(), torch.zeros(3)
    problem = Expectation(cost=chained, law=bits), THETA
    for first in range(8):
        for second in range(8):
            estimator = TermwiseScore(baseline=LeaveOneOut(), terms=[[0], [0, 1], [1]])
            found = rows(monkeypatch, estimator, problem, values[[first, second]]).mean(dim=0)
            mean = mean + chance[first] * chance[second] * found
    torch.testing.assert_close(mean, exact, rtol=0, atol=1e-12)


def test_dependence_is_seen_where_there_is_any() -> None:
    samples = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    found = rao_blackwell.dependence(chained, samples, 3)
    assert found.tolist() == [[True, False], [True, True], [False, True]]
    noise = torch.Generator().manual_seed(0)
    noisy = rao_blackwell.dependence(lambda x: chained(x) + torch.rand(len(x), 2, generator=noise), samples, 3)
    assert not noisy.any()


@pytest.mark.parametrize("factors", [[0], [2, 1], [0, 1, 2]])
def test_marginalised_factors_are_the_conditional_mean_of_the_score(
    factors: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    values = discrete.support(bits(THETA), 8)
    chance, exact = bits(THETA).log_prob(values).exp(), truth(three, bits, THETA)
    problem = Expectation(cost=three, law=bits), THETA
    plain = rows(monkeypatch, Score(baseline=Zero()), problem, values)
    found = rows(monkeypatch, MarginalisedScore(baseline=Zero(), factors=factors), problem, values)
    kept = [factor for factor in range(3) if factor not in factors]
    same = (values[:, None, kept] == values[:, kept]).all(dim=-1) * chance
    expected = same @ plain / same.sum(dim=1, keepdim=True)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(chance @ found, exact, rtol=0, atol=1e-12)
    assert (moments(found, chance)[1] <= moments(plain, chance)[1]).all()


@pytest.mark.parametrize("event", ["indices", "rows"])
def test_factors_of_categories_can_be_marginalised(event: str, monkeypatch: pytest.MonkeyPatch) -> None:
    theta = {"phi": torch.tensor([[0.3, -0.8, 1.1], [0.2, 0.0, -1.0]])}
    kind = Categorical if event == "indices" else OneHotCategorical
    table = torch.tensor([1.0, -2.0, 0.5])

    def law(values: Parameters) -> Distribution:
        return Independent(kind(logits=values["phi"]), 1)

    def cost(x: Tensor) -> Tensor:
        seen = table[x] if event == "indices" else x @ table
        return (seen[:, 0] + 0.3) * seen[:, 1] ** 2

    values = discrete.support(law(theta), 9)
    problem, chance = (Expectation(cost=cost, law=law), theta), law(theta).log_prob(values).exp()
    found = rows(monkeypatch, MarginalisedScore(baseline=Zero(), factors=[1]), problem, values)
    torch.testing.assert_close(chance @ found, truth(cost, law, theta), rtol=0, atol=1e-12)


def test_a_cost_that_moves_with_the_parameters_is_marginalised_too(monkeypatch: pytest.MonkeyPatch) -> None:
    values = discrete.support(bits(THETA), 8)
    chance = bits(THETA).log_prob(values).exp()
    problem = Expectation(
        cost=lambda b: three(b) * THETA["phi"].sum(), law=bits, direct_cost=lambda b, p: three(b) * p["phi"].sum()
    )
    exact = discrete.enumerated(problem, THETA, values)
    found = rows(monkeypatch, MarginalisedScore(baseline=Zero(), factors=[1]), (problem, THETA), values)
    torch.testing.assert_close(chance @ found, exact, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", [Categorical, OneHotCategorical])
@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("moving", [False, True])
def test_sum_and_sample_is_exact_over_what_it_draws(
    kind: Callable[..., Distribution], k: int, moving: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    theta = {"phi": torch.tensor([0.3, -0.8, 1.1, 0.0, -2.0])}
    table = torch.tensor([1.0, -2.0, 0.5, 3.0, 1.5])

    def law(values: Parameters) -> Distribution:
        return kind(logits=values["phi"])

    def cost(x: Tensor) -> Tensor:
        return (table[x] if x.ndim == 1 else x @ table) * (theta["phi"].sum() if moving else 1.0)

    def direct(x: Tensor, values: Parameters) -> Tensor:
        return (table[x] if x.ndim == 1 else x @ table) * values["phi"].sum()

    problem = Expectation(cost=cost, law=law, direct_cost=direct if moving else None)
    chances = theta["phi"].softmax(dim=0)
    rest = chances.index_fill(0, chances.topk(k).indices, 0.0)
    drawn = torch.arange(5)[rest > 0]
    monkeypatch.setattr(torch, "multinomial", lambda *given, **named: drawn)
    found = rows(monkeypatch, SumAndSample(baseline=Zero(), k=k), (problem, theta), drawn)
    mean, variance = moments(found, rest[drawn] / rest.sum())
    exact = discrete.enumerated(problem, theta, discrete.support(law(theta), 5))
    torch.testing.assert_close(mean, exact, rtol=0, atol=1e-12)
    values = discrete.support(law(theta), 5)
    plain = moments(rows(monkeypatch, Score(baseline=Zero()), (problem, theta), values), chances)[1]
    assert (variance <= plain + 1e-15).all() and float(variance.sum()) < 0.8 * float(plain.sum())


def test_sum_and_sample_stays_unbiased_with_leave_one_out(monkeypatch: pytest.MonkeyPatch) -> None:
    theta, table = {"phi": torch.tensor([0.3, -0.8, 1.1])}, torch.tensor([1.0, -2.0, 0.5])
    problem = Expectation(cost=lambda x: table[x], law=lambda values: Categorical(logits=values["phi"]))
    chances = theta["phi"].softmax(dim=0)
    rest, mean = chances[:2] / chances[:2].sum(), torch.zeros(3)
    for first in range(2):
        for second in range(2):
            drawn = torch.tensor([first, second])
            monkeypatch.setattr(torch, "multinomial", lambda *given, drawn=drawn, **named: drawn)
            found = rows(monkeypatch, SumAndSample(baseline=LeaveOneOut()), (problem, theta), drawn)
            mean = mean + rest[first] * rest[second] * found.mean(dim=0)
    exact = discrete.enumerated(problem, theta, torch.arange(3))
    torch.testing.assert_close(mean, exact, rtol=0, atol=1e-12)


def test_samples_of_the_rest_follow_their_chances() -> None:
    """Statistical: |z| under 4.5, false alarms 3e-5; an answer off by a fifth is told apart."""
    theta, table = torch.tensor([0.3, -0.8, 1.1, 0.0]), torch.tensor([1.0, -2.0, 0.5, 3.0])
    before = torch.random.get_rng_state()
    found = estimate_gradient(
        lambda x: table[x], lambda p: Categorical(logits=p), theta, estimator="sum_and_sample", num_samples=20_000
    )
    assert torch.equal(before, torch.random.get_rng_state())
    exact = truth(lambda x: table[x], lambda p: Categorical(logits=p["phi"]), {"phi": theta})
    assert found.standard_error is not None
    assert float(((found.mean - exact) / found.standard_error).abs().max()) < 4.5
    assert float(((1.2 * found.mean - exact) / found.standard_error).abs().max()) > 4.5


def cat(theta: Parameters) -> Distribution:
    return Categorical(logits=theta["phi"])


@pytest.mark.parametrize(
    ("estimator", "law", "cost", "said"),
    [
        (TermwiseScore, cat, three, "termwise_score for Categorical, expected Independent"),
        (
            TermwiseScore,
            lambda theta: MultivariateNormal(theta["phi"], torch.eye(3)),
            three,
            "termwise_score for MultivariateNormal, expected Independent",
        ),
        (TermwiseScore, bits, three, r"cost: shape \[5\], expected \[N, M\] with 3 terms, or terms to be given"),
        (TermwiseScore, bits, chained, r"cost: shape \[5, 2\], expected \[N, M\] with 3 terms"),
        (
            lambda baseline: TermwiseScore(baseline=baseline, terms=[[0], [0]]),
            bits,
            chained,
            "estimator.terms: 2 lists, expected 3, one for each factor",
        ),
        (
            lambda baseline: TermwiseScore(baseline=baseline, terms=[[0], [0], [2]]),
            bits,
            chained,
            "estimator.terms: 2, expected less than the 2 of the cost",
        ),
        (
            lambda baseline: TermwiseScore(baseline=baseline, terms=[[0], [0], [1]]),
            lambda theta: Independent(Normal(theta["phi"], torch.ones(3)), 1),
            chained,
            r"estimator.terms: term 1 moves with factor 1, expected it in terms\[1\]",
        ),
        (
            lambda baseline: MarginalisedScore(baseline=baseline, factors=[3]),
            bits,
            three,
            r"estimator.factors: \[3\], expected some of the law's 0 to 2",
        ),
        (
            MarginalisedScore,
            lambda theta: Independent(Poisson(theta["phi"].exp()), 1),
            three,
            "support of Poisson, expected a finite one",
        ),
        (
            lambda baseline: MarginalisedScore(baseline=baseline, factors=list(range(13))),
            lambda theta: Independent(Bernoulli(logits=theta["phi"].sum().expand(20)), 1),
            three,
            "sum over 8192 values of the law, expected at most 4096",
        ),
        (SumAndSample, bits, three, "sum_and_sample for Independent, expected Categorical; or marginalised_score"),
        (
            lambda baseline: SumAndSample(baseline=baseline, k=3),
            cat,
            lambda x: x.double(),
            "estimator.k: 3, expected less than the 3 categories; or enumeration",
        ),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(
    estimator: Callable[..., GradientEstimator],
    law: Callable[[Parameters], Distribution],
    cost: Callable[[Tensor], Tensor],
    said: str,
) -> None:
    with pytest.raises(UsageError, match=said) as caught:
        estimator(baseline=Zero()).estimate(
            Expectation(cost=cost, law=law), THETA, num_samples=5, generator=torch.Generator().manual_seed(0)
        )
    assert "\n" not in str(caught.value)


def test_baselines_that_need_scores_are_refused() -> None:
    with pytest.raises(UsageError, match="baseline: optimal where no scores are handed over"):
        MarginalisedScore(baseline=Optimal()).estimate(
            Expectation(cost=three, law=bits), THETA, num_samples=5, generator=torch.Generator().manual_seed(0)
        )
