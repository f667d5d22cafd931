"""Whether the critic keeps up with the policy: its baseline against two that need no patience."""

from __future__ import annotations

from typing import Annotated, final

from pgkit.diagnostics.candidates import candidate
from pgkit.diagnostics.comparison import Comparison, findings
from pgkit.diagnostics.gradients import Unanswered
from pgkit.diagnostics.panel import Window
from pgkit.options import Count, Fraction, Range
from pgkit.snapshot import Snapshot
from pgkit.types import Metrics


@final
class CriticLag:
    """Two ratios of the variance of the mean, with reward-to-go as the return, pooled as in the panel.

    `value_ratio` is the critic's baseline over leave-one-out: near 1 or above, the critic earns nothing here, usually
    because it lags behind the policy. `corrected_ratio` is its affine correction of least variance (two weights,
    cross-fitted) over the critic itself: well below 1, the critic's scale or offset is off, and more critic steps a
    batch are likely to help.
    """

    tags = tuple(
        f"critic_lag/{name}{end}" for name in ("value_ratio", "corrected_ratio") for end in ("", "_low", "_high")
    )

    def __init__(
        self,
        *,
        gamma: Fraction,
        every: Count = 5,
        window: Count = 20,
        max_columns: Annotated[int, Range(least=8)] | None = 64,
        group: Annotated[int, Range(least=8)] = 16,
    ) -> None:
        self.every, self.gamma, self.max_columns, self.group = every, gamma, max_columns, group
        self._candidates = [candidate(name) for name in ("leave_one_out", "value", "gls")]
        self._window = Window(window)
        self._unanswered = Unanswered()

    def measure(self, snapshot: Snapshot) -> Metrics:
        """Returns both ratios with their intervals, null below 64 pooled trajectories."""
        if snapshot.factors.values is None:
            return self._unanswered(self.tags, "it reads a critic, as critic=value")
        if snapshot.coefficients.shape[1] < 4:
            return self._unanswered(self.tags, "leave-one-out has no variance on fewer than 4 columns")
        comparison = Comparison(snapshot, self._candidates, gamma=self.gamma, max_columns=self.max_columns)
        self._window.add(findings(comparison, group=self.group))
        pairs = (("value", "leave_one_out"), ("gls", "value"))
        found = [self._window.variance_ratio(*pair) for pair in pairs]
        values = (end for interval in found for end in (interval.point, interval.low, interval.high))
        return dict(zip(self.tags, values, strict=True))
