"""Log-probabilities of logged actions: under a policy, and under a model of the policy that took them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pgkit.core.unrolling import law_parameters
from pgkit.types import Rows, Trajectories

BLOCK = 65_536
"""Rows of a forward pass."""


def log_prob_of_logged(policy: Any, trajectories: Trajectories) -> Tensor:
    """Returns log π(a|s) `[T, N]` in float64 without gradients, 0 outside the mask."""
    result = torch.zeros(trajectories.mask.numel(), dtype=torch.float64)
    with torch.no_grad():
        for rows in _blocks(trajectories):
            laws = law_parameters(policy, trajectories, rows)
            result[rows.index] = policy.law.log_prob(laws, rows.actions).double()
    return result.reshape(trajectories.mask.shape)


def fit_behavior(
    policy: nn.Module, trajectories: Trajectories, *, generator: np.random.Generator, steps: int = 1500
) -> float:
    """Fits a policy to the logged actions by maximum likelihood and returns what it reaches, in nats a step.

    A tenth of the episodes is held out: the parameters kept are those that served it best, and the likelihood is its.
    """
    columns = torch.from_numpy(generator.permutation(trajectories.num_columns))
    count = max(1, len(columns) // 10) if len(columns) > 1 else 0
    fitted = trajectories.columns(columns[count:])
    rows = fitted.rows()
    held_out = trajectories.columns(columns[:count]) if count else trajectories
    policy.update(rows)  # type: ignore[operator]  # a policy of ours: moments of the observations
    optimizer = torch.optim.Adam(policy.parameters(), lr=3e-3)
    best, kept = -float("inf"), {name: tensor.clone() for name, tensor in policy.state_dict().items()}
    for step in range(steps):
        index = torch.from_numpy(generator.integers(len(rows.index), size=min(512, len(rows.index))))
        picked = fitted.rows(rows.index[index])
        loss = -policy.log_prob(picked.obs, picked.actions).mean()  # type: ignore[operator]  # likewise
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if (step + 1) % 100 == 0:
            reached = float(log_prob_of_logged(policy, held_out).sum() / held_out.mask.sum())
            if reached > best:
                best, kept = reached, {name: tensor.clone() for name, tensor in policy.state_dict().items()}
    policy.load_state_dict(kept)
    return best


def _blocks(trajectories: Trajectories) -> Iterator[Rows]:
    for index in trajectories.valid.split(BLOCK):
        yield trajectories.rows(index)
