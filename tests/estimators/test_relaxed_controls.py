"""REBAR and RELAX on several bits and on three arms: mean and variance by quadrature over both of their noises.

A row is X(u) + Y(b, v): z comes from u alone and z̃ from its step b and a noise v of its own. So given b the two are
independent, and an expectation over both noises is one over u and one over v: the estimator is run along a grid of u
at one v, and along a grid of v at one u of every b. That rows add up like that is checked at points of neither grid.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor
from torch.distributions import Bernoulli, Distribution, Independent, OneHotCategorical

from pgkit.baselines.constant import Zero
from pgkit.core import discrete
from pgkit.core.relaxation import BinaryRelaxation, OneHotRelaxation, Relaxation
from pgkit.estimators import relax
from pgkit.estimators.discrete import REBAR, Enumeration
from pgkit.estimators.relax import RELAX
from pgkit.protocols import GradientEstimator
from pgkit.types import Expectation, Parameters

pytestmark = [pytest.mark.exact, pytest.mark.usefixtures("float64")]


@dataclass(frozen=True)
class Case:
    """A law, a cost, and rules for its noises: uniform noise `[M, D]` and weights `[M]` given each outcome."""

    relaxation: Relaxation
    law: Callable[[Parameters], Distribution]
    logits: Tensor
    outcomes: Tensor
    cost: Callable[[Tensor], Tensor]
    axis: Callable[[float], tuple[Tensor, Tensor]]

    @property
    def expectation(self) -> Expectation:
        return Expectation(cost=self.cost, law=self.law)

    def probability(self, outcome: Tensor) -> float:
        return float(self.law({"phi": self.logits}).log_prob(outcome).exp())

    def conditional(self, step: float) -> tuple[Tensor, Tensor]:
        """Returns noise of z̃ `[M, D]` and weights `[M]`, the same given every outcome."""
        noise, weights = self.axis(step)
        size = len(self.logits)
        return torch.cartesian_prod(*[noise] * size), torch.cartesian_prod(*[weights] * size).prod(dim=1)

    def joint(self, outcome: Tensor, step: float) -> tuple[Tensor, Tensor]:
        """Returns noise of z `[M, D]` whose step is an outcome, and weights `[M]` that add up to 1.

        z given its step is what the conditional says; the noise that it is made of follows.
        """
        noise, weights = self.conditional(step)
        z = self.relaxation.conditional(self.logits, outcome.expand_as(noise), self.relaxation.base(noise))
        if isinstance(self.relaxation, BinaryRelaxation):
            return (z - self.logits).sigmoid(), weights
        return (-(self.logits.log_softmax(dim=-1) - z).exp()).exp(), weights


def trapezoids(low: float, high: float, step: float) -> tuple[Tensor, Tensor]:
    """Returns nodes and weights of the trapezoidal rule.

    It converges exponentially for integrands that are analytic about the line and negligible at both ends.
    """
    nodes = torch.arange(low, high, step)
    return nodes, torch.full_like(nodes, step)


def logistic(step: float) -> tuple[Tensor, Tensor]:
    """Returns uniform noise and weights, even in its logit."""
    nodes, weights = trapezoids(-32.0, 32.0, step)
    return nodes.sigmoid(), weights * nodes.sigmoid() * (-nodes).sigmoid()


def gumbel(step: float) -> tuple[Tensor, Tensor]:
    """Returns uniform noise and weights, even in log(−log u)."""
    nodes, weights = trapezoids(-27.0, 3.7, step)
    return (-nodes.exp()).exp(), weights * (nodes - nodes.exp()).exp()


def two(b: Tensor) -> Tensor:
    """A cost that couples two bits."""
    return (b[:, 0] - 0.49) ** 2 + 1.5 * b[:, 0] * b[:, 1] - 0.7 * b[:, 1].square()


def arms(b: Tensor) -> Tensor:
    """A cost of one-hot rows."""
    return (b @ torch.tensor([1.0, -2.0, 0.5])) ** 2


BITS = Case(
    relaxation=BinaryRelaxation(),
    law=lambda theta: Independent(Bernoulli(logits=theta["phi"]), 1),
    logits=torch.tensor([0.4, -0.9], dtype=torch.float64),
    outcomes=torch.cartesian_prod(*[torch.tensor([0.0, 1.0], dtype=torch.float64)] * 2),
    cost=two,
    axis=logistic,
)
ARMS = Case(
    relaxation=OneHotRelaxation(),
    law=lambda theta: OneHotCategorical(logits=theta["phi"]),
    logits=torch.tensor([0.3, -0.8, 1.1], dtype=torch.float64),
    outcomes=torch.eye(3, dtype=torch.float64),
    cost=arms,
    axis=gumbel,
)


@pytest.fixture
def rows(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Tensor]:
    """Returns a function: the rows `[N, P]` of an estimator under given noises `[N, D]`."""

    def run(case: Case, estimator: GradientEstimator, *noises: Tensor) -> Tensor:
        turns: Iterator[Tensor] = iter(noises)
        monkeypatch.setattr(discrete, "uniform", lambda logits, num_samples, generator: next(turns))
        found = estimator.estimate(
            case.expectation, {"phi": case.logits}, num_samples=len(noises[0]), generator=torch.Generator()
        )
        assert found.per_sample is not None
        return found.per_sample

    return run


def integrated(
    case: Case, estimator: GradientEstimator, rows: Callable[..., Tensor], step: float
) -> tuple[Tensor, Tensor]:
    """Returns the mean and the variance `[P]` of a row."""
    mean = second = torch.zeros(())
    noise, weights = case.conditional(step)
    for outcome in case.outcomes:
        drawn, chances = case.joint(outcome, step)
        middle = len(noise) // 2
        still, fixed = noise[middle : middle + 1], drawn[middle : middle + 1]
        along = rows(case, estimator, drawn, still.expand_as(drawn))
        across = rows(case, estimator, fixed.expand_as(noise), noise)
        across = across - rows(case, estimator, fixed, still)
        probability = case.probability(outcome)
        first, other = chances @ along, weights @ across
        mean = mean + probability * (first + other)
        squares = chances @ along.square() + 2 * first * other + weights @ across.square()
        second = second + probability * squares
    return mean, second - mean.square()


def truth(case: Case) -> Tensor:
    enumeration = Enumeration(baseline=Zero())
    return enumeration.estimate(case.expectation, {"phi": case.logits}, num_samples=1, generator=torch.Generator()).mean


def score_variance(case: Case) -> Tensor:
    """Returns the variance of f(b) ∇log p(b), a sum over outcomes."""
    chances = torch.tensor([case.probability(outcome) for outcome in case.outcomes])
    terms = case.cost(case.outcomes)[:, None] * case.relaxation.score(case.logits, case.outcomes)
    return chances @ terms.square() - (chances @ terms).square()


@pytest.mark.parametrize(("case", "step"), [(BITS, 0.3), (ARMS, 0.32)], ids=["bits", "arms"])
def test_rebar_has_the_exact_mean_and_a_variance_that_is_a_parabola_in_its_weight(
    case: Case, step: float, rows: Callable[..., Tensor]
) -> None:
    def measured(eta: float) -> tuple[Tensor, Tensor]:
        return integrated(case, REBAR(baseline=Zero(), temperature=1.0, eta=eta), rows, step)

    found = {eta: measured(eta) for eta in (-1.0, 0.0, 0.3, 1.0)}
    for mean, _ in found.values():
        torch.testing.assert_close(mean, truth(case), rtol=0, atol=1e-10)
    torch.testing.assert_close(found[0.0][1], score_variance(case), rtol=0, atol=1e-10)
    low, none, high = (found[eta][1] for eta in (-1.0, 0.0, 1.0))
    expected = none + 0.3 * (high - low) / 2 + 0.09 * ((low + high) / 2 - none)
    torch.testing.assert_close(found[0.3][1], expected, rtol=0, atol=1e-10)
    # The rule has converged: a coarser one says the same.
    coarser = integrated(case, REBAR(baseline=Zero(), temperature=1.0, eta=1.0), rows, 1.1 * step)
    torch.testing.assert_close(coarser[1], high, rtol=0, atol=1e-9)


@pytest.mark.parametrize(("case", "step"), [(BITS, 0.3), (ARMS, 0.32)], ids=["bits", "arms"])
def test_relax_has_the_exact_mean_with_a_network_that_has_learnt(
    case: Case, step: float, rows: Callable[..., Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    estimator = RELAX(baseline=Zero(), hidden=4, lr=0.05)
    for seed in range(150):
        generator = torch.Generator().manual_seed(seed)
        estimator.estimate(case.expectation, {"phi": case.logits}, num_samples=200, generator=generator)
    monkeypatch.setattr(relax._Surrogate, "learn", lambda self, per_sample: None)
    mean, variance = integrated(case, estimator, rows, step)
    torch.testing.assert_close(mean, truth(case), rtol=0, atol=1e-10)
    assert float(variance.sum()) < 0.8 * float(score_variance(case).sum())
    coarser = integrated(case, estimator, rows, 1.1 * step)[1]
    torch.testing.assert_close(coarser, variance, rtol=0, atol=1e-9)


@pytest.mark.parametrize("case", [BITS, ARMS], ids=["bits", "arms"])
def test_rows_are_a_sum_over_both_noises_given_the_step(case: Case, rows: Callable[..., Tensor]) -> None:
    generator = torch.Generator().manual_seed(0)
    first = torch.rand(500, len(case.logits), generator=generator)
    other = torch.rand(500, len(case.logits), generator=generator)
    estimator = REBAR(baseline=Zero(), temperature=0.7, eta=1.0)
    steps = case.relaxation.hard(case.relaxation.continuous(case.logits, case.relaxation.base(first)))
    for outcome in case.outcomes:
        own = first[(steps == outcome).all(dim=1)][:10]
        left, right = own[:5], own[5:]
        one, two_ = other[:5], other[5:10]
        crossed = rows(case, estimator, left, one) + rows(case, estimator, right, two_)
        straight = rows(case, estimator, left, two_) + rows(case, estimator, right, one)
        torch.testing.assert_close(crossed, straight, rtol=0, atol=1e-11)
