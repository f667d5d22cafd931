"""Natural gradients: one answer by every solve, and the step that lands on a Gaussian posterior."""

from __future__ import annotations

import pytest
import torch
from torch.distributions import MultivariateNormal, Normal

from pgkit.core import fisher
from pgkit.core.natural import (
    gaussian_step,
    solve_among_samples,
    solve_conjugate_gradient,
    solve_dense,
    solve_diagonal,
)
from pgkit.errors import UsageError
from tests.laws import bandit, exact_gradient, hermite

pytestmark = [pytest.mark.exact, pytest.mark.usefixtures("float64")]


def scores_and_coefficients(num_samples: int, num_parameters: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(num_samples, num_parameters, generator=generator), torch.randn(num_samples, generator=generator)


@pytest.mark.parametrize(("num_samples", "num_parameters"), [(5, 40), (40, 5)])
@pytest.mark.parametrize("damping", [1e-3, 1.0])
def test_every_solve_gives_one_answer(num_samples: int, num_parameters: int, damping: float) -> None:
    scores, coefficients = scores_and_coefficients(num_samples, num_parameters)
    gradient = scores.T @ coefficients
    dense = solve_dense(fisher.empirical(scores), gradient, damping=damping)
    among = solve_among_samples(scores, coefficients, damping=damping)
    torch.testing.assert_close(among, dense, rtol=1e-10, atol=1e-10)
    found = solve_conjugate_gradient(
        lambda v: fisher.empirical_vector_product(scores, v), gradient, damping=damping, iterations=100, tolerance=1e-13
    )
    torch.testing.assert_close(found.solution, dense, rtol=1e-8, atol=1e-8)
    assert found.residual < 1e-12 and found.iterations <= 2 * min(num_samples, num_parameters) + 2
    few = solve_conjugate_gradient(
        lambda v: fisher.empirical_vector_product(scores, v), gradient, damping=damping, iterations=2
    )
    assert few.iterations == 2 and few.residual > 1e-6


def test_the_diagonal_is_exact_where_nothing_ties_parameters() -> None:
    scores = torch.tensor([[1.0, 0.0, 0.0], [0.0, 2.0, 0.0], [-1.0, 0.0, 0.0]])
    gradient = torch.tensor([3.0, 4.0, 0.0])
    dense = solve_dense(fisher.empirical(scores), gradient, damping=0.1)
    torch.testing.assert_close(solve_diagonal(scores, gradient, damping=0.1), dense)
    assert float(solve_diagonal(scores, gradient)[2]) == 0.0


def test_the_natural_gradient_of_a_softmax_is_the_advantage_up_to_a_constant() -> None:
    law, parameters = bandit()
    matrix = fisher.exact(law.law, parameters)
    found = solve_dense(matrix, exact_gradient(law, parameters), damping=1e-9)
    rewards, chances = torch.tensor([0.0, 1.0, 5.0]), parameters["logits"].softmax(0)
    advantages = rewards - chances @ rewards
    torch.testing.assert_close(found - found.mean(), advantages - advantages.mean(), rtol=0, atol=1e-6)


def test_it_does_not_depend_on_how_the_law_is_written() -> None:
    """A step of θ through a change of variables moves the law alike: J (Jᵀ F J)⁻¹ Jᵀ g = F⁻¹ g."""
    mean, change = {"m": torch.tensor([0.3, 1.2])}, torch.tensor([[2.0, 1.0], [0.0, 5.0]])
    covariance, slope = torch.tensor([[1.0, 0.3], [0.3, 0.5]]), torch.tensor([1.0, -2.0])
    plain = fisher.exact(lambda p: MultivariateNormal(p["m"], covariance), mean)
    bent = fisher.exact(lambda p: MultivariateNormal(change @ p["m"], covariance), mean)
    torch.testing.assert_close(change @ solve_dense(bent, change.T @ slope), solve_dense(plain, slope))


def test_singular_matrices_and_missing_damping_are_refused() -> None:
    law, parameters = bandit()
    with pytest.raises(UsageError, match=r"^damping: 0 with a singular Fisher matrix, expected a larger one$"):
        solve_dense(fisher.exact(law.law, parameters), torch.ones(3))
    for seed in range(20):  # rounding may leave such a matrix a factor
        scores = torch.randn(3, 4, generator=torch.Generator().manual_seed(seed))
        with pytest.raises(UsageError, match="singular"):
            solve_dense(fisher.empirical(scores), torch.ones(4))
    with pytest.raises(UsageError, match=r"^damping: 0 among samples, expected above 0$"):
        solve_among_samples(*scores_and_coefficients(3, 5), damping=0.0)


def test_nothing_to_solve_takes_no_step() -> None:
    nothing = solve_conjugate_gradient(lambda v: v, torch.zeros(3))
    assert nothing.solution.tolist() == [0.0] * 3 and nothing.residual == 0.0 and nothing.iterations == 0
    flat = solve_conjugate_gradient(torch.zeros_like, torch.ones(3))
    assert flat.solution.tolist() == [0.0] * 3 and flat.residual == 1.0


PRECISION = torch.tensor([[2.0, 0.5, 0.0], [0.5, 1.0, -0.3], [0.0, -0.3, 3.0]], dtype=torch.float64)
CENTRE = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)


