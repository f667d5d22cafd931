"""What a policy says of actions that were taken, by itself or by another."""

from __future__ import annotations

from operator import itemgetter
from typing import Protocol

import torch
from torch import Tensor

from pgkit.core.unrolling import blocks_of_columns, is_recurrent, log_prob_of_columns
from pgkit.types import Observations, Trajectories, map_observations

BLOCK = 1024
"""Rows that are asked for at once, so that what lies between two layers stays in a processor's cache."""
COLUMNS_OF = 2**16
"""Rows of the columns that a policy with a memory is asked for at once: each of their rows costs calls of its own."""


class Density(Protocol):
    """A law of actions given observations."""

    def log_prob(self, obs: Observations, actions: Tensor) -> Tensor:
        """Returns log π(a|s) `[...]`."""


def target_log_prob(policy: Density, trajectories: Trajectories) -> Tensor:
    """Returns log π(a|s) of every row, `[T, N]`, detached, of the policy that learns, before its next update.

    Whoever joined the batch may have asked already.
    """
    known = trajectories.target_log_prob
    return log_prob_of_rows(policy, trajectories) if known is None else known


def log_prob_of_rows(law: Density, trajectories: Trajectories) -> Tensor:
    """Returns log π(a|s) of every row in one pass, `[T, N]`, detached, 0 outside the mask."""
    if is_recurrent(law):
        with torch.no_grad():
            blocks = blocks_of_columns(trajectories, COLUMNS_OF)
            found = torch.cat([log_prob_of_columns(law, trajectories, block) for block in blocks], dim=1)
        return torch.where(trajectories.mask, found.to(trajectories.behavior_log_prob.dtype), 0.0)
    rows = trajectories.rows()
    result = trajectories.behavior_log_prob.new_zeros(trajectories.mask.numel())
    by_hand = law.by_hand() if hasattr(law, "by_hand") else None
    if by_hand is not None:
        found = by_hand.log_prob(by_hand.rows(rows.obs, rows.actions)).to(result.dtype)
        return result.scatter_(0, rows.index, found).reshape(trajectories.mask.shape)
    with torch.no_grad():
        for start in range(0, len(rows.index), BLOCK):
            block = slice(start, start + BLOCK)
            obs = map_observations(itemgetter(block), rows.obs)
            result[rows.index[block]] = law.log_prob(obs, rows.actions[block]).to(result.dtype)
    return result.reshape(trajectories.mask.shape)
