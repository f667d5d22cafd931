"""Returns that let the critic speak for what comes later."""

from __future__ import annotations

from typing import final

from torch import Tensor

from pgkit.core.recursions import lambda_return, n_step_return
from pgkit.options import Count, Fraction
from pgkit.returns.scaling import ScaledReturn
from pgkit.types import Trajectories


@final
class LambdaReturn(ScaledReturn):
    """G^λ_t = r_t + γ [(1 − λ) V(s_{t+1}) + λ G^λ_{t+1}]; less the value baseline it is GAE(γ, λ).

    Bias: that of the critic, weighted by γ(1 − λ); a critic that lags makes it show, and no variance figure does.
    Source: Schulman et al. 2016, arXiv:1506.02438.
    """

    needs_values = True

    def __init__(self, *, gamma: Fraction, lam: Fraction = 0.95, scale_rewards: bool = False) -> None:
        super().__init__(gamma=gamma, scale_rewards=scale_rewards)
        self.lam = lam

    def signal(
        self, trajectories: Trajectories, values: Tensor | None, log_weight: Tensor, chosen: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Returns G^λ `[T, N]` and the batch's own mask."""
        result = lambda_return(
            self.scaler.scaled(trajectories.rewards),
            _required(values),
            log_weight,
            terminated=trajectories.terminated,
            truncated=trajectories.truncated,
            mask=trajectories.mask,
            gamma=self.gamma,
            lam=self.lam,
        )
        return result, trajectories.mask


@final
class NStep(ScaledReturn):
    """The next n rewards, then γ^n V(s_{t+n}); fewer before an end. Off-policy, each with the weight of its actions.

    Bias: that of the critic, weighted by γ^n.
    Source: Sutton and Barto 2018, chapter 7.
    """

    needs_values = True

    def __init__(self, *, gamma: Fraction, n: Count = 5, scale_rewards: bool = False) -> None:
        super().__init__(gamma=gamma, scale_rewards=scale_rewards)
        self.n = n

    def signal(
        self, trajectories: Trajectories, values: Tensor | None, log_weight: Tensor, chosen: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Returns the n-step returns `[T, N]` and the batch's own mask."""
        result = n_step_return(
            self.scaler.scaled(trajectories.rewards),
            _required(values),
            log_weight,
            terminated=trajectories.terminated,
            truncated=trajectories.truncated,
            mask=trajectories.mask,
            gamma=self.gamma,
            n=self.n,
        )
        return result, trajectories.mask


def _required(values: Tensor | None) -> Tensor:
    if values is None:
        raise ValueError("values: None, expected those of a critic")
    return values
