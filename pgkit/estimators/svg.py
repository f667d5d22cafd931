"""Pathwise policy gradients: through a model of the environment, or through a critic of actions."""

from __future__ import annotations

from abc import ABC
from typing import Any, final

from gymnasium import spaces
from torch import Tensor

from pgkit.core import action_terms
from pgkit.errors import UsageError
from pgkit.estimators.rows import RowEstimator
from pgkit.options import Count, Fraction
from pgkit.types import Factors


class Pathwise(RowEstimator, ABC):
    """Σ_t slope_t · ∇_θ x_θ(s_t, ε_t): each action moves with the policy while its noise stays as it was.

    Returns and baseline serve a critic's targets and change nothing here.
    """

    reads_baseline = False

    def accepts(self, action_space: spaces.Space[Any], columns: int) -> None:
        """Raises UsageError for actions without derivatives."""
        if not isinstance(action_space, spaces.Box):
            raise UsageError(
                f"estimator: {type(self).__name__.lower()} with actions {type(action_space).__name__}, expected Box, "
                "which have derivatives; score_function, all_action and factorised take these"
            )

    def terms(self, law: Any, parameters: Tensor, actions: Tensor) -> Tensor:
        """Returns the actions that were taken, `[..., A]`, moving with the parameters."""
        return action_terms.reparameterised(law, parameters, actions)


@final
class SVG(Pathwise):
    """The gradient of the return along the path that happened, by the derivatives of a simulator of the environment.

    It is backpropagation through the dynamics, the rewards and the policy. A `horizon` H counts the first H rewards of
    each step's return; the gradient is then quieter and short-sighted.
    Bias: none where dynamics and rewards are continuous and no state ends an episode, but for what lies beyond the
    horizon. Without `discount_states` it is the gradient of no objective, as for `score_function`.
    Source: Heess et al. 2015, arXiv:1510.09142, SVG(∞), with a model that is known.
    """

    needs_simulator = True

    def __init__(self, *, gamma: Fraction, horizon: Count | None = None, discount_states: bool = False) -> None:
        super().__init__(gamma=gamma, discount_states=discount_states)
        self.horizon = horizon
        self.unbiased = horizon is None

    def coefficients(self, factors: Factors, baseline: Tensor) -> Tensor:
        """Returns how the discounted return moves with each action, scaled, `[F, N, A]`, detached."""
        assert factors.path is not None
        slopes = factors.path.slopes(gamma=self.gamma, horizon=self.horizon)
        return action_terms.pathwise_coefficients(slopes, self.scale(factors))


@final
class SVG0(Pathwise):
    """∇_θ Q(s, x_θ(s, ε)) at every action that was taken, by a critic's derivative in the action.

    Bias: that of the critic's derivatives, which are not what it is fitted to. Without `discount_states` it is the
    gradient of no objective, as for `score_function`.
    Source: Heess et al. 2015, arXiv:1510.09142, SVG(0); Silver et al. 2014 (ICML, PMLR 32:387) without noise.
    """

    unbiased = False
    needs_action_values = True

    def __init__(self, *, gamma: Fraction, discount_states: bool = False) -> None:
        super().__init__(gamma=gamma, discount_states=discount_states)

    def coefficients(self, factors: Factors, baseline: Tensor) -> Tensor:
        """Returns how Q moves with each action, scaled, `[F, N, A]`, detached."""
        assert factors.expansion is not None
        return action_terms.pathwise_coefficients(factors.expansion.gradients, self.scale(factors))
