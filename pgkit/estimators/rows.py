"""What the estimators of trajectories share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

from gymnasium import spaces
from torch import Tensor

from pgkit.core import action_terms, score
from pgkit.options import Fraction
from pgkit.types import Coupling, Factors


class RowEstimator(ABC):
    """Detached coefficients for the terms of every row, the score of the action taken unless a class says otherwise."""

    unbiased: bool = True
    controlled: bool = False
    needs_action_values: bool = False
    reads_baseline: bool = True
    coupling: Coupling = "independent"

    def __init__(self, *, gamma: Fraction, discount_states: bool) -> None:
        self.gamma, self.discount_states = gamma, discount_states

    @abstractmethod
    def coefficients(self, factors: Factors, baseline: Tensor) -> Tensor:
        """Returns the coefficients of the terms, detached, 0 where the mask is False."""

    def terms(self, law: Any, parameters: Tensor, actions: Tensor) -> Tensor:
        """Returns log π(a|s) of the actions that were taken."""
        return action_terms.taken(law, parameters, actions)

    def accepts(self, action_space: spaces.Space[Any], columns: int) -> None:
        """Returns nothing: any actions will do."""

    def scale(self, factors: Factors) -> Tensor:
        """Returns what multiplies the advantage at every factor: weight, and γ^t where states are discounted."""
        if self.discount_states:
            return score.discounted_scale(factors, self.gamma)
        return score.scale(factors.log_weight, factors.mask)

    def control(self, gradients: Tensor, scores: Tensor, layout: Mapping[str, slice]) -> Tensor:
        """Returns the gradients `[N, P]` as they are."""
        return gradients