def posterior(x: torch.Tensor) -> torch.Tensor:
    """The unnormalised log density of N(CENTRE, PRECISION⁻¹)."""
    return -((x - CENTRE) @ PRECISION * (x - CENTRE)).sum(dim=1) / 2 + 7.0


def test_a_full_step_lands_on_a_gaussian_posterior() -> None:
    """E[∇ log p] is exact for a quadratic as soon as the noise has mean 0, as antithetic pairs have."""
    half = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    mean, covariance = gaussian_step(posterior, torch.zeros(3), torch.eye(3), torch.cat([half, -half]), rate=1.0)
    torch.testing.assert_close(covariance, torch.linalg.inv(PRECISION), rtol=0, atol=1e-10)
    torch.testing.assert_close(mean, CENTRE, rtol=0, atol=1e-10)


def test_noisy_steps_converge_to_the_posterior() -> None:
    """With decreasing steps: what is left after 400 of 10 samples each is a few hundredths of a deviation."""
    generator = torch.Generator().manual_seed(0)
    mean, covariance = torch.full((3,), 5.0), 0.1 * torch.eye(3)
    for step in range(400):
        noise = torch.randn(10, 3, generator=generator)
        mean, covariance = gaussian_step(posterior, mean, covariance, noise, rate=1 / (1 + step) ** 0.8)
    torch.testing.assert_close(covariance, torch.linalg.inv(PRECISION), rtol=0, atol=1e-10)
    assert (mean - CENTRE).abs().max() < 0.1


def test_a_small_step_is_the_natural_gradient_of_the_bound() -> None:
    """F⁻¹ ∇ELBO in (μ, σ²) for log p = −x⁴/4 + x, by quadrature."""
    nodes, weights = hermite()
    theta = {"m": torch.tensor(0.4), "v": torch.tensor(0.6)}

    def log_density(x: torch.Tensor) -> torch.Tensor:
        return (-(x**4) / 4 + x).sum(dim=1)

    leaves = {name: value.clone().requires_grad_() for name, value in theta.items()}
    x = leaves["m"] + leaves["v"].sqrt() * nodes
    bound = weights @ log_density(x[:, None]) + 0.5 * leaves["v"].log()
    gradient = torch.stack(torch.autograd.grad(bound, list(leaves.values())))
    natural = solve_dense(fisher.exact(lambda p: Normal(p["m"], p["v"].sqrt()), theta), gradient)
    # The step averages over equal samples; two nodes at ±√3 and four at 0 integrate to the order that is needed here.
    noise = torch.tensor([3**0.5, -(3**0.5), 0.0, 0.0, 0.0, 0.0])[:, None]
    rate = 1e-6
    mean, covariance = gaussian_step(log_density, theta["m"][None], theta["v"][None, None], noise, rate=rate)
    moved = torch.stack([mean[0] - theta["m"], covariance[0, 0] - theta["v"]]) / rate
    torch.testing.assert_close(moved, natural, rtol=1e-5, atol=0)


def test_a_density_that_is_not_concave_is_refused() -> None:
    with pytest.raises(UsageError, match=r"^rate: 1 where the log density is not concave, expected a smaller one$"):
        gaussian_step(lambda x: (x**2).sum(dim=1), torch.zeros(1), torch.eye(1), torch.randn(4, 1), rate=1.0)
