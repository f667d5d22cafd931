"""What policies say of actions that others took."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pgkit.experience import Acting
from pgkit.types import Trajectories


def log_densities(policies: Sequence[Acting], trajectories: Trajectories) -> Tensor:
    """Returns log μ_k(a|s) of every row under every policy, `[K, T, N]`, 0 outside the mask: one pass a policy."""
    rows = trajectories.rows()
    result = trajectories.behavior_log_prob.new_zeros(len(policies), trajectories.mask.numel())
    with torch.no_grad():
        for of_policy, policy in zip(result, policies, strict=True):
            of_policy[rows.index] = policy.log_prob(rows.obs, rows.actions).to(result.dtype)
    return result.reshape(len(policies), *trajectories.mask.shape)
