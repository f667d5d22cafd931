"""A critic that is as right or as wrong as a test wants it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from pgkit.types import Metrics, Observations, Trajectories


@dataclass(frozen=True)
class TableCritic:
    """Reads V off a table `[T+1, S]`; obs row t has t steps behind it."""

    table: Tensor
    tags = ()

    def values(self, obs: Observations) -> Tensor:
        """Returns V `[T+1, N]`."""
        return torch.stack([row[states] for row, states in zip(self.table, obs, strict=True)])

    def update(self, trajectories: Trajectories, targets: Tensor, mask: Tensor) -> Metrics:
        return {}

    def state_dict(self) -> dict[str, object]:
        return {}

    def load_state_dict(self, state: Mapping[str, object]) -> None: ...
