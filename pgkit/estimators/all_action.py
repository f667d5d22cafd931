"""The estimator that sums over all actions instead of drawing one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import final

from torch import Tensor

from pgkit.core import score
from pgkit.options import Fraction
from pgkit.types import Coupling, Factors


@final
class AllAction:
    """Σ_a π(a|s) (Q(s, a) − V(s)) ∇log π(a|s) at every state that was visited: no noise of the actions is left.

    Its Q is a critic's, which is what its bias comes from; returns and baseline serve the critic's targets and change
    nothing here, as Σ_a π(a|s) ∇log π(a|s) = 0.
    Bias: that of the critic. Without `discount_states` it is the gradient of no objective, as for `score_function`.
    Source: Asadi et al. 2017, arXiv:1709.00503; Ciosek and Whiteson 2018, arXiv:1801.03326.
    """

    unbiased = False
    controlled = False
    needs_action_values = True
    coupling: Coupling = "independent"

    def __init__(self, *, gamma: Fraction, discount_states: bool = False) -> None:
        self.gamma, self.discount_states = gamma, discount_states

    def coefficients(self, factors: Factors, baseline: Tensor) -> Tensor:
        """Returns scale · π(a|s) (Q(s, a) − V(s)) of every action, `[F, N, A]`, detached."""
        quality, probability = factors.action_values, factors.action_probabilities
        assert quality is not None and probability is not None and factors.values is not None
        return self.scale(factors)[..., None] * probability * (quality - factors.values[:-1, :, None])

    def scale(self, factors: Factors) -> Tensor:
        """Returns what multiplies the sum at every factor: weight, and γ^t where states are discounted."""
        return score.discounted_scale(factors, self.gamma) if self.discount_states else score.scale(
            factors.log_weight, factors.mask
        )  # fmt: skip

    def control(self, gradients: Tensor, scores: Tensor, layout: Mapping[str, slice]) -> Tensor:
        """Returns the gradients `[N, P]` as they are."""
        return gradients
