"""Samples are functions of noise, and where no function is at hand the distribution function gives its derivative."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy import integrate, special, stats
from torch import Tensor
from torch.distributions import Beta, Categorical, Dirichlet, Gamma, Independent, Normal, StudentT, VonMises

from pgkit.core import pathwise
from pgkit.errors import UsageError

pytestmark = pytest.mark.usefixtures("float64")

CHOLESKY = ((1.2, 0.0, 0.0), (0.4, 0.8, 0.0), (-0.3, 0.7, 1.5))


def drawn(shape: tuple[int, ...]) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def test_inverse_paths_give_the_noise_back() -> None:
    noise, mean, cholesky = drawn((50, 3)), torch.tensor([1.0, -2.0, 0.5]), torch.tensor(CHOLESKY)
    samples = pathwise.gaussian(noise, mean, cholesky)
    torch.testing.assert_close(pathwise.gaussian_noise(samples, mean, cholesky), noise, atol=1e-12, rtol=0)
    scale = cholesky.diagonal()
    samples = pathwise.location_scale(noise, mean, scale)
    torch.testing.assert_close(pathwise.location_scale_noise(samples, mean, scale), noise, atol=1e-12, rtol=0)


def test_the_cholesky_map_gives_the_covariance() -> None:
    cholesky, noise = torch.tensor(CHOLESKY), drawn((50, 3))
    # Noise that is white in this very sample: its covariance, and so that of what it becomes, is exact.
    noise = noise - noise.mean(0)
    white = pathwise.gaussian_noise(noise, torch.zeros(3), torch.linalg.cholesky(torch.cov(noise.T)))
    samples = pathwise.gaussian(white, torch.tensor([1.0, -2.0, 0.5]), cholesky)
    torch.testing.assert_close(torch.cov(samples.T), cholesky @ cholesky.T, atol=1e-12, rtol=0)


@pytest.mark.parametrize("kappa", [0.01, 0.1, 1.0, 3.0, 10.0, 30.0, 100.0, 1e4])
def test_the_slope_of_von_mises_is_the_cdf_formula_at_every_concentration(kappa: float) -> None:
    width = min(math.pi, 8 / math.sqrt(kappa))
    angles = torch.linspace(-width, width, 9)
    ratio = special.i1e(kappa) / special.i0e(kappa)

    def expected(z: float) -> float:
        """Returns −(∂F/∂κ)/q(z) with ∂F/∂κ integrated over the shorter tail."""

        def integrand(t: float) -> float:
            return (math.cos(t) - ratio) * math.exp(kappa * (math.cos(t) - math.cos(z)))

        edges = np.linspace(-math.pi if kappa < 10 else max(-math.pi, -2.5 * width), -abs(z), 20)
        pairs = pairwise(edges)
        parts = (integrate.quad(integrand, *pair, epsabs=1e-13, epsrel=1e-13)[0] for pair in pairs)
        return float(np.sign(z)) * sum(parts)

    found = pathwise.von_mises_slope(angles, torch.full_like(angles, kappa))
    torch.testing.assert_close(found, torch.tensor([expected(float(z)) for z in angles]), atol=1e-11, rtol=1e-9)


def test_von_mises_moves_as_its_distribution_function_says() -> None:
    angles, kappa, step = np.array([-2.5, -1.0, -0.2, 0.4, 1.5, 3.0]), 2.5, 1e-4
    by_kappa = (stats.vonmises.cdf(angles, kappa + step) - stats.vonmises.cdf(angles, kappa - step)) / (2 * step)
    found = pathwise.von_mises_slope(torch.tensor(angles), torch.tensor(kappa).expand(6))
    np.testing.assert_allclose(found.numpy(), -by_kappa / stats.vonmises.pdf(angles, kappa), rtol=1e-6)


@pytest.mark.parametrize("kappa", [0.05, 1.0, 8.0, 60.0])
def test_pathwise_through_von_mises_integrates_to_the_gradient_of_the_expectation(kappa: float) -> None:
    # E[cos(z − 1)] = cos(1) A(κ) with A = I₁/I₀ and A' = 1 − A/κ − A².
    angles = torch.linspace(-math.pi, math.pi, 4097)[:-1]
    density = torch.tensor(stats.vonmises.pdf(angles.numpy(), kappa)) * 2 * math.pi / 4096
    slope = pathwise.von_mises_slope(angles, torch.full_like(angles, kappa))
    ratio = special.i1e(kappa) / special.i0e(kappa)
    expected = math.cos(1) * (1 - ratio / kappa - ratio**2)
    assert float((density * -(angles - 1).sin() * slope).sum()) == pytest.approx(expected, abs=1e-10)


def test_von_mises_samples_keep_their_values_and_carry_both_gradients() -> None:
    torch.manual_seed(0)
    loc, kappa = torch.tensor(3.0).expand(500).clone().requires_grad_(), torch.full((500,), 2.0, requires_grad=True)
    law = VonMises(loc, kappa)
    samples = pathwise.rsample(Independent(law, 1))
    torch.manual_seed(0)
    torch.testing.assert_close(samples.detach(), law.sample(), atol=0, rtol=0)
    by_loc, by_kappa = torch.autograd.grad(samples.sum(), [loc, kappa])
    assert (by_loc == 1).all()
    torch.testing.assert_close(by_kappa, pathwise.von_mises_slope(samples - 3.0, kappa))
    assert (samples - 3.0).abs().max() > math.pi  # some are wrapped, and it makes no difference


def cdf_slope(cdf: Callable[[float], np.ndarray], density: np.ndarray, argument: float) -> np.ndarray:
    """Returns −(∂F/∂a)/q by Richardson's differences of the distribution function."""
    step = 1e-3 * argument
    coarse, fine = ((cdf(argument + h) - cdf(argument - h)) / (2 * h) for h in (step, step / 2))
    return -(4 * fine - coarse) / 3 / density


