"""All trajectories of a small process as one batch, with what each policy makes of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pgkit.core.off_policy_value import step_log_ratios
from pgkit.core.processes import CHAIN, Process

TARGET = torch.tensor([[0.7, 0.3], [0.2, 0.8]], dtype=torch.float64)
BEHAVIOR = torch.tensor([[0.4, 0.6], [0.5, 0.5]], dtype=torch.float64)
GAMMA = 0.9


@dataclass(frozen=True)
class Paths:
    """Episodes as columns `[T, N]`."""

    states: Tensor
    actions: Tensor
    rewards: Tensor
    mask: Tensor

    def log_prob(self, table: Tensor) -> Tensor:
        return torch.where(self.mask, table[self.states, self.actions].log(), 0.0)

    def log_ratio(self, target: Tensor = TARGET, behavior: Tensor = BEHAVIOR) -> Tensor:
        return step_log_ratios(self.log_prob(target), self.log_prob(behavior), self.mask)

    def columns(self, index: Tensor) -> Paths:
        return Paths(*(each[:, index] for each in (self.states, self.actions, self.rewards, self.mask)))


def every_path(process: Process = CHAIN) -> Paths:
    """Returns every trajectory once, in the order of `process.trajectories`."""
    count = len(process.trajectories)
    states, actions = (torch.zeros(process.horizon, count, dtype=torch.long) for _ in range(2))
    rewards = torch.zeros(process.horizon, count, dtype=torch.float64)
    mask = torch.zeros(process.horizon, count, dtype=torch.bool)
    for n, (_, steps) in enumerate(process.trajectories):
        for t, (state, action, reward, _) in enumerate(steps):
            states[t, n], actions[t, n], rewards[t, n], mask[t, n] = state, action, reward, True
    return Paths(states, actions, rewards, mask)


def true_value(process: Process = CHAIN, target: Tensor = TARGET, gamma: float = GAMMA) -> float:
    """Returns the target's value by dynamic programming, which shares nothing with the paths."""
    value, _ = process.values(target, gamma)
    return float(value[0] @ torch.tensor(process.start, dtype=torch.float64))


def drawn(size: int, seed: int, behavior: Tensor = BEHAVIOR, process: Process = CHAIN) -> Paths:
    """Returns `size` independent episodes of the behaviour."""
    chances = process.probabilities(behavior).numpy()
    index = np.random.default_rng(seed).choice(len(chances), size=size, p=chances / chances.sum())
    return every_path(process).columns(torch.from_numpy(index))


def occupancy(process: Process, table: Tensor) -> Tensor:
    """Returns Pr(s_t = s and the episode goes on) `[T, S]`."""
    rows = [torch.tensor(process.start, dtype=torch.float64)]
    for _ in range(process.horizon - 1):
        rows.append(torch.einsum("s,sa,sat->t", rows[-1], table, process.transition))
    return torch.stack(rows)
