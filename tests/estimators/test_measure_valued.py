"""The measure-valued estimator: right for every law it knows, even where the cost jumps; refuses the others."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from scipy.special import roots_genlaguerre
from torch import Tensor
from torch.distributions import (
    Bernoulli,
    Chi2,
    Distribution,
    Exponential,
    ExpTransform,
    Gamma,
    Independent,
    MultivariateNormal,
    Normal,
    Poisson,
    TransformedDistribution,
)

from pgkit.baselines.batch import LeaveOneOut
from pgkit.baselines.constant import Zero
from pgkit.core import measure_valued
from pgkit.errors import UsageError
from pgkit.estimate import estimate_gradient
from pgkit.estimators.measure_valued import MeasureValued
from pgkit.types import Expectation, Parameters

pytestmark = pytest.mark.usefixtures("float64")


def above_one(samples: Tensor) -> Tensor:
    """A cost that jumps."""
    return (samples > 1).double()


ONE = torch.tensor(1.5)
DENSITY = math.exp(-(0.5**2) / 8) / (2 * math.sqrt(2 * math.pi))
"""Of N(1.5, 4) at 1."""
CASES: dict[str, tuple[Callable[[Tensor], Distribution], Tensor, Callable[[Tensor], Tensor], list[float]]] = {
    "normal_loc": (lambda a: Normal(a, 2.0), ONE, above_one, [DENSITY]),
    "normal_scale": (lambda a: Normal(1.5, a), torch.tensor(2.0), above_one, [-DENSITY * 0.25]),
    "normal_both": (
        lambda a: Independent(Normal(a, a.exp()), 1),
        torch.tensor([0.0, -1.0]),
        lambda x: x.square().sum(1),
        [2.0, -2 + 2 * math.exp(-2)],
    ),
    "poisson": (lambda a: Poisson(a), ONE, above_one, [1.5 * math.exp(-1.5)]),
    "bernoulli_probs": (
        lambda a: Independent(Bernoulli(probs=a), 1),
        torch.tensor([0.3, 0.6]),
        lambda x: x.prod(1),
        [0.6, 0.3],
    ),
    "bernoulli_logits": (lambda a: Bernoulli(logits=a), torch.tensor(0.0), lambda x: 3 * x, [0.75]),
    "exponential": (lambda a: Exponential(a), ONE, above_one, [-math.exp(-1.5)]),
    "gamma": (lambda a: Gamma(2.0, a), ONE, above_one, [-1.5 * math.exp(-1.5)]),
}


@pytest.mark.statistical
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_every_law_it_knows_gives_the_exact_gradient(name: str, biased: bool) -> None:
    """100,000 samples against closed forms, at 4.3 deviations: false alarm 1 in 50,000 a number."""
    law, parameters, cost, truth = CASES[name]
    estimate = estimate_gradient(cost, law, parameters, estimator="measure_valued", num_samples=100_000)
    assert estimate.standard_error is not None
    wrong = 1.1 if biased else 1.0
    error = wrong * estimate.standard_error + 1e-12  # some have no variance at all
    z_score = float(((estimate.mean * wrong - torch.tensor(truth)) / error).abs().max())
    assert (z_score < 4.3) != biased


@pytest.mark.exact
@pytest.mark.parametrize(("name", "shape"), [("gamma", 2.5), ("exponential", 1.0)])
def test_the_rate_of_a_gamma_law_has_its_exact_mean_and_variance(
    name: str, shape: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """f = x²: with G of that shape and E exponential the estimate is −(α/β³) E (2G + E), whose moments are known."""
    rate = 1.5
    points, weights = (torch.from_numpy(each) for each in roots_genlaguerre(12, shape - 1))
    other, shares = (torch.from_numpy(each) for each in roots_genlaguerre(12, 0))
    grid, volume = torch.cartesian_prod(points, other), torch.cartesian_prod(weights, shares).prod(1)
    volume = volume / volume.sum()

    def known(law: Gamma, num_samples: int) -> measure_valued.WeakDerivative:
        return measure_valued.gamma_rate(torch.tensor(shape), law.rate, grid[:, 0], grid[:, 1])

    kind = Gamma if name == "gamma" else Exponential
    monkeypatch.setitem(measure_valued.KNOWN, (kind, "rate"), known)
    found = estimate_gradient(
        torch.square,
        (lambda a: Gamma(shape, a)) if name == "gamma" else Exponential,
        torch.tensor(rate),
        estimator="measure_valued",
        num_samples=len(grid),
    )
    assert found.per_sample is not None
    mean = volume @ found.per_sample
    variance = volume @ (found.per_sample - mean).square()
    first, second = shape, shape * (shape + 1)
    square = (shape / rate**3) ** 2 * (8 * second + 24 * first + 24)
    assert float(mean) == pytest.approx(-2 * second / rate**3, abs=1e-10)
    assert float(variance) == pytest.approx(square - float(mean) ** 2, rel=1e-10)


def test_a_law_that_stays_leaves_the_gradient_of_the_cost_alone() -> None:
    theta = {"a": torch.tensor(2.0)}
    problem = Expectation(cost=lambda x: 2 * x, law=lambda _: Gamma(2.0, 1.0), direct_cost=lambda x, at: at["a"] * x)
    found = MeasureValued(baseline=Zero()).estimate(
        problem, theta, num_samples=5, generator=torch.Generator().manual_seed(0)
    )
    assert found.per_sample is not None and found.per_sample.shape == (5, 1) and bool((found.per_sample > 0).all())


def test_it_costs_two_evaluations_a_coordinate_of_what_is_learned() -> None:
    evaluated: list[int] = []

    def cost(samples: Tensor) -> Tensor:
        evaluated.append(len(samples))
        return samples.sum(1)

    mean = torch.zeros(3)
    estimate_gradient(cost, lambda m: Independent(Normal(m, 1.0), 1), mean, estimator="measure_valued", num_samples=10)
    assert sum(evaluated) == 10 * 3 * 2


def test_a_cost_that_moves_with_the_parameters_adds_its_own_gradient() -> None:
    expectation = Expectation(
        cost=lambda x: 2 * x,
        law=lambda t: Bernoulli(probs=t["p"]),
        direct_cost=lambda x, t: x * t["scale"],
    )
    parameters = {"p": torch.tensor(0.5), "scale": torch.tensor(2.0)}
    estimate = MeasureValued(baseline=Zero()).estimate(
        expectation, parameters, num_samples=1000, generator=torch.Generator().manual_seed(0)
    )
    assert float(estimate.by_name()["p"]) == pytest.approx(2.0)
    assert 0.4 < float(estimate.by_name()["scale"]) < 0.6


@pytest.mark.parametrize(
    ("law", "said"),
    [
        (lambda t: Gamma(t["a"], 1.0), r"Gamma\.concentration"),
        (lambda t: Chi2(t["a"]), r"Chi2\.df"),
        (lambda t: MultivariateNormal(t["a"] * torch.ones(2), torch.eye(2)), r"MultivariateNormal\.loc"),
        (lambda t: TransformedDistribution(Normal(t["a"], 1.0), [ExpTransform()]), "TransformedDistribution"),
    ],
)
def test_other_laws_are_refused_by_name(law: Callable[[Parameters], Distribution], said: str) -> None:
    expectation = Expectation(cost=above_one, law=law)
    with pytest.raises(UsageError, match=rf"^estimator: measure_valued for {said}, expected one of Normal\.loc, "):
        MeasureValued(baseline=Zero()).accepts(expectation, {"a": torch.tensor(2.0)})


def test_a_baseline_has_nothing_to_be_subtracted_from() -> None:
    with pytest.raises(UsageError, match=r"^baseline: LeaveOneOut, expected zero with MeasureValued"):
        MeasureValued(baseline=LeaveOneOut())


@pytest.mark.parametrize("name", CASES)
def test_the_global_generator_is_left_as_it_was(name: str) -> None:
    law, parameters, cost, _ = CASES[name]
    before = torch.get_rng_state()
    estimate_gradient(cost, law, parameters, estimator="measure_valued", num_samples=5)
    assert torch.equal(torch.get_rng_state(), before)
