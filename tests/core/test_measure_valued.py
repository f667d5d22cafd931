"""Weak derivatives: each pair of laws differs by the derivative, exactly, whatever the cost."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy import special
from torch import Tensor
from torch.distributions import Bernoulli, Gamma, Independent, Normal, Poisson

from pgkit.core import measure_valued
from pgkit.core.measure_valued import WeakDerivative

pytestmark = pytest.mark.usefixtures("float64")


def legendre(low: float, high: float, density: Callable[[Tensor], Tensor], number: int) -> tuple[Tensor, Tensor]:
    """Returns nodes and weights `[M]` of a density on an interval."""
    points, weights = (torch.tensor(each) for each in np.polynomial.legendre.leggauss(number))
    points = low + (high - low) * (points + 1) / 2
    return points, weights * (high - low) / 2 * density(points)


def rayleigh() -> tuple[Tensor, Tensor]:
    return legendre(0.0, 12.0, lambda w: w * (-(w**2) / 2).exp(), 200)


def maxwell_and_uniform() -> tuple[Tensor, Tensor, Tensor]:
    """Returns the two noises `[M]` of a deviation and the weights of their product."""
    points, weights = legendre(-13.0, 13.0, lambda m: m**2 * (-(m**2) / 2).exp() / math.sqrt(2 * math.pi), 120)
    fractions, others = legendre(0.0, 1.0, torch.ones_like, 60)
    pairs = torch.cartesian_prod(points, fractions)
    return pairs[:, 0], pairs[:, 1], torch.cartesian_prod(weights, others).prod(1)


def integrated(cost: Callable[[Tensor], Tensor], derivative: WeakDerivative, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Returns mean and variance of one sample's gradient under the weights of its noise."""
    rows = measure_valued.gradients(cost, derivative.plus, {"argument": derivative})["argument"]
    mean = weights @ rows
    return mean, weights @ (rows - mean).square()


def test_the_golden_variances_of_a_square_are_met() -> None:
    one = torch.ones(())
    noise, weights = rayleigh()
    mean, variance = integrated(torch.square, measure_valued.gaussian_mean(one, one, noise), weights)
    assert float(mean) == pytest.approx(2.0, abs=1e-10)
    assert float(variance) == pytest.approx(16 / math.pi - 4, abs=1e-10)  # 1.09: (4W/√(2π))², W² of mean 2
    maxwell, uniform, weights = maxwell_and_uniform()
    mean, variance = integrated(torch.square, measure_valued.gaussian_scale(one, one, maxwell, uniform), weights)
    assert float(mean) == pytest.approx(2.0, abs=1e-10)
    assert float(variance) == pytest.approx(8.0, abs=1e-10)


@pytest.mark.parametrize("frequency", [0.5, 2.0, 5.0])
def test_gaussian_derivatives_of_a_cosine_are_exact(frequency: float) -> None:
    loc, scale = torch.tensor(0.7), torch.tensor(1.5)
    noise, weights = rayleigh()
    damping = math.exp(-((frequency * 1.5) ** 2) / 2)
    mean = integrated(lambda x: (frequency * x).cos(), measure_valued.gaussian_mean(loc, scale, noise), weights)[0]
    assert float(mean) == pytest.approx(-frequency * math.sin(0.7 * frequency) * damping, abs=1e-10)
    maxwell, uniform, weights = maxwell_and_uniform()
    mean = integrated(
        lambda x: (frequency * x).cos(), measure_valued.gaussian_scale(loc, scale, maxwell, uniform), weights
    )[0]
    assert float(mean) == pytest.approx(-(frequency**2) * 1.5 * math.cos(0.7 * frequency) * damping, abs=1e-10)


@pytest.mark.parametrize("shape", [1.0, 2.5])
def test_the_derivative_in_the_rate_of_a_gamma_law_is_exact(shape: float) -> None:
    rate = torch.tensor(2.0)
    gammas, weights = (torch.tensor(each) for each in special.roots_genlaguerre(20, shape - 1))
    exponentials, others = (torch.tensor(each) for each in special.roots_laguerre(20))
    pairs = torch.cartesian_prod(gammas, exponentials)
    weights = torch.cartesian_prod(weights / math.gamma(shape), others).prod(1)
    derivative = measure_valued.gamma_rate(torch.tensor(shape), rate, *pairs.unbind(1))
    # E[x³] = α(α + 1)(α + 2)/β³.
    truth = -3 * shape * (shape + 1) * (shape + 2) / 2.0**4
    assert float(integrated(lambda x: x**3, derivative, weights)[0]) == pytest.approx(truth, abs=1e-10)


def test_the_derivative_in_the_rate_of_counts_is_exact() -> None:
    rate, counts = torch.tensor(3.0), torch.arange(100.0)
    weights = Poisson(rate).log_prob(counts).exp()
    mean, variance = integrated(torch.square, measure_valued.poisson_rate(counts), weights)
    # E[x²] = λ² + λ; the estimate is 2X + 1.
    assert float(mean) == pytest.approx(7.0, abs=1e-10)
    assert float(variance) == pytest.approx(12.0, abs=1e-10)


@pytest.mark.parametrize("given", ["probs", "logits"])
def test_coordinates_are_replaced_one_at_a_time(given: str) -> None:
    argument = torch.tensor([0.2, 0.5, 0.7], requires_grad=True)
    law = Independent(Bernoulli(**{given: argument}), 1)
    samples = torch.tensor(list(itertools.product([0.0, 1.0], repeat=3)))

    def cost(x: Tensor) -> Tensor:
        return (x @ torch.tensor([1.0, 2.0, 4.0])).square() + 5 * x.prod(1)

    weights = law.log_prob(samples).exp()
    (expected,) = torch.autograd.grad((weights * cost(samples)).sum(), argument)
    with torch.no_grad():
        derivatives = measure_valued.weak_derivatives(law, [given], len(samples))
    rows = measure_valued.gradients(cost, samples, derivatives)[given]
    torch.testing.assert_close(weights.detach() @ rows, expected, atol=1e-12, rtol=0)


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    samples, noise = torch.randn(2, 11, 3, generator=torch.Generator().manual_seed(0))
    derivative = {"loc": measure_valued.gaussian_mean(torch.zeros(3), torch.ones(3), noise.abs())}
    sizes: list[int] = []

    def cost(x: Tensor) -> Tensor:
        sizes.append(len(x))
        return x.prod(1).sin()

    whole = measure_valued.gradients(cost, samples, derivative)["loc"]
    assert sizes == [33, 33]
    monkeypatch.setattr(measure_valued, "LARGEST_BLOCK", 80)
    torch.testing.assert_close(measure_valued.gradients(cost, samples, derivative)["loc"], whole, atol=0, rtol=0)
    assert sizes[2:] == [12, 12, 12, 12, 9, 9]


def test_what_is_not_known_is_named() -> None:
    assert measure_valued.unknown(Gamma(1.0, 1.0), ["concentration", "rate"]) == ["Gamma.concentration"]
    assert measure_valued.unknown(Independent(Normal(torch.zeros(2), 1.0), 1), ["loc", "scale"]) == []
