"""The score-function estimator, REINFORCE."""

from __future__ import annotations

from collections.abc import Mapping
from typing import final

from torch import Tensor

from pgkit.core import score
from pgkit.options import Fraction
from pgkit.types import Coupling, Factors


@final
class ScoreFunction:
    """c_t = exp(L_t) (signal_t − b_t), times γ^t where states are discounted.

    Bias: `standardise` is biased (each sample sits in its own statistics). Without `discount_states` a discounted
    return estimates the gradient of no objective; it is what most agents use, and the same thing at γ = 1.
    Source: Williams 1992; Thomas 2014 (ICML) for γ^t.
    """

    controlled = False

    def __init__(self, *, gamma: Fraction, standardise: bool = False, discount_states: bool = False) -> None:
        self.gamma, self.standardise, self.discount_states = gamma, standardise, discount_states
        self.unbiased = not standardise
        self.coupling: Coupling = "batch" if standardise else "independent"

    def coefficients(self, factors: Factors, baseline: Tensor) -> Tensor:
        """Returns the coefficients `[F, N]`, detached, 0 where the mask is False."""
        scale = self.scale(factors)
        result = score.coefficients(factors.signal, baseline, scale)
        # The statistics are those of advantages that count; weights and γ^t are part of them, as elsewhere.
        return score.standardise(result, factors.mask) if self.standardise else result

    def scale(self, factors: Factors) -> Tensor:
        """Returns what multiplies the advantage at every factor: weight, and γ^t where states are discounted."""
        scale = score.scale(factors.log_weight, factors.mask)
        if not self.discount_states:
            return scale
        if factors.time is None:
            raise ValueError("time: None, expected the step of every factor inside its episode")
        return scale * score.state_discount(factors.time, self.gamma).to(scale.dtype)

    def control(self, gradients: Tensor, scores: Tensor, layout: Mapping[str, slice]) -> Tensor:
        """Returns the gradients `[N, P]` as they are."""
        return gradients
