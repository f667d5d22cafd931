"""What policies say of actions that others took."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pgkit.core.densities import log_prob_of_rows
from pgkit.experience import Acting
from pgkit.types import Trajectories


def log_densities(policies: Sequence[Acting], trajectories: Trajectories) -> Tensor:
    """Returns log μ_k(a|s) of every row under every policy, `[K, T, N]`, 0 outside the mask: one pass a policy."""
    return torch.stack([log_prob_of_rows(policy, trajectories) for policy in policies])
