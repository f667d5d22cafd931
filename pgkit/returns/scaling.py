"""Reward scaling: a unit for rewards, found while training, and the base of every return that uses it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, final

import torch
from torch import Tensor

from pgkit.core.recursions import linear_scan
from pgkit.core.running import deviation, merge_moments
from pgkit.types import Trajectories, WeightKind


@final
class RewardScaler:
    """Divides rewards by the running standard deviation of the discounted return; the mean is never shifted.

    The return is accumulated forwards, Z_t = r_t + γ Z_{t-1}, and starts anew with every episode. Moments stand still
    until `update`, so that one batch sees one unit.
    Source: Engstrom et al. 2020, arXiv:2005.12729.
    """

    def __init__(self, *, gamma: float, active: bool) -> None:
        self.gamma, self.active = gamma, active
        self._count = torch.zeros((), dtype=torch.float64)
        self._mean, self._squares = torch.zeros(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
        self._carry = torch.zeros(0, dtype=torch.float64)  # Z of the episode under way on each lane

    def scaled(self, rewards: Tensor) -> Tensor:
        """Returns the rewards in the current unit, `[T, N]`; a copy, the batch keeps what the environment gave."""
        if not self.active:
            return rewards
        return rewards / float(deviation(self._count, self._squares))

    def update(self, trajectories: Trajectories) -> None:
        """Advances the moments by the batch's valid rows."""
        if not self.active:
            return
        mask, lane = trajectories.mask, trajectories.lane
        if len(self._carry) <= int(lane.max()):
            self._carry = self._mean.new_zeros(int(lane.max()) + 1)
        rewards = torch.where(mask, trajectories.rewards, 0.0).double()
        decay = torch.where(trajectories.starts, 0.0, self.gamma).double()
        rewards[0] += decay[0] * (0.0 if trajectories.whole_episodes else self._carry[lane])
        accumulated = linear_scan(decay.flip(0), rewards.flip(0)).flip(0)
        merged = merge_moments(self._count, self._mean, self._squares, accumulated[mask][:, None])
        self._count, self._mean, self._squares = merged
        if not trajectories.whole_episodes:
            self._carry[lane] = accumulated[-1]

    def state_dict(self) -> dict[str, Any]:
        return {"count": self._count, "mean": self._mean, "squares": self._squares, "carry": self._carry}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        device = self._mean.device
        self._count, self._mean = (state[name].to(device, copy=True) for name in ("count", "mean"))
        self._squares, self._carry = (state[name].to(device, copy=True) for name in ("squares", "carry"))


class ScaledReturn(ABC):
    """A return over rewards in their running unit: all that `pgkit.protocols.Returns` asks but the recursion."""

    needs_values = False
    needs_whole_episodes = False
    needs_action_values = False
    weighs: WeightKind = "prefix"
    discount_states = False
    unbiased = False

    def __init__(self, *, gamma: float, scale_rewards: bool) -> None:
        self.gamma = gamma
        self.scaler = RewardScaler(gamma=gamma, active=scale_rewards)

    def rewards(self, trajectories: Trajectories) -> Tensor:
        """Returns the rewards in the unit of the signal, `[T, N]`."""
        return self.scaler.scaled(trajectories.rewards)

    @abstractmethod
    def signal(
        self, trajectories: Trajectories, values: Tensor | None, log_weight: Tensor, chosen: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Returns (signal, mask), both `[T, N]`."""

    def targets(
        self,
        trajectories: Trajectories,
        values: Tensor | None,
        log_weight: Tensor,
        signal: Tensor,
        chosen: Tensor | None = None,
    ) -> Tensor:
        """Returns the signal: an outcome of its state, once it is weighted by how the state came about."""
        return signal

    def update(self, trajectories: Trajectories) -> None:
        """Advances the reward moments, once the batch has been used."""
        self.scaler.update(trajectories)

    def state_dict(self) -> dict[str, Any]:
        """Returns the reward moments."""
        return self.scaler.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Puts reward moments back."""
        self.scaler.load_state_dict(state)
