"""The estimator panel: what the gradient's noise would have been with another estimator, on the same batch."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Annotated, final

from pgkit.core.jackknife import Interval, linear_ratio, ratio
from pgkit.diagnostics.candidates import chosen
from pgkit.diagnostics.comparison import CURRENT, Comparison, Finding, findings
from pgkit.diagnostics.gradients import Unanswered
from pgkit.options import Count, Fraction, Range
from pgkit.snapshot import Facts, Snapshot
from pgkit.types import Metrics

QUANTITIES = (
    "variance_ratio", "variance_ratio_low", "variance_ratio_high", "variance_of_mean", "per_sample_variance",
    "snr", "snr_low", "snr_high", "cosine",
)  # fmt: skip
LEAST_POOLED = 64
"""Trajectories of a window without which a point is shown and no interval: it would hold the truth too seldom."""


@final
class Window:
    """The findings of the last few batches, pooled."""

    def __init__(self, length: int) -> None:
        self._batches: deque[Mapping[str, Finding]] = deque(maxlen=length)

    def add(self, batch: Mapping[str, Finding]) -> None:
        """Takes in what one batch said."""
        self._batches.append(batch)

    def variance_ratio(self, name: str, reference: str) -> Interval:
        """Returns the variance of one estimator over that of another, over the batches that know both."""
        both = self._both(name, reference)
        pooled = ratio([a.spread.variance for a, _ in both], [b.spread.variance for _, b in both])
        return pooled if self._enough(both) else Interval(point=pooled.point)

    def snr(self, name: str) -> Interval:
        """Returns the debiased signal-to-noise ratio of the mean of a batch."""
        own = [a for a, _ in self._both(name, name)]
        pooled = linear_ratio([a.spread.signal for a in own], [a.spread.variance for a in own])
        return pooled if self._enough(self._both(name, name)) else Interval(point=pooled.point)

    def cosine(self, name: str, reference: str) -> float | None:
        """Returns the cosine between the expectations of two estimators, None while either is not resolved."""
        both = self._both(name, reference)
        lengths = [sum(float(pair[side].spread.signal[0]) for pair in both) for side in (0, 1)]
        if not both or min(lengths) <= 0:
            return None
        cosine = sum(a.inner for a, _ in both) / (lengths[0] * lengths[1]) ** 0.5
        return max(-1.0, min(1.0, cosine))

    def _both(self, name: str, reference: str) -> list[tuple[Finding, Finding]]:
        return [(batch[name], batch[reference]) for batch in self._batches if name in batch and reference in batch]

    @staticmethod
    def _enough(both: Sequence[tuple[Finding, Finding]]) -> bool:
        return sum(len(a.spread.variance) - 1 for a, _ in both) >= LEAST_POOLED


@final
class EstimatorPanel:
    """Evaluates a list of estimators on the batch that one of them was used on, without touching the update.

    Each is a return, a baseline or both, or `all_action` (`pgkit.diagnostics.candidates`); `null` means the default
    list, of it what the run's parts allow: without a critic nothing that reads one. `variance_ratio` is that of the
    means of a batch, over the estimator in use (`current`), paired on the same trajectories and pooled over the last
    `window` measurements; its interval, and that of the SNR, are jackknifed and come with 64 trajectories or more.
    Bias: gae, n_step, all_action and value-bootstrapped returns estimate another vector than the truth; no variance
    shows it, and `cosine` to the estimator in use only in part.
    """

    def __init__(
        self,
        *,
        facts: Facts,
        gamma: Fraction,
        every: Count = 5,
        estimators: list[str] | None = None,
        window: Count = 20,
        max_columns: Annotated[int, Range(least=8)] | None = 64,
        group: Annotated[int, Range(least=8)] = 16,
    ) -> None:
        self.every, self.gamma, self.max_columns, self.group = every, gamma, max_columns, group
        self.candidates = chosen(estimators, facts)
        self.names = (CURRENT, *(each.name for each in self.candidates))
        self.tags = tuple(f"panel/{name}/{quantity}" for name in self.names for quantity in QUANTITIES)
        self._window = Window(window)
        self._unanswered = Unanswered()

    def measure(self, snapshot: Snapshot) -> Metrics:
        """Returns the pooled ratio, SNR and cosine of every estimator, and its variance on this batch."""
        if snapshot.coefficients.shape[1] < 2:
            return self._unanswered(self.tags, "a batch of one column has no variance")
        if snapshot.factors.group is not None:
            return self._unanswered(self.tags, "columns that began in the same state are no independent draws")
        comparison = Comparison(snapshot, self.candidates, gamma=self.gamma, max_columns=self.max_columns)
        found = findings(comparison, group=self.group)
        self._window.add(found)
        metrics: Metrics = {}
        for name in self.names:
            metrics |= {f"panel/{name}/{quantity}": value for quantity, value in self._row(name, found).items()}
        if missing := [name for name in self.names if name not in found]:
            self._unanswered([f"panel/{missing[0]}/variance_ratio"], "too few columns, or a statistic couples them all")
        return metrics

    def _row(self, name: str, found: Mapping[str, Finding]) -> Metrics:
        own = found.get(name)
        if own is None:
            return dict.fromkeys(QUANTITIES)
        compared, snr = self._window.variance_ratio(name, CURRENT), self._window.snr(name)
        values = (
            compared.point, compared.low, compared.high, float(own.spread.variance[0]), own.per_sample_variance,
            snr.point, snr.low, snr.high, self._window.cosine(name, CURRENT),
        )  # fmt: skip
        return dict(zip(QUANTITIES, values, strict=True))
