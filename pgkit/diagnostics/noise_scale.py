"""How many trajectories a batch can hold before more of them are wasted."""

from __future__ import annotations

from collections import deque
from typing import Annotated, final

from pgkit.core.jackknife import Interval, Spread, linear_ratio, pair_spread, spread
from pgkit.diagnostics.gradients import (
    Unanswered,
    affordable,
    cross_gradients,
    gradients_in_use,
    groups_of,
    obstacle,
)
from pgkit.diagnostics.panel import LEAST_POOLED
from pgkit.options import Count, Range
from pgkit.snapshot import Snapshot
from pgkit.types import Metrics


@final
class NoiseScale:
    """The noise scale tr C / |E g|² in trajectories: of one trajectory's gradient g, C its covariance.

    A batch of that many has a signal-to-noise ratio of 1. Well above it samples are wasted: the gradient hardly gets
    better. It names no best batch, and nothing acts on it. Numerator and denominator are summed over the last `window`
    measurements, each without bias, and divided once; the interval is the jackknife's, on the scale of the inverse,
    from 64 trajectories on. Where its lower end of |E g|² is not above 0 there is no upper end; where the point is
    not, there is no point: the batches cannot tell their gradient from none.
    Source: McCandlish et al. 2018, arXiv:1812.06162.
    """

    tags = (
        "noise_scale/trajectories",
        "noise_scale/trajectories_low",
        "noise_scale/trajectories_high",
        "noise_scale/batch_fraction",
    )

    def __init__(
        self,
        *,
        every: Count = 5,
        window: Count = 20,
        max_columns: Annotated[int, Range(least=8)] | None = 64,
        group: Annotated[int, Range(least=8)] = 16,
    ) -> None:
        self.every, self.max_columns, self.group = every, max_columns, group
        self._window: deque[Spread] = deque(maxlen=window)
        self._unanswered = Unanswered()

    def measure(self, snapshot: Snapshot) -> Metrics:
        """Returns the noise scale, its interval, and the batch as a multiple of it."""
        reason = obstacle(snapshot)
        if reason is not None:
            return self._unanswered(self.tags, reason)
        self._window.append(self._spread(snapshot))
        # For the mean of N trajectories |E g|² / Var is N over the noise scale; unlike that, it has no pole at 0.
        fraction = self._pooled()
        columns = snapshot.coefficients.shape[1]
        point, low, high = (_inverse(columns, end) for end in (fraction.point, fraction.high, fraction.low))
        return dict(zip(self.tags, (point, low, high, None if point is None else fraction.point), strict=True))

    def _pooled(self) -> Interval:
        pooled = linear_ratio([each.signal for each in self._window], [each.variance for each in self._window])
        enough = sum(len(each.variance) - 1 for each in self._window) >= LEAST_POOLED
        return pooled if enough else Interval(point=pooled.point)

    def _spread(self, snapshot: Snapshot) -> Spread:
        columns = snapshot.coefficients.shape[1]
        measured = min(columns, self.max_columns or columns, affordable(snapshot, num_vectors=2))
        if snapshot.coupling == "pairwise":
            groups = groups_of(measured, self.group, snapshot.scores.num_parameters)
            return pair_spread(list(cross_gradients(snapshot, snapshot.factors.signal, groups)), num_samples=columns)
        return spread(gradients_in_use(snapshot, measured), num_samples=columns)


def _inverse(columns: int, fraction: float | None) -> float | None:
    return columns / fraction if fraction is not None and fraction > 0 else None
