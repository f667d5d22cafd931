"""Mean squared errors of the gradient at several settings of one knob, pooled over measurements."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import final

from pgkit.types import Metrics

LEAST_POOLED = 64
"""Trajectories of a window without which no setting is called best."""
PARTS = ("mean_squared_error", "bias_squared", "variance_of_mean")


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What one batch says about one setting; `bias_squared` may be negative, and averages to what it says."""

    variance_of_mean: float
    bias_squared: float


@final
class SquaredErrors:
    """Squared bias plus variance of the mean of every setting, over the last `window` measurements.

    `settings` are the numbers of the knob by the names that tags have them under. Of settings of equal error the first
    is best.
    """

    def __init__(self, knob: str, settings: Mapping[str, float], *, window: int) -> None:
        self.settings, self.best = settings, f"dial/best_{knob}"
        self.tags = (*(f"dial/{name}/{part}" for name in settings for part in PARTS), self.best)
        self._window: deque[tuple[int, Sequence[Setting]]] = deque(maxlen=window)

    def add(self, columns: int, found: Sequence[Setting]) -> Metrics:
        """Takes in what a batch, of which so many columns were measured, says; returns a value for every tag."""
        self._window.append((columns, found))
        metrics: Metrics = {}
        errors: list[float] = []
        for index, name in enumerate(self.settings):
            pooled = [batch[index] for _, batch in self._window]
            bias = max(0.0, sum(each.bias_squared for each in pooled) / len(pooled))
            variance = sum(each.variance_of_mean for each in pooled) / len(pooled)
            errors.append(bias + variance)
            values = zip(PARTS, (bias + variance, bias, variance), strict=True)
            metrics |= {f"dial/{name}/{part}": value for part, value in values}
        enough = sum(size for size, _ in self._window) >= LEAST_POOLED
        metrics[self.best] = list(self.settings.values())[errors.index(min(errors))] if enough else None
        return metrics