@pytest.mark.parametrize("shape", [0.5, 1.0, 3.0, 10.0, 100.0])
def test_torch_moves_gamma_samples_as_the_cdf_formula_says(shape: float) -> None:
    torch.manual_seed(0)
    argument = torch.full((500,), shape, requires_grad=True)
    samples = Gamma(argument, 1.0).rsample()
    (found,) = torch.autograd.grad(samples.sum(), argument)
    z = samples.detach().numpy()
    expected = cdf_slope(lambda a: stats.gamma.cdf(z, a), stats.gamma.pdf(z, shape), shape)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-3)  # torch's own approximation is no better


@pytest.mark.parametrize(("first", "second"), [(0.5, 0.5), (1.0, 2.0), (5.0, 3.0), (30.0, 20.0)])
def test_torch_moves_beta_and_dirichlet_samples_as_the_cdf_formula_says(first: float, second: float) -> None:
    torch.manual_seed(0)
    argument = torch.full((500,), first, requires_grad=True)
    pairs = torch.stack([argument, torch.full((500,), second)], 1)
    for samples in (Beta(argument, second).rsample(), Dirichlet(pairs).rsample()[:, 0]):
        (found,) = torch.autograd.grad(samples.sum(), argument)
        z = samples.detach().numpy()
        expected = cdf_slope(lambda a, z=z: stats.beta.cdf(z, a, second), stats.beta.pdf(z, first, second), first)
        np.testing.assert_allclose(found.numpy(), expected, rtol=2e-3, atol=1e-9)


@pytest.mark.statistical
@pytest.mark.parametrize("biased", [False, True])
def test_torch_moves_student_samples_as_the_cdf_formula_says_on_average(biased: bool) -> None:
    """Torch takes two noises, so that only E[∂z/∂ν | z] is fixed by the formula; false alarms 1 in 10,000."""
    torch.manual_seed(0)
    argument = torch.full((200_000,), 4.0, requires_grad=True)
    samples = StudentT(argument).rsample()
    (slopes,) = torch.autograd.grad(samples.sum(), argument)
    terms = -samples.detach().sin() * slopes * (1.1 if biased else 1.0)

    def integrand(z: float) -> float:
        by_df = (stats.t.cdf(z, 4.0 + 1e-4) - stats.t.cdf(z, 4.0 - 1e-4)) / 2e-4
        return math.sin(z) * by_df

    expected = 2 * integrate.quad(integrand, 0, 60, limit=200)[0]
    z_score = float((terms.mean() - expected) / (terms.std() / len(terms) ** 0.5))
    assert (abs(z_score) < 3.9) != biased


def test_the_centre_of_a_law_is_what_it_is_symmetric_about() -> None:
    law = Independent(Normal(torch.tensor([1.0, 2.0]), 1.0), 1)
    sample = torch.tensor([[0.3, 5.0]])
    reflected = 2 * pathwise.centre(law) - sample
    torch.testing.assert_close(law.log_prob(reflected), law.log_prob(sample))
    with pytest.raises(UsageError, match=r"^estimator.antithetic: true for Gamma, expected one of Cauchy, "):
        pathwise.centre(Gamma(torch.tensor(1.0), torch.tensor(1.0)))


def test_discrete_laws_are_not_reparameterised() -> None:
    assert not pathwise.is_reparameterised(Categorical(logits=torch.zeros(3)))
    assert not pathwise.is_reparameterised(torch.distributions.OneHotCategoricalStraightThrough(torch.ones(3)))
    assert pathwise.is_reparameterised(Independent(VonMises(torch.zeros(2), torch.ones(2)), 1))
