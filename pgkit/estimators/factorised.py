"""The score function with a baseline of its own for every dimension of the action."""

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
class Factorised(RowEstimator):
    """Σ_i (signal − b − h_i) ∇log π(a_i|s), h_i = Q(s, a with a_i at its mean) − Q(s, mean action).

    The dimensions of an action are independent given the state: what the others did is noise to the score of one, and
    a critic knows some of it. b is the baseline in use, which takes care of the state. A mean choice is the vector of
    its probabilities.
    Bias: none, whatever the critic. Without `discount_states` a discounted return estimates the gradient of no
    objective, as for `score_function`.
    Source: Wu et al. 2018, arXiv:1803.07246.
    """

    needs_action_values = True

    def __init__(self, *, gamma: Fraction, discount_states: bool = False) -> None:
        super().__init__(gamma=gamma, discount_states=discount_states)

    def accepts(self, action_space: spaces.Space[Any], columns: int) -> None:
        """Raises UsageError for actions of one dimension."""
        single = isinstance(action_space, spaces.Discrete) or action_space.shape in ((), (1,))
        if single:
            raise UsageError(
                f"estimator: factorised with actions {action_space}, expected several dimensions; "
                "q_prop takes one, all_action a Discrete one"
            )

    def terms(self, law: Any, parameters: Tensor, actions: Tensor) -> Tensor:
        """Returns log π(a_i|s) of every dimension, `[..., D]`."""
        return action_terms.every_dimension(law, parameters, actions)

    def coefficients(self, factors: Factors, baseline: Tensor) -> Tensor:
        """Returns scale · (signal − b − h_i) of every dimension, `[F, N, D]`, detached."""
        assert factors.expansion is not None
        advantage = factors.signal - baseline
        return action_terms.factorised_coefficients(advantage, factors.expansion.others, self.scale(factors))
