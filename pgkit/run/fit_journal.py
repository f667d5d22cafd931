"""What a fit remembers and shows while it goes on: samples, the way to the target, loggers, progress."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import final

from pgkit.loggers.group import LoggerGroup
from pgkit.run.progress import Progress
from pgkit.run.record import Clock
from pgkit.types import Metrics

TAGS = ("objective/value", "solution/distance", "time/samples_per_second")


@final
class FitJournal:
    """Counts what a fit drew and hands every update's metrics to the loggers and to the progress view.

    The target is reached when the distance to the answer is first at most `target`, or, where no answer is known, when
    the objective is first on its good side. Samples are those that estimates drew, and nothing else.
    """

    def __init__(
        self, *, loggers: LoggerGroup, progress: Progress, clock: Clock, target: float | None, maximise: bool
    ) -> None:
        self.loggers, self.progress, self.clock = loggers, progress, clock
        self.target, self._maximise = target, maximise
        self.samples = self.updates = 0
        self.samples_to_target: int | None = None
        self.objective: float | None = None
        self.distance: float | None = None
        self.gradient: Metrics = {}

    def write(self, *, drawn: int, measured: tuple[float | None, float | None] | None, metrics: Metrics) -> None:
        """Ends an update for which `drawn` samples were drawn; `measured` is (objective, distance) where it was due."""
        self.updates += 1
        self.samples += drawn
        if measured is not None:
            self.objective, self.distance = measured
            if self.samples_to_target is None and self._reached():
                self.samples_to_target = self.samples
        objective, distance = (None, None) if measured is None else measured
        finite = {tag: value for tag, value in metrics.items() if value is not None and math.isfinite(value)}
        self.gradient |= {tag: value for tag, value in finite.items() if tag.startswith("gradient/")}
        own = {
            "objective/value": objective,
            "solution/distance": distance,
            "time/samples_per_second": self.samples / self.clock.seconds,
        }
        self.loggers.write({**dict.fromkeys(metrics), **finite, **_finite(own)}, step=self.samples)
        shown = self.objective if self.distance is None else self.distance
        self.progress.update(done=self.samples, outcome=shown, snr=metrics.get("gradient/snr"))

    def _reached(self) -> bool:
        if self.target is None:
            return False
        if self.distance is not None:
            return self.distance <= self.target
        if self.objective is None:
            return False
        return self.objective >= self.target if self._maximise else self.objective <= self.target


def _finite(metrics: Mapping[str, float | None]) -> Metrics:
    return {tag: value if value is None or math.isfinite(value) else None for tag, value in metrics.items()}
