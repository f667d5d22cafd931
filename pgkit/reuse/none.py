"""Nothing is kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, final

from pgkit.experience import Behaviors
from pgkit.reuse.densities import log_densities
from pgkit.types import Metrics, Trajectories


@final
class NoReuse:
    """Hands every batch on as it came, and forgets it."""

    batches = 1
    unbiased = True
    tags = ()

    def extend(self, trajectories: Trajectories, behaviors: Behaviors) -> Trajectories:
        """Returns the batch; where several policies acted, with what each of them says of every action."""
        if len(behaviors.policies) == 1:
            return trajectories
        return replace(
            trajectories,
            behavior_id=behaviors.lanes.to(trajectories.lane.device)[trajectories.lane],
            log_densities=log_densities(behaviors.policies, trajectories),
        )

    def metrics(self) -> Metrics:
        """Returns nothing."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """Returns an empty state."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes an empty state."""
