"""No correction: the policy that acted is the one that learns."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor

from pgkit.protocols import Policy
from pgkit.types import Trajectories, WeightKind
from pgkit.weights.base import Reach


@final
class OnPolicy:
    """Every weight is 1, exactly, and nothing is computed."""

    unbiased = True
    kind: WeightKind = "prefix"
    reach: Reach = "none"
    needs_whole_episodes = False

    def log_weight(self, policy: Policy, trajectories: Trajectories) -> Tensor:
        """Returns zeros `[T, N]`."""
        return torch.zeros_like(trajectories.behavior_log_prob)
