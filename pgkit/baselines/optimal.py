"""Baselines of least variance, fitted to the scores of the batch."""

from __future__ import annotations

from typing import Annotated, final

from torch import Tensor

from pgkit.baselines.base import MemorylessBaseline
from pgkit.core import optimal_baseline
from pgkit.errors import UsageError
from pgkit.options import Range
from pgkit.types import Coupling, Factors

Folds = Annotated[int, Range(least=2)]


@final
class Optimal(MemorylessBaseline):
    """b = E⟨g, s⟩ / E|s|², the number of least trace of the covariance; for each sample from the others.

    Bias: none. Its noise is a price: with few samples it is no better than leave-one-out.
    Source: Weaver and Tao 2001; Greensmith, Bartlett and Baxter 2004.
    """

    coupling: Coupling = "batch"
    least_columns = 2

    def __init__(self, *, folds: Folds | None = None) -> None:
        self.folds = folds

    def value(self, factors: Factors) -> Tensor:
        """Raises UsageError: it is fitted to scores, which the signal alone does not hold."""
        raise UsageError(_NO_SCORES.format("optimal"))

    def fit(self, gradients: Tensor, scores: Tensor) -> Tensor:
        """Returns the baseline of every sample, `[N, 1]`, fitted to the samples of the other folds."""
        return optimal_baseline.cross_fitted(gradients, scores, folds=self.folds)


@final
class OptimalParameter(MemorylessBaseline):
    """b_k = E[g_k s_k] / E[s_k²], which makes the variance of every coordinate least; for each sample from the others.

    Bias: none. It is a control variate on score sums: no single surrogate has its gradient.
    Source: Williams 1992; Peters and Schaal 2008 (Neural Networks 21:682).
    """

    coupling: Coupling = "batch"
    least_columns = 2

    def __init__(self, *, folds: Folds | None = None) -> None:
        self.folds = folds

    def value(self, factors: Factors) -> Tensor:
        """Raises UsageError: it is fitted to scores, which the signal alone does not hold."""
        raise UsageError(_NO_SCORES.format("optimal_parameter"))

    def fit(self, gradients: Tensor, scores: Tensor) -> Tensor:
        """Returns the baseline of every sample and parameter, `[N, P]`, fitted to the samples of the other folds."""
        return optimal_baseline.cross_fitted_parameter(gradients, scores, folds=self.folds)


_NO_SCORES = "baseline: {} where no scores are handed over, expected zero, moving_average or leave_one_out"
