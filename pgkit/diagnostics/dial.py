"""The bias-variance dial: which λ would have had the least error, judged by the gradient itself."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, final

from torch import Tensor

from pgkit.core.jackknife import spread
from pgkit.diagnostics.candidates import Candidate
from pgkit.diagnostics.comparison import Comparison
from pgkit.diagnostics.gradients import Unanswered
from pgkit.options import Count, Fraction, Range
from pgkit.snapshot import Snapshot
from pgkit.types import Metrics

LEAST_POOLED = 64
"""Trajectories of a window without which no λ is called best."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What one batch says about one λ; `bias_squared` may be negative, and averages to what it says."""

    variance_of_mean: float
    bias_squared: float


@final
class Dial:
    """The mean squared error of the gradient at several λ of generalised advantage estimation, less the value.

    MSE(λ) = |E g_λ − E g_1|² + variance of the mean. The bias is that against λ = 1, which does not bootstrap before
    the episode ends; its square is |d̄|² − tr Cov(d)/n for d = g_λ − g_1 on the same trajectories, so that no batch is
    judged by its own noise: it has the mean that a held-out batch would give, with less scatter. Both parts are pooled
    over the last `window` measurements.
    Bias: on slabs of steps λ = 1 itself bootstraps where the collector cuts, and that part of the bias is not seen.
    Source: Schulman et al. 2016, arXiv:1506.02438, for λ; the decomposition is elementary.
    """

    def __init__(
        self,
        *,
        gamma: Fraction,
        every: Count = 5,
        lambdas: list[Fraction] = [0.0, 0.5, 0.8, 0.9, 0.95, 1.0],  # noqa: B006 read only
        window: Count = 20,
        max_columns: Annotated[int, Range(least=8)] | None = 64,
    ) -> None:
        self.every, self.gamma, self.max_columns, self.lambdas = every, gamma, max_columns, lambdas
        names = (f"dial/lambda_{lam:g}" for lam in lambdas)
        parts = ("mean_squared_error", "bias_squared", "variance_of_mean")
        self.tags = (*(f"{name}/{part}" for name in names for part in parts), "dial/best_lambda")
        self._window: deque[tuple[int, Sequence[Setting]]] = deque(maxlen=window)
        self._unanswered = Unanswered()

    def measure(self, snapshot: Snapshot) -> Metrics:
        """Returns error, squared bias and variance of every λ, and the λ of least error; pooled."""
        columns = snapshot.coefficients.shape[1]
        if snapshot.factors.values is None:
            return self._unanswered(self.tags, "it reads a critic, as critic=value")
        if columns < 2:
            return self._unanswered(self.tags, "a batch of one column has no variance")
        candidates = [_less_value(lam) for lam in self.lambdas]
        whole = _less_value(1.0)
        comparison = Comparison(snapshot, [*candidates, whole], gamma=self.gamma, max_columns=self.max_columns)
        truth = comparison.gradients(whole)
        found = [_setting(comparison.gradients(each), truth, columns) for each in candidates]
        self._window.append((len(truth), found))
        return self._pooled()

    def _pooled(self) -> Metrics:
        metrics: Metrics = {}
        errors: list[float] = []
        for index, lam in enumerate(self.lambdas):
            settings = [found[index] for _, found in self._window]
            bias = max(0.0, sum(each.bias_squared for each in settings) / len(settings))
            variance = sum(each.variance_of_mean for each in settings) / len(settings)
            errors.append(bias + variance)
            name = f"dial/lambda_{lam:g}"
            metrics |= {
                f"{name}/mean_squared_error": bias + variance,
                f"{name}/bias_squared": bias,
                f"{name}/variance_of_mean": variance,
            }
        enough = sum(columns for columns, _ in self._window) >= LEAST_POOLED
        metrics["dial/best_lambda"] = self.lambdas[errors.index(min(errors))] if enough else None
        return metrics


def _setting(gradients: Tensor, truth: Tensor, columns: int) -> Setting:
    """Returns what gradients at one λ say, `[n, P]`, beside those that are taken for the truth."""
    return Setting(
        variance_of_mean=float(spread(gradients, num_samples=columns).variance[0]),
        bias_squared=float(spread(gradients - truth, num_samples=columns).signal[0]),
    )


def _less_value(lam: float) -> Candidate:
    return Candidate(name=f"gae_{lam:g}", credit="gae", number=lam, reference="value")
