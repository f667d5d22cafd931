"""The bias-variance dials: which λ, clip or window would have had the least error, judged by the gradient itself."""

from __future__ import annotations

from typing import Annotated, final

import torch
from torch import Tensor

from pgkit.core.jackknife import spread
from pgkit.core.strata import Sums
from pgkit.diagnostics.candidates import Candidate
from pgkit.diagnostics.comparison import Comparison
from pgkit.diagnostics.gradients import Unanswered, strata_of
from pgkit.diagnostics.squared_error import Setting, SquaredErrors
from pgkit.diagnostics.weight_dial import WeightDial
from pgkit.options import Count, Fraction, Positive, Range
from pgkit.snapshot import Facts, Snapshot
from pgkit.types import Metrics


@final
class Dial:
    """The mean squared error of the gradient at several λ of generalised advantage estimation, less the value.

    MSE(λ) = |E g_λ − E g_1|² + variance of the mean. The bias is that against λ = 1, which does not bootstrap before
    the episode ends; its square is |d̄|² − tr Cov(d)/n for d = g_λ − g_1 on the same trajectories, so that no batch is
    judged by its own noise: it has the mean that a held-out batch would give, with less scatter. Both parts are pooled
    over the last `window` measurements.
    On reweighted data the same is said of the weights: truncated at `clips`, and with the newest batches alone, as many
    as `windows` says (null: 1, 2, … up to all that are reused); see `WeightDial`.
    Bias: on slabs of steps λ = 1 itself bootstraps where the collector cuts, and that part of the bias is not seen.
    Source: Schulman et al. 2016, arXiv:1506.02438, for λ; the decomposition is elementary.
    """

    def __init__(
        self,
        *,
        facts: Facts,
        gamma: Fraction,
        every: Count = 5,
        lambdas: list[Fraction] = [0.0, 0.5, 0.8, 0.9, 0.95, 1.0],  # noqa: B006 read only
        clips: list[Positive] = [1.0, 2.0, 5.0],  # noqa: B006 read only
        windows: list[Count] | None = None,
        window: Count = 20,
        max_columns: Annotated[int, Range(least=8)] | None = 64,
    ) -> None:
        self.every, self.gamma, self.max_columns, self.lambdas = every, gamma, max_columns, lambdas
        self._errors = SquaredErrors("lambda", {f"lambda_{lam:g}": lam for lam in lambdas}, window=window)
        self._weights = WeightDial(facts=facts, clips=clips, windows=windows, pooled=window, max_columns=max_columns)
        self.tags = (*self._errors.tags, *self._weights.tags)
        self._unanswered = Unanswered()

    def measure(self, snapshot: Snapshot) -> Metrics:
        """Returns error, squared bias and variance of every λ, clip and window, and those of least error; pooled."""
        return self._of_lambda(snapshot) | self._weights.measure(snapshot)

    def _of_lambda(self, snapshot: Snapshot) -> Metrics:
        columns = snapshot.coefficients.shape[1]
        if snapshot.factors.values is None:
            return self._unanswered(self._errors.tags, "it reads a critic, as critic=value")
        if columns < 2:
            return self._unanswered(self._errors.tags, "a batch of one column has no variance")
        candidates = [_less_value(lam) for lam in self.lambdas]
        whole = _less_value(1.0)
        comparison = Comparison(snapshot, [*candidates, whole], gamma=self.gamma, max_columns=self.max_columns)
        truth = comparison.gradients(whole)
        # Of a batch that was looked at in part the first columns need not hold every policy's.
        stratum = strata_of(snapshot) if len(truth) == columns else None
        found = [_setting(comparison.gradients(each), truth, columns, stratum) for each in candidates]
        return self._errors.add(len(truth), found)


def _setting(gradients: Tensor, truth: Tensor, columns: int, stratum: Tensor | None) -> Setting:
    """Returns what gradients at one λ say, `[n, P]`, beside those that are taken for the truth."""
    if stratum is not None:
        mean, difference = (
            Sums.of([(stratum, each)], torch.bincount(stratum)).moments() for each in (gradients, gradients - truth)
        )
        return Setting(variance_of_mean=mean.variance_of_mean, bias_squared=difference.signal)
    return Setting(
        variance_of_mean=float(spread(gradients, num_samples=columns).variance[0]),
        bias_squared=float(spread(gradients - truth, num_samples=columns).signal[0]),
    )


def _less_value(lam: float) -> Candidate:
    return Candidate(name=f"gae_{lam:g}", credit="gae", number=lam, reference="value")
