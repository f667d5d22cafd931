"""A Taylor expansion as control variate: mean and variance by quadrature."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, Laplace, MultivariateNormal, Normal

from pgkit.baselines.batch import LeaveOneOut
from pgkit.baselines.constant import Zero
from pgkit.core import expectation
from pgkit.errors import UsageError
from pgkit.estimate import estimate_gradient
from pgkit.estimators.delta import ScoreDelta
from pgkit.estimators.score import Score
from pgkit.protocols import GradientEstimator
from pgkit.types import Expectation, Parameters

pytestmark = [pytest.mark.exact, pytest.mark.usefixtures("float64")]

LINE = {"mean": torch.tensor(0.7, dtype=torch.float64), "scale": torch.tensor(0.8, dtype=torch.float64)}
PLANE = {
    "mean": torch.tensor([0.7, -0.2], dtype=torch.float64),
    "root": torch.tensor([[0.8, 0.0], [0.3, 0.5]], dtype=torch.float64),
}
COSTS: dict[str, Callable[[Tensor], Tensor]] = {
    "square": torch.square,
    "quartic": lambda x: x**4,
    "cosine": torch.cos,
    "exponential": torch.exp,
}


def line(theta: Parameters) -> Distribution:
    return Normal(theta["mean"], theta["scale"])


def plane(theta: Parameters) -> Distribution:
    return MultivariateNormal(theta["mean"], scale_tril=theta["root"].tril())


def rule(order: int = 60) -> tuple[Tensor, Tensor]:
    points, weights = (torch.as_tensor(each) for each in np.polynomial.hermite_e.hermegauss(order))
    return points, weights / weights.sum()


def moments(
    monkeypatch: pytest.MonkeyPatch, estimator: GradientEstimator, problem: tuple[Expectation, Parameters]
) -> tuple[Tensor, Tensor]:
    """Returns mean and variance `[P]` over the samples of the law, by Gauss and Hermite's rule."""
    points, weights = rule()
    law = problem[0].law(problem[1])
    if law.event_shape:
        points = torch.cartesian_prod(points, points)
        weights = torch.cartesian_prod(weights, weights).prod(dim=1)
        samples = law.mean + points @ PLANE["root"].T
    else:
        samples = law.mean + law.stddev * points
    monkeypatch.setattr(expectation, "draw", lambda law, num_samples, generator: samples)
    generator = torch.Generator().manual_seed(0)
    found = estimator.estimate(*problem, num_samples=len(samples), generator=generator).per_sample
    assert found is not None
    mean = weights @ found
    return mean, weights @ found.square() - mean.square()


def pathwise(cost: Callable[[Tensor], Tensor]) -> Tensor:
    """Returns the exact gradient in mean and scale, by differentiating the quadrature of the reparameterised cost."""
    points, weights = rule()
    theta = [value.clone().requires_grad_() for value in LINE.values()]
    value = weights @ cost(theta[0] + theta[1] * points)
    return torch.stack(torch.autograd.grad(value, theta))


