"""Baselines of least variance, fitted to the scores of the batch."""

from __future__ import annotations

from typing import Annotated, final

import torch
from torch import Tensor

from pgkit.baselines.base import MemorylessBaseline
from pgkit.core import optimal_baseline
from pgkit.errors import UsageError
from pgkit.options import Range
from pgkit.scoring import Scores
from pgkit.types import Coupling, Factors

Folds = Annotated[int, Range(least=2)]


@final
class Optimal(MemorylessBaseline):
    """b = E⟨g, s⟩ / E|s|², the number of least trace of the covariance; for each sample from the others.

    Bias: none. Its noise is a price: with few samples it is no better than leave-one-out.
    Source: Weaver and Tao 2001; Greensmith, Bartlett and Baxter 2004.
    """

    coupling: Coupling = "cross_fitted"
    least_columns = 2
    needs_scores = True

    def __init__(self, *, folds: Folds | None = None) -> None:
        self.folds, self.least_columns = folds, folds or 2

    def value(self, factors: Factors) -> Tensor:
        """Returns the number of each sample at all its factors, `[F, N]`.

        Raises: UsageError where the factors have no scores.
        """
        scores, scale = scores_of(factors, "optimal")
        inner, squares = [], []
        for _, (gradients, sums) in scores.gradients(torch.stack([factors.signal * scale, scale])):
            inner.append((gradients * sums).sum(dim=1))
            squares.append(sums.square().sum(dim=1))
        number = optimal_baseline.cross_fitted_ratio(
            torch.cat(inner), torch.cat(squares), folds=self.folds, strata=factors.strata
        )
        return number.expand_as(factors.signal)

    def fit(self, gradients: Tensor, scores: Tensor) -> Tensor:
        """Returns the baseline of every sample, `[N, 1]`, fitted to the samples of the other folds."""
        return optimal_baseline.cross_fitted(gradients, scores, folds=self.folds)


@final
class OptimalParameter(MemorylessBaseline):
    """b_k = E[g_k s_k] / E[s_k²], which makes the variance of every coordinate least; for each sample from the others.

    Bias: none. It is a control variate on score sums: no single surrogate has its gradient.
    Source: Williams 1992; Peters and Schaal 2008 (Neural Networks 21:682).
    """

    coupling: Coupling = "cross_fitted"
    least_columns = 2
    needs_scores = True
    one_a_parameter = True

    def __init__(self, *, folds: Folds | None = None) -> None:
        self.folds, self.least_columns = folds, folds or 2

    def value(self, factors: Factors) -> Tensor:
        """Raises UsageError: one number a parameter is no baseline of factors."""
        raise UsageError(
            "baseline: optimal_parameter, expected one number a factor; "
            "in training it is estimator.control_variate=optimal_parameter"
        )

    def fit(self, gradients: Tensor, scores: Tensor) -> Tensor:
        """Returns the baseline of every sample and parameter, `[N, P]`, fitted to the samples of the other folds."""
        return optimal_baseline.cross_fitted_parameter(gradients, scores, folds=self.folds)


@final
class OptimalTime(MemorylessBaseline):
    """b_t = E⟨s_t, g⟩ / E|s_t|² at each time, which makes the trace of the covariance least; from the other samples.

    Shrunk to the one number for all times by as much as the times cannot be told apart; without that, late times, to
    which few samples live, make it many times worse than leave-one-out.
    Bias: none.
    Source: Peters and Schaal 2008 (Neural Networks 21:682), section 3.2; the shrinkage is ours.
    """

    coupling: Coupling = "cross_fitted"
    least_columns = 2
    needs_scores = True

    def __init__(self, *, folds: Folds | None = None) -> None:
        self.folds, self.least_columns = folds, folds or 2

    def value(self, factors: Factors) -> Tensor:
        """Returns the number of each time and sample, `[F, N]`.

        Raises: UsageError where the factors have no scores.
        """
        scores, scale = scores_of(factors, "optimal_time")
        gradients = scores.per_sample(factors.signal * scale)
        products = scale * scores.step_products(gradients)
        squares = scale.square() * scores.step_squares()
        return optimal_baseline.cross_fitted_time(products, squares, folds=self.folds, strata=factors.strata)


def scores_of(factors: Factors, name: str) -> tuple[Scores, Tensor]:
    """Returns the scores of factors and what multiplies them, `[F, N]`.

    Raises: UsageError where nobody handed them over.
    """
    if factors.scores is None or factors.scale is None:
        raise UsageError(
            f"baseline: {name} where no scores are handed over, expected zero, moving_average or leave_one_out"
        )
    return factors.scores, factors.scale
