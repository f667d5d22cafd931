"""The baselines of least variance: their values where known, and that no sample enters its own."""

from __future__ import annotations

import pytest
import torch

from pgkit.baselines.optimal import Optimal
from pgkit.core.optimal_baseline import (
    cross_fitted,
    cross_fitted_parameter,
    folds_of,
    optimal,
    optimal_parameter,
    others,
)
from pgkit.errors import UsageError
from pgkit.types import Factors
from tests.laws import hermite

pytestmark = [pytest.mark.exact, pytest.mark.usefixtures("float64")]


def square(mean: float, scale: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns gradients and scores `[M, 2]` of x² under N(mean, scale²), each row times the root of its weight."""
    nodes, weights = hermite()
    scores = torch.stack([nodes / scale, (nodes.square() - 1) / scale], dim=1)
    root = weights.sqrt()[:, None]
    return (mean + scale * nodes).square()[:, None] * scores * root, scores * root


@pytest.mark.parametrize(("mean", "scale"), [(1.0, 1.0), (-2.0, 0.5), (0.3, 3.0)])
def test_the_optimal_baselines_of_a_square_are_those_in_closed_form(mean: float, scale: float) -> None:
    gradients, scores = square(mean, scale)
    expected = torch.tensor([mean**2 + 3 * scale**2, mean**2 + 5 * scale**2])
    torch.testing.assert_close(optimal_parameter(gradients, scores), expected, rtol=1e-10, atol=0)
    # Weighted by E[s_k²]: 1 / scale² and 2 / scale².
    torch.testing.assert_close(optimal(gradients, scores), (expected @ torch.tensor([1.0, 2.0]) / 3)[None])


def test_the_golden_baselines_at_one_and_one() -> None:
    torch.testing.assert_close(optimal_parameter(*square(1.0, 1.0)), torch.tensor([4.0, 6.0]), rtol=0, atol=1e-10)


@pytest.mark.parametrize("folds", [None, 2, 3])
def test_cross_fitting_leaves_the_own_fold_out(folds: int | None) -> None:
    generator = torch.Generator().manual_seed(0)
    gradients, scores = torch.randn(2, 7, 3, generator=generator)
    fold = folds_of(7, 7 if folds is None else folds)
    for n in range(7):
        rest = fold != fold[n]
        one = cross_fitted(gradients, scores, folds=folds)[n]
        torch.testing.assert_close(one, optimal(gradients[rest], scores[rest]))
        each = cross_fitted_parameter(gradients, scores, folds=folds)[n]
        torch.testing.assert_close(each, optimal_parameter(gradients[rest], scores[rest]))


def test_one_huge_sample_leaves_the_rest_as_they_are() -> None:
    values = torch.tensor([1.0, 1e20, 2.0, 3.0])
    assert others(values, torch.arange(4))[1] == 6.0


def test_a_parameter_that_never_moves_has_no_baseline() -> None:
    gradients, scores = torch.randn(5, 2), torch.randn(5, 2)
    gradients[:, 1] = scores[:, 1] = 0
    assert (cross_fitted_parameter(gradients, scores)[:, 1] == 0).all()
    assert cross_fitted(torch.zeros(3, 2), torch.zeros(3, 2)).tolist() == [[0.0]] * 3


@pytest.mark.parametrize(("num_samples", "folds"), [(1, 1), (1, 2), (4, 1), (4, 5)])
def test_fewer_than_two_folds_are_refused(num_samples: int, folds: int) -> None:
    with pytest.raises(ValueError, match=f"folds: {folds} of {num_samples} samples"):
        folds_of(num_samples, folds)


def test_the_signal_alone_does_not_tell_the_optimum() -> None:
    factors = Factors(signal=torch.ones(1, 3), log_weight=torch.zeros(1, 3), mask=torch.ones(1, 3).bool())
    with pytest.raises(UsageError, match="baseline: optimal where no scores are handed over"):
        Optimal().value(factors)
