"""Returns with traces: off-policy targets that believe each later row as far as its own ratio allows.

They weight single rows, so they go with `weights=one_step`, or with none on-policy.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import final

import torch
from torch import Tensor

from pgkit.core.traces import action_value_target, clipped_ratio, v_trace
from pgkit.errors import UsageError
from pgkit.options import Fraction, Positive
from pgkit.returns.scaling import ScaledReturn
from pgkit.types import Trajectories, WeightKind


@final
class VTrace(ScaledReturn):
    """V-trace: the critic is fitted to v_t, and an action is worth r_t + γ v_{t+1}; less V(s_t), times its ratio.

    On-policy v_t is the λ-return. `leak` mixes clipped with unclipped ratios.
    Bias: that of the critic, and it values the policy proportional to min(rho_clip μ, π), not π.
    Source: Espeholt et al. 2018, arXiv:1802.01561; the leak Zahavy et al. 2020, arXiv:2002.12928.
    """

    needs_values = True
    fits_states_alone = True
    weighs: WeightKind = "step"

    def __init__(
        self,
        *,
        gamma: Fraction,
        lam: Fraction = 1.0,
        rho_clip: Positive = 1.0,
        c_clip: Positive = 1.0,
        leak: Fraction = 0.0,
        scale_rewards: bool = False,
    ) -> None:
        super().__init__(gamma=gamma, scale_rewards=scale_rewards)
        self.lam, self.rho_clip, self.c_clip, self.leak = lam, rho_clip, c_clip, leak

    def signal(
        self, trajectories: Trajectories, values: Tensor | None, log_weight: Tensor, chosen: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Returns r_t + γ v_{t+1} `[T, N]` and the batch's own mask."""
        return self._both(trajectories, values, log_weight)[1], trajectories.mask

    def targets(
        self,
        trajectories: Trajectories,
        values: Tensor | None,
        log_weight: Tensor,
        signal: Tensor,
        chosen: Tensor | None = None,
    ) -> Tensor:
        """Returns v `[T, N]`."""
        return self._both(trajectories, values, log_weight)[0]

    def _both(self, trajectories: Trajectories, values: Tensor | None, log_weight: Tensor) -> tuple[Tensor, Tensor]:
        if values is None:
            raise ValueError("values: None, expected those of a critic")
        return v_trace(
            self.scaler.scaled(trajectories.rewards),
            values.detach(),
            log_weight.detach(),
            terminated=trajectories.terminated,
            truncated=trajectories.truncated,
            mask=trajectories.mask,
            gamma=self.gamma,
            lam=self.lam,
            rho_clip=self.rho_clip,
            c_clip=self.c_clip,
            leak=self.leak,
        )


class ActionTraced(ScaledReturn, ABC):
    """A corrected estimate of Q(s_t, a_t): what the critic of actions is fitted to, and what the action is credited.

    The policy's gradient is then ρ_t ∇log π (target_t − b(s_t)), with the ratio ρ_t of the row alone: an off-policy
    actor-critic, whose states are those that the behaviour visits.
    Bias: that of the critic in E_π Q(s, ·), which for continuous actions is Q at the mean action.
    """

    needs_values = True
    needs_action_values = True
    weighs: WeightKind = "step"

    def __init__(self, *, gamma: Fraction, lam: Fraction, scale_rewards: bool) -> None:
        super().__init__(gamma=gamma, scale_rewards=scale_rewards)
        self.lam = lam

    @abstractmethod
    def trace(self, trajectories: Trajectories, log_ratio: Tensor) -> Tensor:
        """Returns c `[T, N]`: how far each row's action is believed, given log π − log μ of it."""

    def signal(
        self, trajectories: Trajectories, values: Tensor | None, log_weight: Tensor, chosen: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Returns the targets `[T, N]` and the batch's own mask."""
        if values is None or chosen is None:
            raise ValueError("chosen: None, expected the values of a critic of actions")
        log_ratio = torch.where(trajectories.mask, log_weight.detach(), 0.0)
        result = action_value_target(
            self.scaler.scaled(trajectories.rewards),
            values.detach(),
            chosen.detach(),
            self.trace(trajectories, log_ratio),
            terminated=trajectories.terminated,
            truncated=trajectories.truncated,
            mask=trajectories.mask,
            gamma=self.gamma,
        )
        return result, trajectories.mask


@final
class Retrace(ActionTraced):
    """c = λ min(clip, π/μ): as long traces as are safe whatever the behaviour was.

    Source: Munos et al. 2016, arXiv:1606.02647.
    """

    def __init__(
        self, *, gamma: Fraction, lam: Fraction = 1.0, clip: Positive = 1.0, scale_rewards: bool = False
    ) -> None:
        super().__init__(gamma=gamma, lam=lam, scale_rewards=scale_rewards)
        self.clip = clip

    def trace(self, trajectories: Trajectories, log_ratio: Tensor) -> Tensor:
        """Returns λ min(clip, π/μ)."""
        return self.lam * clipped_ratio(log_ratio, self.clip)


@final
class TreeBackup(ActionTraced):
    """c = λ π(a|s): no behaviour has to be known, and traces are cut short even where it is the policy itself.

    Raises: UsageError for continuous actions, whose density is no probability.
    Source: Precup, Sutton and Singh 2000 (ICML).
    """

    needs_finite_actions = True
    needs_whole_ratios = True

    def __init__(self, *, gamma: Fraction, lam: Fraction = 1.0, scale_rewards: bool = False) -> None:
        super().__init__(gamma=gamma, lam=lam, scale_rewards=scale_rewards)

    def trace(self, trajectories: Trajectories, log_ratio: Tensor) -> Tensor:
        """Returns λ π(a|s), which is the ratio times what the behaviour said."""
        if trajectories.actions.is_floating_point():
            raise UsageError("returns: tree_backup with continuous actions, expected retrace or q_lambda")
        log_prob = log_ratio + torch.where(trajectories.mask, trajectories.behavior_log_prob, 0.0)
        return self.lam * log_prob.exp().clamp(max=1.0)


@final
class QLambda(ActionTraced):
    """c = λ: nothing is corrected but the expectation; right where the behaviour is near the policy or λ is small.

    Bias: at λ above (1 − γ) / (γ · largest total difference of π and μ) it need not converge.
    Source: Harutyunyan et al. 2016, arXiv:1602.04951.
    """

    def __init__(self, *, gamma: Fraction, lam: Fraction = 0.5, scale_rewards: bool = False) -> None:
        super().__init__(gamma=gamma, lam=lam, scale_rewards=scale_rewards)

    def trace(self, trajectories: Trajectories, log_ratio: Tensor) -> Tensor:
        """Returns λ everywhere."""
        return torch.full_like(log_ratio, self.lam)
