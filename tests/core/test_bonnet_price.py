"""The theorems of Bonnet and Price, against characteristic functions and automatic differentiation."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.distributions import Beta, Independent, LowRankMultivariateNormal, MultivariateNormal, Normal

from pgkit.core import bonnet_price
from pgkit.errors import UsageError
from tests.quadrature import hermite

pytestmark = pytest.mark.usefixtures("float64")

CENTRE = (0.4, -0.2)


def bump(samples: Tensor) -> Tensor:
    """exp(−½|x − a|²), whose Fourier transform is 2π exp(−½|k|²) exp(−i k·a) in two dimensions."""
    return (-(samples - torch.tensor(CENTRE)).square().sum(1) / 2).exp()


def curved(samples: Tensor) -> Tensor:
    """A cost whose Hessian is full and differs between samples."""
    return (samples.prod(1) + samples.sum(1)).sin() + samples.pow(3).sum(1)


def test_derivatives_in_space_are_multiplications_of_the_characteristic_function() -> None:
    mean, cholesky = torch.tensor([1.0, 0.5]), torch.tensor([[0.8, 0.0], [0.3, 0.6]])
    covariance = cholesky @ cholesky.T
    # E[f] = Σ_k w_k Re exp(i k·(μ − a) − ½ kᵀ Σ k), the weight of a node k being the transform of f.
    nodes, weights = hermite(60, 2)
    damped = weights * torch.exp(-(nodes @ covariance * nodes).sum(1) / 2)
    phase = nodes @ (mean - torch.tensor(CENTRE))
    by_mean = (damped * -phase.sin()) @ nodes
    by_covariance = -torch.einsum("m,mi,mj->ij", damped * phase.cos(), nodes, nodes) / 2
    samples = mean + nodes @ cholesky.T
    slopes, curvatures = bonnet_price.derivatives(bump, samples, None, joint=True)
    torch.testing.assert_close(weights @ slopes, by_mean, atol=1e-10, rtol=0)
    torch.testing.assert_close(torch.einsum("m,mij->ij", weights, curvatures) / 2, by_covariance, atol=1e-10, rtol=0)


def test_the_hessian_is_that_of_every_sample() -> None:
    samples = torch.randn(7, 3, generator=torch.Generator().manual_seed(0))
    found = bonnet_price.derivatives(curved, samples, None, joint=True)[1]
    expected = torch.stack([torch.func.hessian(lambda x: curved(x[None]).sum())(x) for x in samples])
    torch.testing.assert_close(found, expected)
    diagonal = bonnet_price.derivatives(curved, samples, None, joint=False)[1]
    torch.testing.assert_close(diagonal, expected.diagonal(dim1=1, dim2=2))


@pytest.mark.parametrize("joint", [False, True])
def test_probes_average_to_the_hessian(joint: bool) -> None:
    samples = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    signs = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0])] * 3)  # all that can be drawn
    probes = signs[:, None].expand(8, 4, 3)
    found = bonnet_price.derivatives(curved, samples, probes, joint=joint)[1]
    expected = bonnet_price.derivatives(curved, samples, None, joint=joint)[1]
    torch.testing.assert_close(found, expected)
    single = bonnet_price.derivatives(curved, samples, probes[:1], joint=joint)[1]
    assert not torch.allclose(single, expected)
    assert not joint or torch.equal(single, single.mT)


def test_one_probe_is_exact_on_the_diagonal_of_a_separable_cost() -> None:
    samples = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    probe = torch.tensor([[1.0, -1.0, -1.0]]).expand(1, 4, 3)
    found = bonnet_price.derivatives(lambda x: x.pow(4).sum(1), samples, probe, joint=False)[1]
    torch.testing.assert_close(found, 12 * samples.square())


def test_a_linear_cost_has_no_curvature_and_a_piecewise_linear_one_is_refused() -> None:
    samples = torch.randn(20, 3, generator=torch.Generator().manual_seed(0))
    slopes, curvatures = bonnet_price.derivatives(lambda x: x.sum(1), samples, None, joint=True)
    assert (slopes == 1).all() and not curvatures.any()
    for kinked in (torch.abs, torch.relu):
        with pytest.raises(UsageError, match=r"^cost: piecewise linear, .*; use estimator pathwise$"):
            bonnet_price.derivatives(lambda x, kinked=kinked: kinked(x).sum(1), samples, None, joint=False)


@pytest.mark.parametrize("given", ["covariance_matrix", "scale_tril", "precision_matrix"])
def test_the_chain_rule_reaches_every_way_to_give_a_covariance(given: str) -> None:
    mean, cholesky = torch.tensor([1.0, 0.5]), torch.tensor([[0.8, 0.0], [0.3, 0.6]])
    covariance, slopes = cholesky @ cholesky.T, torch.tensor([[1.0, 2.0]])
    curvatures = torch.tensor([[[2.0, 0.5], [0.5, -1.0]]])
    values = {"covariance_matrix": covariance, "scale_tril": cholesky, "precision_matrix": covariance.inverse()}
    law = MultivariateNormal(mean, **{given: values[given]})
    found = bonnet_price.argument_gradients(law, slopes, curvatures)
    half = curvatures[0] / 2
    expected = {
        "covariance_matrix": half,
        "scale_tril": (2 * half @ cholesky).tril(),
        "precision_matrix": -covariance @ half @ covariance,
    }
    torch.testing.assert_close(found["loc"], slopes)
    torch.testing.assert_close(found[given][0], expected[given])


def test_deviations_and_factors_have_closed_forms() -> None:
    law = Independent(Normal(torch.zeros(2), torch.tensor([0.5, 2.0])), 1)
    found = bonnet_price.argument_gradients(law, torch.ones(1, 2), torch.tensor([[3.0, 5.0]]))
    torch.testing.assert_close(found["scale"], torch.tensor([[1.5, 10.0]]))  # σ ∂²f
    factor, curvatures = torch.tensor([[1.0], [2.0]]), torch.tensor([[[2.0, 0.5], [0.5, -1.0]]])
    low = LowRankMultivariateNormal(torch.zeros(2), factor, torch.ones(2))
    found = bonnet_price.argument_gradients(low, torch.ones(1, 2), curvatures)
    torch.testing.assert_close(found["cov_factor"][0], curvatures[0] @ factor)
    torch.testing.assert_close(found["cov_diag"][0], curvatures[0].diagonal() / 2)


def test_gaussians_are_told_from_other_laws() -> None:
    assert bonnet_price.is_gaussian(Normal(0.0, 1.0))
    assert not bonnet_price.is_gaussian(Beta(1.0, 1.0))
    batch = MultivariateNormal(torch.zeros(4, 2), torch.eye(2))
    assert not bonnet_price.is_gaussian(Independent(batch, 1))
