"""Control variates: what they leave of a variance, and that fitting them costs no bias."""

from __future__ import annotations

import pytest
import torch

from pgkit.core.control_variates import cross_fitted, fit, subtract
from pgkit.core.optimal_baseline import optimal_parameter
from tests.laws import hermite

pytestmark = [pytest.mark.exact, pytest.mark.usefixtures("float64")]


def variance(values: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    mean = torch.einsum("n,n...->...", weight, values)
    return torch.einsum("n,n...->...", weight, (values - mean).square())


def test_what_remains_of_a_gaussian_is_one_less_the_squared_correlation() -> None:
    """g = e^z and h = z under N(0, 1): Cov = √e, Var g = e² − e, so that 1 − ρ² = 1 − 1 / (e − 1)."""
    z, weight = hermite()
    g, h = z.exp()[:, None], z[:, None, None]
    coefficient = fit(g, h, weight=weight)
    left = variance(subtract(g, h, coefficient), weight) / variance(g, weight)
    assert float(coefficient) == pytest.approx(float(torch.tensor(0.5).exp()), abs=1e-10)
    assert float(left) == pytest.approx(1 - 1 / (float(torch.tensor(1.0).exp()) - 1), abs=1e-10)


def test_several_at_once_leave_what_none_of_them_explains() -> None:
    """e^z = √e Σ He_k(z) / k!: of its variance e Σ 1/k!, the variates He_1 to He_3 take the first three terms."""
    z, weight = hermite()
    h = torch.stack([z, z**2 - 1, z**3 - 3 * z], dim=1)[:, :, None]
    g = z.exp()[:, None]
    half = torch.tensor(0.5).exp()
    torch.testing.assert_close(fit(g, h, weight=weight)[:, 0], half * torch.tensor([1.0, 1 / 2, 1 / 6]))
    left = variance(subtract(g, h, fit(g, h, weight=weight)), weight)
    e = half**2
    torch.testing.assert_close(left[0], e**2 - e - e * (1 + 1 / 2 + 1 / 6), rtol=1e-10, atol=0)


def test_the_score_as_a_variate_is_the_optimal_baseline() -> None:
    """x² under N(1, 1): coefficients 4 and 6, variances 14 and 64."""
    z, weight = hermite()
    scores = torch.stack([z, z**2 - 1], dim=1)
    gradients = (1 + z).square()[:, None] * scores
    found = fit(gradients, scores[:, None], weight=weight)
    root = weight.sqrt()[:, None]
    torch.testing.assert_close(found[0], optimal_parameter(root * gradients, root * scores))
    left = variance(subtract(gradients, scores[:, None], found), weight)
    torch.testing.assert_close(left, torch.tensor([14.0, 64.0]), rtol=0, atol=1e-9)


def test_shared_coefficients_make_the_trace_least() -> None:
    generator = torch.Generator().manual_seed(0)
    g, h = torch.randn(50, 4, generator=generator), torch.randn(50, 2, 4, generator=generator)
    best = fit(g, h, shared=True)

    def trace(coefficients: torch.Tensor) -> float:
        return float(subtract(g, h, coefficients).var(dim=0).sum())

    for step in torch.randn(20, 2, 1, generator=generator):
        assert trace(best + 1e-3 * step) > trace(best)
    assert best.shape == (2, 1) and trace(fit(g, h)) < trace(best) < trace(torch.zeros(2, 1))


@pytest.mark.parametrize("folds", [2, 5])
@pytest.mark.parametrize("shared", [False, True])
def test_a_fold_does_not_see_itself(folds: int, shared: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    g, h = torch.randn(20, 3, generator=generator), torch.randn(20, 2, 3, generator=generator)
    own = torch.arange(20) % folds == 1
    expected = subtract(g[own], h[own], fit(g[~own], h[~own], shared=shared))
    torch.testing.assert_close(cross_fitted(g, h, folds=folds, shared=shared)[own], expected)


def test_variates_that_say_the_same_or_nothing_do_no_harm() -> None:
    generator = torch.Generator().manual_seed(0)
    g, h = torch.randn(30, 2, generator=generator), torch.randn(30, 1, 2, generator=generator)
    alone = subtract(g, h, fit(g, h))
    crowd = torch.cat([h, 1e6 * h, torch.zeros_like(h)], dim=1)
    torch.testing.assert_close(subtract(g, crowd, fit(g, crowd)), alone)