@pytest.mark.parametrize("name", COSTS)
def test_the_mean_is_the_gradient_and_the_variance_that_of_what_is_not_quadratic(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    problem = Expectation(cost=COSTS[name], law=line), LINE
    mean, variance = moments(monkeypatch, ScoreDelta(baseline=Zero()), problem)
    torch.testing.assert_close(mean, pathwise(COSTS[name]), rtol=0, atol=1e-10)
    m, s = LINE["mean"], LINE["scale"]
    points, weights = rule()
    at = m.clone().requires_grad_()
    (slope,) = torch.autograd.grad(COSTS[name](at), at, create_graph=True)
    (curvature,) = torch.autograd.grad(slope, at)
    left = COSTS[name](m + s * points) - COSTS[name](m) - slope * s * points - curvature * (s * points) ** 2 / 2
    score = torch.stack([points / s, (points.square() - 1) / s])
    expected = (left * score).square() @ weights - ((left * score) @ weights).square()
    torch.testing.assert_close(variance, expected.detach(), rtol=0, atol=1e-10)


def test_a_quadratic_cost_leaves_no_variance_and_a_quartic_little(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, most in (("square", 1e-15), ("quartic", 0.7), ("exponential", 0.3)):
        problem = Expectation(cost=COSTS[name], law=line), LINE
        less = moments(monkeypatch, ScoreDelta(baseline=Zero()), problem)[1]
        plain = moments(monkeypatch, Score(baseline=Zero()), problem)[1]
        assert (less <= most * plain).all()


def test_a_bad_expansion_raises_the_variance(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = Expectation(cost=lambda x: torch.cos(6 * x), law=line), LINE
    more = moments(monkeypatch, ScoreDelta(baseline=Zero()), problem)[1]
    assert (more > 5 * moments(monkeypatch, Score(baseline=Zero()), problem)[1]).all()


def test_correlated_gaussians_are_exact_in_mean_and_root(monkeypatch: pytest.MonkeyPatch) -> None:
    def cost(x: Tensor) -> Tensor:
        return x[:, 0] ** 2 * x[:, 1] + x[:, 1].exp()

    mean, _ = moments(monkeypatch, ScoreDelta(baseline=Zero()), (Expectation(cost=cost, law=plane), PLANE))
    points, weights = rule()
    grid = torch.cartesian_prod(points, points)
    theta = {name: value.clone().requires_grad_() for name, value in PLANE.items()}
    value = torch.cartesian_prod(weights, weights).prod(dim=1) @ cost(theta["mean"] + grid @ theta["root"].tril().T)
    exact = torch.cat([each.reshape(-1) for each in torch.autograd.grad(value, list(theta.values()))])
    torch.testing.assert_close(mean, exact, rtol=0, atol=1e-10)


def test_it_takes_a_baseline_and_a_product_of_normals() -> None:
    theta = {"mean": torch.tensor([0.3, -0.4])}

    def law(values: Parameters) -> Distribution:
        return Independent(Normal(values["mean"], 1.0), 1)

    found = ScoreDelta(baseline=LeaveOneOut()).estimate(
        Expectation(cost=lambda x: x.square().sum(dim=1), law=law),
        theta,
        num_samples=5,
        generator=torch.Generator().manual_seed(0),
    )
    torch.testing.assert_close(found.mean, 2 * theta["mean"], rtol=0, atol=1e-12)
    assert found.unbiased and not found.independent


@pytest.mark.parametrize(
    ("law", "cost", "said"),
    [
        (lambda p: Laplace(p, 1.0), torch.square, "score_delta for Laplace, expected Normal or MultivariateNormal"),
        (lambda p: Normal(p, 1.0), lambda x: (x.detach() > 0).double(), "cost: no gradient in its samples, expected"),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(
    law: Callable[[Tensor], Distribution], cost: Callable[[Tensor], Tensor], said: str
) -> None:
    with pytest.raises(UsageError, match=said):
        estimate_gradient(cost, law, torch.tensor(0.3), estimator="score_delta")


def test_what_lies_above_the_diagonal_of_a_cholesky_factor_has_no_gradient() -> None:
    theta = {"mean": PLANE["mean"], "root": PLANE["root"]}
    found = ScoreDelta(baseline=Zero()).estimate(
        Expectation(
            cost=lambda x: x.sum(dim=1).square(),
            law=lambda p: MultivariateNormal(p["mean"], scale_tril=p["root"], validate_args=False),
        ),
        theta,
        num_samples=3,
        generator=torch.Generator().manual_seed(0),
    )
    slope = 2 * theta["root"].sum(dim=0)
    expected = torch.stack([slope, slope]).tril()
    torch.testing.assert_close(found.by_name()["root"], expected, rtol=0, atol=1e-12)
