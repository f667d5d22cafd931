"""The estimator of Bonnet and Price: exact mean and variance by quadrature, and what it refuses."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.distributions import Distribution, Gamma, Independent, MultivariateNormal, Normal, StudentT

from pgkit.baselines.batch import Mean
from pgkit.baselines.constant import Zero
from pgkit.errors import UsageError
from pgkit.estimators.bonnet_price import BonnetPrice
from pgkit.types import Expectation, GradientEstimate, Parameters
from tests.quadrature import hermite, moments, nodes_law

pytestmark = pytest.mark.usefixtures("float64")


def run(
    cost: Callable[[Tensor], Tensor],
    law: Callable[[Parameters], Distribution],
    parameters: Parameters,
    num_samples: int,
    estimator: BonnetPrice | None = None,
) -> GradientEstimate:
    expectation = Expectation(cost=cost, law=law)
    made = estimator or BonnetPrice(baseline=Zero())
    return made.estimate(expectation, parameters, num_samples=num_samples, generator=torch.Generator().manual_seed(0))


class Joint(MultivariateNormal):
    """A correlated Gaussian that draws the nodes of `hermite(12, 2)` for noise."""

    def sample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008 - torch's own default
        return (self.loc + hermite(12, 2)[0] @ self.scale_tril.mT).detach()


def test_a_square_has_no_variance_in_the_deviation() -> None:
    points, weights = hermite(20)
    kind = nodes_law(points)
    parameters = {"mu": torch.tensor(1.0), "sigma": torch.tensor(1.0)}
    estimate = run(torch.square, lambda t: kind(t["mu"], t["sigma"]), parameters, len(points))
    mean, variance = moments(estimate, weights)
    torch.testing.assert_close(mean, torch.tensor([2.0, 2.0]), atol=1e-10, rtol=0)
    torch.testing.assert_close(variance, torch.tensor([4.0, 0.0]), atol=1e-10, rtol=0)


def test_a_fourth_power_has_the_variance_of_its_curvature() -> None:
    points, weights = hermite(20)
    kind = nodes_law(points)
    parameters = {"mu": torch.zeros(2), "log_sigma": torch.tensor([0.0, math.log(2.0)])}
    noise = torch.stack([points, points], 1)
    kind = nodes_law(noise)
    estimate = run(
        lambda x: x.pow(4).sum(1),
        lambda t: Independent(kind(t["mu"], t["log_sigma"].exp()), 1),
        parameters,
        len(points),
    )
    mean, variance = moments(estimate, weights)
    # E[x⁴] = 3σ⁴: 12σ⁴ in log σ; the estimate is 12σ²x², of variance 144·2σ⁸. In μ it is 4x³, of variance 240σ⁶.
    torch.testing.assert_close(mean, torch.tensor([0.0, 0.0, 12.0, 192.0]), atol=1e-9, rtol=0)
    torch.testing.assert_close(variance, torch.tensor([240.0, 240.0 * 64, 288.0, 288.0 * 256]), atol=1e-7, rtol=0)


def test_a_correlated_gaussian_gets_the_exact_gradient_of_its_factor() -> None:
    weights = hermite(12, 2)[1]

    def law(theta: Parameters) -> Distribution:
        return Joint(theta["mu"], scale_tril=theta["factor"].tril(-1) + theta["factor"].diagonal().exp().diag())

    parameters = {"mu": torch.tensor([0.5, -1.0]), "factor": torch.tensor([[0.2, 9.0], [0.7, -0.3]])}
    # E[x₁² x₂²] = (μ₁² + Σ₁₁)(μ₂² + Σ₂₂) + 2Σ₁₂² + 4μ₁μ₂Σ₁₂, differentiated by torch itself.
    leaves = {name: value.clone().requires_grad_() for name, value in parameters.items()}
    sigma, (a, b) = law(leaves).covariance_matrix, leaves["mu"]
    truth = (a**2 + sigma[0, 0]) * (b**2 + sigma[1, 1]) + 2 * sigma[0, 1] ** 2 + 4 * a * b * sigma[0, 1]
    expected = torch.cat([each.flatten() for each in torch.autograd.grad(truth, list(leaves.values()))])
    estimate = run(lambda x: x.square().prod(1), law, parameters, len(weights))
    torch.testing.assert_close(moments(estimate, weights)[0], expected, atol=1e-10, rtol=0)
    assert expected[3] == 0  # above the diagonal nothing is learned


@pytest.mark.statistical
@pytest.mark.parametrize("biased", [False, True])
def test_probes_are_unbiased_in_many_dimensions(biased: bool) -> None:
    """(uᵀx)⁴ in 50 dimensions against its closed form; 100 coordinates at 4.9 deviations, false alarm 1 in 10,000."""
    size = 50
    direction = torch.linspace(-1.0, 1.0, size) / 4
    parameters = {"mu": torch.full((size,), 0.1), "sigma": torch.linspace(0.5, 1.5, size)}
    leaves = {name: value.clone().requires_grad_() for name, value in parameters.items()}
    mean, variance = direction @ leaves["mu"], direction.square() @ leaves["sigma"].square()
    truth = torch.cat(torch.autograd.grad(mean**4 + 6 * mean**2 * variance + 3 * variance**2, list(leaves.values())))
    estimate = run(
        lambda x: (x @ direction) ** 4,
        lambda t: Independent(Normal(t["mu"], t["sigma"]), 1),
        parameters,
        40_000,
        BonnetPrice(baseline=Zero(), probes=2),
    )
    assert estimate.standard_error is not None
    wrong = 1.2 if biased else 1.0
    z_scores = (estimate.mean * wrong - truth) / (wrong * estimate.standard_error)
    assert (float(z_scores.abs().max()) < 4.9) != biased


def test_a_mean_alone_needs_no_second_derivative() -> None:
    points, weights = hermite(20)
    kind = nodes_law(points)
    estimate = run(lambda x: (x - 20).abs(), lambda t: kind(t["mu"], torch.ones(())), {"mu": torch.tensor(1.0)}, 20)
    assert float(moments(estimate, weights)[0]) == pytest.approx(-1.0)


@pytest.mark.parametrize(
    "law", [lambda t: Gamma(t["a"], 1.0), lambda t: StudentT(3.0, t["a"]), lambda t: Independent(Gamma(t["a"], 1.0), 0)]
)
def test_other_laws_are_refused_by_name(law: Callable[[Parameters], Distribution]) -> None:
    expectation = Expectation(cost=torch.square, law=law)
    with pytest.raises(UsageError, match=r"^estimator: bonnet_price for (Gamma|StudentT), expected Normal, "):
        BonnetPrice(baseline=Zero()).accepts(expectation, {"a": torch.tensor(2.0)})


def test_costs_without_the_derivatives_are_refused() -> None:
    parameters = {"mu": torch.tensor(0.0), "sigma": torch.tensor(1.0)}
    for cost, said in ((torch.sign, "differentiable"), (torch.abs, "piecewise linear")):
        expectation = Expectation(cost=cost, law=lambda t: Normal(t["mu"], t["sigma"]))
        with pytest.raises(UsageError, match=said):
            BonnetPrice(baseline=Zero()).accepts(expectation, parameters)
    with pytest.raises(UsageError, match=r"^baseline: Mean, expected zero with BonnetPrice"):
        BonnetPrice(baseline=Mean())


def test_the_global_generator_is_left_as_it_was() -> None:
    before = torch.get_rng_state()
    parameters = {"mu": torch.zeros(40), "sigma": torch.ones(40)}
    estimate = run(lambda x: x.square().sum(1), lambda t: Independent(Normal(t["mu"], t["sigma"]), 1), parameters, 10)
    assert torch.equal(torch.get_rng_state(), before)
    assert estimate.by_name()["sigma"].shape == (40,)
