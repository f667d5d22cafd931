"""The score-function estimator, REINFORCE."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, final

import torch
from torch import Tensor

from pgkit.core import optimal_baseline, score
from pgkit.errors import UsageError
from pgkit.estimators.rows import RowEstimator
from pgkit.options import Fraction
from pgkit.types import Coupling, Factors


@final
class ScoreFunction(RowEstimator):
    """c_t = exp(L_t) (signal_t − b_t), times γ^t where states are discounted.

    `control_variate` subtracts from each sample's gradient its score sum times one number a parameter or a layer, those
    of least variance, fitted to the other samples. It acts after the baseline, which must know nothing of the other
    columns: their gradients would hold this one's outcome, and the fit would be off by 1/(N−1) of the gradient.
    `normalise="group"` divides by the standard deviation of the outcomes of the columns that began alike.
    Bias: `standardise` and `normalise` are biased (each sample sits in its own statistics). Without `discount_states` a
    discounted return estimates the gradient of no objective; it is what most agents use, and the same thing at γ = 1.
    Source: Williams 1992; Thomas 2014 (ICML) for γ^t; Peters and Schaal 2008 for one number a parameter.
    """

    def __init__(
        self,
        *,
        gamma: Fraction,
        standardise: bool = False,
        normalise: Literal["none", "group"] = "none",
        discount_states: bool = False,
        control_variate: Literal["none", "optimal_parameter", "optimal_layer"] = "none",
    ) -> None:
        super().__init__(gamma=gamma, discount_states=discount_states)
        self.standardise, self.normalise = standardise, normalise
        self.unbiased = not standardise and normalise == "none"
        self.controlled = control_variate != "none"
        # What a column's coefficients take from others they take from those that began as it did.
        self.within_groups = normalise == "group" and not standardise and not self.controlled
        self._fitted = {"none": _nothing, "optimal_parameter": _of_parameters, "optimal_layer": _of_layers}[
            control_variate
        ]
        self.coupling: Coupling = "batch" if not self.unbiased else "cross_fitted" if self.controlled else "independent"

    def coefficients(self, factors: Factors, baseline: Tensor) -> Tensor:
        """Returns the coefficients `[F, N]`, detached, 0 where the mask is False."""
        scale = self.scale(factors)
        result = score.coefficients(factors.signal, baseline, scale)
        if self.normalise == "group":
            if factors.group is None:
                raise UsageError("estimator.normalise: group without groups, expected collect.group above 1")
            result = score.over_group_deviation(result, self._outcomes(factors), factors.group)
        # The statistics are those of advantages that count; weights and γ^t are part of them, as elsewhere.
        return score.standardise(result, factors.mask) if self.standardise else result

    def _outcomes(self, factors: Factors) -> Tensor:
        """Returns what an episode is worth, `[N]`: the signal of its first factor."""
        return torch.where(factors.mask[0], factors.signal[0], 0.0)

    def control(self, gradients: Tensor, scores: Tensor, layout: Mapping[str, slice]) -> Tensor:
        """Returns the gradients less what the other samples' scores predict of them, `[N, P]`.

        Raises: UsageError for a single sample.
        """
        if self.controlled and len(gradients) < 2:
            raise UsageError("estimator.control_variate: a batch of one column, expected none, or 2 columns at least")
        return gradients - self._fitted(gradients, scores, layout) * scores


def _nothing(gradients: Tensor, scores: Tensor, layout: Mapping[str, slice]) -> Tensor:
    return torch.zeros_like(gradients[:, :1])


def _of_parameters(gradients: Tensor, scores: Tensor, layout: Mapping[str, slice]) -> Tensor:
    return optimal_baseline.cross_fitted_parameter(gradients, scores)


def _of_layers(gradients: Tensor, scores: Tensor, layout: Mapping[str, slice]) -> Tensor:
    return optimal_baseline.cross_fitted_layer(gradients, scores, layout)
