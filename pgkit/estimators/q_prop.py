"""The score function with a critic's linear expansion as its control variate."""

from __future__ import annotations

from typing import Any, Literal, final

import torch
from gymnasium import spaces
from torch import Tensor

from pgkit.core import action_terms
from pgkit.errors import UsageError
from pgkit.estimators.rows import RowEstimator
from pgkit.options import Fraction
from pgkit.types import Coupling, Factors


@final
class QProp(RowEstimator):
    """(signal − b − η Ā) ∇log π(a|s) + η ∇Q · ∇mean, Ā = ∇Q · (a − mean): Q is expanded about the mean action.

    For continuous actions the mean is the policy's; for choices it is the vector of their probabilities, and of a
    Discrete action Q is linear in it, so that η = 1 is `all_action` with its error corrected by the returns.
    `eta` is 1, or the regression of signal − V on Ā over the other columns as it is (`adaptive`) or cut to 0 and 1
    (`conservative`): one number a column, so that it does not know the actions that it multiplies.
    Bias: none, whatever the critic. Without `discount_states` a discounted return estimates the gradient of no
    objective, as for `score_function`.
    Source: Gu et al. 2017, arXiv:1611.02247, where η is one of each state and action.
    """

    needs_action_values = True

    def __init__(
        self,
        *,
        gamma: Fraction,
        eta: Literal["one", "adaptive", "conservative"] = "adaptive",
        discount_states: bool = False,
    ) -> None:
        super().__init__(gamma=gamma, discount_states=discount_states)
        self.eta = eta
        self.coupling: Coupling = "independent" if eta == "one" else "cross_fitted"

    def accepts(self, action_space: spaces.Space[Any], columns: int) -> None:
        """Raises UsageError where there is no other column to take η from."""
        if self.eta != "one" and columns < 2:
            raise UsageError(
                f"estimator.eta: {self.eta} with 1 column a batch, expected one, or 2 columns at least "
                "(collect.episodes or env.num_envs)"
            )

    def terms(self, law: Any, parameters: Tensor, actions: Tensor) -> Tensor:
        """Returns log π(a|s), then the mean action, `[..., 1+E]`."""
        return action_terms.taken_and_mean(law, parameters, actions)

    def coefficients(self, factors: Factors, baseline: Tensor) -> Tensor:
        """Returns the coefficients of the score and of the mean action, `[F, N, 1+E]`, detached."""
        assert factors.expansion is not None
        slopes, deviations, scale = factors.expansion.slopes, factors.expansion.deviations, self.scale(factors)
        share = self._share(factors, (slopes * deviations).sum(dim=-1), scale)
        return action_terms.linear_control(factors.signal - baseline, slopes, deviations, scale, share)

    def _share(self, factors: Factors, linear: Tensor, scale: Tensor) -> Tensor:
        """Returns η of every column, `[N]`."""
        if self.eta == "one":
            return torch.ones_like(linear[0])
        # Less V and not less the baseline: that may be made of the other columns.
        assert factors.values is not None
        share = action_terms.cross_fitted_share(factors.signal - factors.values[:-1], linear, scale)
        return share if self.eta == "adaptive" else (share > 0).to(share.dtype)
