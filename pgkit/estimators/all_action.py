"""The estimator that sums over all actions instead of drawing one."""

from __future__ import annotations

from typing import Any, final

from gymnasium import spaces
from torch import Tensor

from pgkit.core import action_terms
from pgkit.errors import UsageError
from pgkit.estimators.rows import RowEstimator
from pgkit.options import Fraction
from pgkit.types import Factors


@final
class AllAction(RowEstimator):
    """Σ_a π(a|s) (Q(s, a) − V(s)) ∇log π(a|s) at every state that was visited: no noise of the actions is left.

    Its Q is a critic's, which is what its bias comes from; returns and baseline serve the critic's targets and change
    nothing here, as Σ_a π(a|s) ∇log π(a|s) = 0.
    Bias: that of the critic. Without `discount_states` it is the gradient of no objective, as for `score_function`.
    Source: Asadi et al. 2017, arXiv:1709.00503; Ciosek and Whiteson 2018, arXiv:1801.03326.
    """

    unbiased = False
    needs_action_values = True
    reads_baseline = False

    def __init__(self, *, gamma: Fraction, discount_states: bool = False) -> None:
        super().__init__(gamma=gamma, discount_states=discount_states)

    def accepts(self, action_space: spaces.Space[Any], columns: int) -> None:
        """Raises UsageError for actions that cannot be summed over."""
        if not isinstance(action_space, spaces.Discrete):
            raise UsageError(
                f"estimator: all_action with actions {type(action_space).__name__}, expected Discrete ones; "
                "q_prop or factorised take these"
            )

    def terms(self, law: Any, parameters: Tensor, actions: Tensor) -> Tensor:
        """Returns log π(a|s) of every action, `[..., A]`."""
        return action_terms.every_action(law, parameters, actions)

    def coefficients(self, factors: Factors, baseline: Tensor) -> Tensor:
        """Returns scale · π(a|s) (Q(s, a) − V(s)) of every action, `[F, N, A]`, detached."""
        quality, probability = factors.action_values, factors.action_probabilities
        assert quality is not None and probability is not None
        return action_terms.all_action_coefficients(quality, probability, self.scale(factors))
