"""How far an update moved the policy."""

from __future__ import annotations

from typing import final

from pgkit.options import Count
from pgkit.types import Metrics, Snapshot


@final
class PolicyChange:
    """The divergence of the policy after the update from the one before it, exact at every observation of the batch."""

    tags = ("policy/kl",)

    def __init__(self, *, every: Count = 1) -> None:
        self.every = every

    def measure(self, snapshot: Snapshot) -> Metrics:
        """Returns the mean over valid rows of KL(before || after), in nats."""
        rows = snapshot.trajectories.rows()
        if len(rows.index) == 0:
            return {"policy/kl": None}
        return {"policy/kl": float(snapshot.before.divergence(snapshot.policy, rows.obs).mean())}
