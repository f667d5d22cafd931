"""How far an update moved the policy."""

from __future__ import annotations

from typing import final

from pgkit.core.unrolling import mean_divergence
from pgkit.options import Count
from pgkit.snapshot import Snapshot
from pgkit.types import Metrics


@final
class PolicyChange:
    """The divergence of the policy after the update from the one before it, in closed form.

    Averaged over the observations of the batch, evenly thinned to `max_rows` of them: what matters is its size, and
    two forward passes over a large batch would cost more than the step they describe.
    """

    tags = ("policy/kl",)

    def __init__(self, *, every: Count = 1, max_rows: Count | None = 256) -> None:
        self.every, self.max_rows = every, max_rows

    def measure(self, snapshot: Snapshot) -> Metrics:
        """Returns the mean of KL(before || after), in nats."""
        valid = snapshot.trajectories.valid
        if len(valid) == 0:
            return {"policy/kl": None}
        stride = 1 if self.max_rows is None else -(-len(valid) // self.max_rows)
        divergence = mean_divergence(snapshot.before, snapshot.policy, snapshot.trajectories, valid[::stride])
        return {"policy/kl": divergence}
