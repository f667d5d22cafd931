"""The policy that learns is the one that acts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, final

import numpy as np
from torch import Tensor

from pgkit.experience import Behaviors
from pgkit.types import Factors, Metrics, Trajectories


@final
class Current:
    """Acts by the policy that learns, as it is at the beginning of every batch."""

    on_policy = True
    tags = ()

    def __init__(self, *, policy: Any, num_lanes: int) -> None:
        self._policy = policy
        self._behaviors = Behaviors.single(policy, num_lanes)

    def actor(self) -> Callable[[Any], np.ndarray]:
        """Returns the policy's own actor."""
        actor: Callable[[Any], np.ndarray] = self._policy.actor()
        return actor

    def acting(self) -> Behaviors:
        """Returns the policy, on every lane."""
        return self._behaviors

    def learn(self, trajectories: Trajectories, factors: Factors, coefficients: Tensor) -> Metrics:
        """Learns nothing: the policy does."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """Returns an empty state."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes an empty state."""
