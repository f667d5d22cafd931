"""The absence of a critic."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, final

import torch
from gymnasium import spaces
from torch import Tensor

from pgkit.types import Metrics, Observations, Trajectories


@final
class NoCritic:
    """Predicts nothing and learns nothing."""

    tags = ()

    def __init__(self, *, observation_space: spaces.Space[Any], generator: torch.Generator) -> None:
        """Takes what every critic is given, and needs none of it."""

    def values(self, obs: Observations) -> Tensor | None:
        """Returns None: nothing is bootstrapped."""
        return None

    def update(
        self, trajectories: Trajectories, targets: Tensor, mask: Tensor, weight: Tensor | None = None
    ) -> Metrics:
        """Learns nothing."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """Returns an empty state."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes an empty state."""
