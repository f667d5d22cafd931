"""A critic of actions that is as right or as wrong as a test wants it."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from pgkit.critics.expansion import Expansion
from pgkit.types import Metrics, Observations, Trajectories
from tests.problems import Enumeration
from tests.tables import TableCritic


class ExactActionCritic:
    """Knows V and Q, or is wrong by a table of actions."""

    tags = ()

    def __init__(self, problem: Enumeration, gamma: float, error: float = 0.0) -> None:
        value, quality = problem.values(gamma)
        self.values = TableCritic(value).values
        self.quality = quality + error * torch.sin(1.0 + torch.arange(quality.numel())).reshape(quality.shape)
        self.policy = problem.policy

    def action_values(self, obs: Observations) -> Tensor:
        return torch.stack([row[states] for row, states in zip(self.quality, obs, strict=True)])

    def chosen_values(self, obs: Observations, actions: Tensor) -> Tensor:
        return self.action_values(obs).gather(-1, actions.unsqueeze(-1)).squeeze(-1)

    def expansion(self, obs: Observations, actions: Tensor) -> Expansion:
        return Expansion(self.policy, obs, actions, quality=lambda encoded: (self.action_values(obs) * encoded).sum(-1))

    def probabilities(self, obs: Observations) -> Tensor:
        return self.policy.law.log_probabilities(self.policy(obs)).exp().detach()

    def update(
        self, trajectories: Trajectories, targets: Tensor, mask: Tensor, weight: Tensor | None = None
    ) -> Metrics:
        return {}

    def state_dict(self) -> dict[str, object]:
        return {}

    def load_state_dict(self, state: Mapping[str, object]) -> None: ...
