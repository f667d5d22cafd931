"""Closed forms of the Gaussian are the derivatives of its density, and its Fisher matrices their second moments."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal, Normal

from pgkit.core import gaussian

pytestmark = pytest.mark.usefixtures("float64")

MEAN = (0.3, -1.0, 0.5)
CHOLESKY = ((1.2, 0.0, 0.0), (0.4, 0.8, 0.0), (-0.3, 0.7, 1.5))


def law() -> tuple[Tensor, Tensor, Tensor]:
    """Returns mean, Cholesky factor and covariance of a correlated Gaussian in three dimensions."""
    cholesky = torch.tensor(CHOLESKY)
    return torch.tensor(MEAN), cholesky, cholesky @ cholesky.T


def nodes() -> tuple[Tensor, Tensor]:
    """Returns points `[M, 3]` and weights `[M]` that integrate polynomials up to degree 9 under that Gaussian."""
    points, weights = (torch.tensor(each) for each in np.polynomial.hermite_e.hermegauss(5))
    noise = torch.cartesian_prod(points, points, points)
    mean, cholesky, _ = law()
    return mean + noise @ cholesky.T, torch.cartesian_prod(*[weights / math.sqrt(2 * math.pi)] * 3).prod(1)


def by_autograd(samples: Tensor, leaf: Tensor, of: str) -> Tensor:
    """Returns the derivative of the log density at every sample, `[N, …]`, as torch finds it."""
    mean = torch.tensor(MEAN)
    rows = [torch.autograd.grad(MultivariateNormal(mean, **{of: leaf}).log_prob(sample), leaf)[0] for sample in samples]
    return torch.stack(rows)


def score_cholesky(samples: Tensor, mean: Tensor, cholesky: Tensor) -> Tensor:
    """Returns the score in the Cholesky factor from its two ingredients."""
    noise = torch.linalg.solve_triangular(cholesky, (samples - mean).T, upper=False).T
    return gaussian.score_cholesky(noise, gaussian.score_mean(samples, mean, cholesky), cholesky)


def score_covariance(samples: Tensor, mean: Tensor, covariance: Tensor) -> Tensor:
    """Returns the score in the covariance from its two ingredients."""
    precision = torch.linalg.inv(covariance)
    return gaussian.score_covariance((samples - mean) @ precision, precision)


def test_scores_are_the_derivatives_of_the_log_density() -> None:
    mean, cholesky, covariance = law()
    samples = nodes()[0][:20]
    leaf = mean.clone().requires_grad_()
    (by_mean,) = torch.autograd.grad(MultivariateNormal(leaf, covariance).log_prob(samples).sum(), leaf)
    torch.testing.assert_close(gaussian.score_mean(samples, mean, cholesky).sum(0), by_mean)
    expected = by_autograd(samples, covariance.clone().requires_grad_(), "covariance_matrix")
    torch.testing.assert_close(score_covariance(samples, mean, covariance), expected)
    expected = by_autograd(samples, cholesky.clone().requires_grad_(), "scale_tril").tril()
    torch.testing.assert_close(score_cholesky(samples, mean, cholesky), expected)


def test_scores_of_a_diagonal_gaussian_are_the_derivatives_of_the_log_density() -> None:
    mean, scale = torch.tensor(MEAN, requires_grad=True), torch.tensor([0.5, 1.0, 2.0], requires_grad=True)
    sample = torch.tensor([[0.1, 2.0, -3.0]])
    by_mean, by_scale = torch.autograd.grad(Normal(mean, scale).log_prob(sample).sum(), [mean, scale])
    torch.testing.assert_close(gaussian.score_loc(sample, mean.detach(), scale.detach())[0], by_mean)
    torch.testing.assert_close(gaussian.score_scale(sample, mean.detach(), scale.detach())[0], by_scale)


def test_the_score_of_a_covariance_moves_off_diagonal_entries_twice() -> None:
    mean, _, covariance = law()
    sample, step = torch.tensor([[1.0, 0.0, 2.0]]), 1e-6
    change = torch.zeros(3, 3)
    change[0, 1] = change[1, 0] = step
    higher, lower = (MultivariateNormal(mean, covariance + sign * change).log_prob(sample) for sign in (1, -1))
    score = score_covariance(sample, mean, covariance)[0]
    assert float((higher - lower) / (2 * step)) == pytest.approx(2 * float(score[0, 1]), rel=1e-7)


@pytest.mark.parametrize("of", ["mean", "covariance", "cholesky", "scale"])
def test_fisher_is_the_second_moment_of_the_score_and_the_score_has_mean_zero(of: str) -> None:
    mean, cholesky, covariance = law()
    points, weights = nodes()
    if of == "scale":
        scale = cholesky.diagonal()
        points = mean + (points - mean) @ torch.linalg.inv(cholesky).T * scale
        found, scores = torch.diag(gaussian.fisher_scale(scale)), gaussian.score_scale(points, mean, scale)
    elif of == "mean":
        found, scores = gaussian.fisher_mean(covariance), gaussian.score_mean(points, mean, cholesky)
    elif of == "covariance":
        found, scores = gaussian.fisher_covariance(covariance), score_covariance(points, mean, covariance)
    else:
        found, scores = gaussian.fisher_cholesky(cholesky), score_cholesky(points, mean, cholesky)
    scores = scores.flatten(1)
    torch.testing.assert_close(weights @ scores, torch.zeros(scores.shape[1]), atol=1e-10, rtol=0)
    torch.testing.assert_close(scores.T * weights @ scores, found, atol=1e-10, rtol=0)
