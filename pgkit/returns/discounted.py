"""Returns made of rewards: the whole episode's, and those from each action on."""

from __future__ import annotations

from typing import Literal, final

import torch
from torch import Tensor

from pgkit.core.recursions import lambda_return
from pgkit.options import Fraction
from pgkit.returns.scaling import RewardScaler, ScaledReturn
from pgkit.types import Trajectories


@final
class Total(ScaledReturn):
    """R(τ) = Σ_t γ^t r_t, credited to every action of the episode.

    Bias: none for the discounted objective. Variance: grows with the square of the horizon.
    Source: Williams 1992 (Machine Learning 8:229).
    """

    needs_whole_episodes = True
    discount_states = True
    unbiased = True

    def __init__(self, *, gamma: Fraction, scale_rewards: bool = False) -> None:
        super().__init__(gamma=gamma, scale_rewards=scale_rewards)

    def signal(
        self, trajectories: Trajectories, values: Tensor | None, log_weight: Tensor, chosen: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Returns the same number at every valid row of a column, with later rewards weighted back to row t."""
        to_go = _reward_to_go(trajectories, values, log_weight, self.scaler, self.gamma)
        whole = to_go[0] * (log_weight[0] - log_weight).exp()
        return torch.where(trajectories.mask, whole, 0.0), trajectories.mask


@final
class RewardToGo(ScaledReturn):
    """G_t = Σ_{u≥t} γ^{u−t} r_u: rewards before an action cannot be due to it and only add noise.

    With a critic an episode cut by a time limit or by the collector goes on with its value. Without one a time limit
    ends it, and `cut` says what becomes of episodes that the collector cut: `refuse` (at the start of a run), `zero`
    (nothing follows) or `drop` (their rows leave the mask, which favours short episodes).
    Bias: none for whole episodes; `zero` and `drop` are biased.
    Source: Baxter and Bartlett 2001 (JAIR 15:319); Sutton et al. 2000.
    """

    def __init__(
        self, *, gamma: Fraction, cut: Literal["refuse", "zero", "drop"] = "refuse", scale_rewards: bool = False
    ) -> None:
        super().__init__(gamma=gamma, scale_rewards=scale_rewards)
        self.cut = cut
        self.unbiased = cut == "refuse"

    def signal(
        self, trajectories: Trajectories, values: Tensor | None, log_weight: Tensor, chosen: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Returns G `[T, N]` and the mask, without the rows of cut episodes where they are dropped."""
        to_go = _reward_to_go(trajectories, values, log_weight, self.scaler, self.gamma)
        mask = trajectories.mask
        if self.cut == "drop" and values is None:
            mask = mask & _finishes(trajectories)
        return torch.where(mask, to_go, 0.0), mask


def _reward_to_go(
    trajectories: Trajectories, values: Tensor | None, log_weight: Tensor, scaler: RewardScaler, gamma: float
) -> Tensor:
    rewards = scaler.scaled(trajectories.rewards)
    tail = rewards.new_zeros(rewards.shape[0] + 1, rewards.shape[1]) if values is None else values
    return lambda_return(
        rewards,
        tail,
        log_weight,
        terminated=trajectories.terminated,
        truncated=trajectories.truncated,
        mask=trajectories.mask,
        gamma=gamma,
        lam=1.0,
    )


def _finishes(trajectories: Trajectories) -> Tensor:
    """Returns which rows belong to an episode that ends inside the batch, `[T, N]` bool."""
    ends = (trajectories.terminated | trajectories.truncated) & trajectories.mask
    return ends.int().flip(0).cummax(dim=0).values.flip(0).bool()
