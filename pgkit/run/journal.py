"""What a run remembers and shows while it goes on: counters, records, loggers, progress."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, final

from pgkit.core.placed import told
from pgkit.loggers.group import LoggerGroup
from pgkit.rl.collect import Batch
from pgkit.run.progress import Progress
from pgkit.run.record import Clock, EpisodeRecord
from pgkit.types import Measured, Metrics

TAGS = (
    "return/mean",
    "return/mean_100",
    "return/max",
    "return/min",
    "episode/length",
    "steps/discarded",
    "time/steps_per_second",
    "time/diagnostics_fraction",
)


@final
class Journal:
    """Counts what a run did and hands every update's metrics to the loggers and to the progress view."""

    def __init__(
        self,
        *,
        loggers: LoggerGroup,
        progress: Progress,
        record: EpisodeRecord,
        clock: Clock,
        keep: Callable[[], None] = lambda: None,
    ) -> None:
        self.loggers, self.progress, self.record, self.clock = loggers, progress, record, clock
        self._keep = keep
        self.env_steps = self.discarded_steps = self.updates = 0
        self.latest: Metrics = {}  # the last known value of every tag
        self._diagnosing = 0.0

    @property
    def gradient(self) -> Metrics:
        """What was last known about the gradient."""
        return {tag: value for tag, value in self.latest.items() if tag.startswith("gradient/")}

    @contextmanager
    def diagnosing(self) -> Iterator[None]:
        """Measures what the instruments cost."""
        start = time.perf_counter()
        yield
        self._diagnosing += time.perf_counter() - start

    def collected(self, batch: Batch) -> None:
        """Takes in a batch as soon as it is there, before it is learnt from."""
        self.env_steps += batch.env_steps
        self.discarded_steps += batch.discarded_steps
        self.record.add(batch.returns, batch.lengths, env_steps=self.env_steps, clock=self.clock)

    def write(self, batch: Batch, measured: Measured) -> None:
        """Ends an update: logs its metrics, what is not finite as None, shows progress, and keeps the policy."""
        self.updates += 1
        known = {tag: value for tag, value in measured.items() if value is not None}
        numbers = dict(zip(known, told(list(known.values())), strict=True))
        metrics: Metrics = {tag: _finite(numbers.get(tag)) for tag in measured}
        self.latest |= {tag: value for tag, value in metrics.items() if value is not None}
        seconds = self.clock.seconds
        everything: dict[str, float | None] = {
            **_episodes(batch),
            "return/mean_100": self.record.return_mean_100,
            "steps/discarded": self.discarded_steps,
            "time/steps_per_second": self.env_steps / seconds,
            "time/diagnostics_fraction": self._diagnosing / seconds,
            **metrics,
        }
        self.loggers.write(everything, step=self.env_steps)
        self.progress.update(done=self.env_steps, outcome=self.record.return_mean_100, snr=metrics.get("gradient/snr"))
        self._keep()

    def state_dict(self) -> dict[str, Any]:
        """Returns the counters, the episode record and the clock."""
        return {
            "env_steps": self.env_steps,
            "discarded_steps": self.discarded_steps,
            "updates": self.updates,
            "latest": dict(self.latest),
            "diagnosing": self._diagnosing,
            "record": self.record.state_dict(),
            "clock": self.clock.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Puts them back."""
        self.env_steps, self.discarded_steps = state["env_steps"], state["discarded_steps"]
        self.updates, self.latest = state["updates"], dict(state["latest"])
        self._diagnosing = state["diagnosing"]
        self.record.load_state_dict(state["record"])
        self.clock.load_state_dict(state["clock"])


def _finite(value: float | None) -> float | None:
    return value if value is None or math.isfinite(value) else None


def _episodes(batch: Batch) -> dict[str, float | None]:
    """Returns the statistics of the episodes that a batch finished; None where it finished none."""
    tags = ("return/mean", "return/max", "return/min", "episode/length")
    if not batch.returns:
        return dict.fromkeys(tags)
    count = len(batch.returns)
    values = (sum(batch.returns) / count, max(batch.returns), min(batch.returns), sum(batch.lengths) / count)
    return dict(zip(tags, values, strict=True))
