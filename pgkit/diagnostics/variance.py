"""How noisy the gradient of this batch was."""

from __future__ import annotations

from typing import Annotated, final

import torch
from torch import Tensor

from pgkit.core.moments import (
    GradientMoments,
    PairMoments,
    grouped_moments,
    independent_moments,
    mean_pairs,
    pair_moments,
)
from pgkit.core.strata import Sums, share_of_each
from pgkit.diagnostics.gradients import (
    Unanswered,
    affordable,
    chunks_in_use,
    chunks_of,
    cross_gradients,
    groups_of,
    obstacle,
    strata_of,
)
from pgkit.options import Count, Range
from pgkit.snapshot import Snapshot
from pgkit.types import Metrics

LEAST_GROUPS = 2
"""Groups of columns that began alike, without which nothing is known of their spread."""
LEAST_FOR_RATIOS = 4
"""Groups without which their spread is too uncertain to divide by."""
MOST_GROUPS = 4
"""Groups of columns that are looked at in one batch: their cost grows with the square of their size."""


@final
class GradientVariance:
    """The covariance of exact per-column gradients, by its trace, and what it means for the mean of the batch.

    All quantities are those of the mean over columns of the summed surrogate, without the entropy bonus, whatever
    scale the update gives its objective. Where leave-one-out couples the columns, the variance of the mean is that of
    a U-statistic, estimated without bias in groups of at most `group` columns; where a baseline is fitted to the other
    columns, the sample formula leaves out a share of order 1/N; where anything else couples them, nothing is known and
    the values are null. Columns of several policies are strata, and the variance of the mean is Σ_k n_k S_k² / n² of
    the variances inside each, where each has two columns; otherwise the sample formula counts what policies differ by
    as noise. Columns that began alike (`collect.group`) are no independent draws, but their groups are: the variance of
    the mean is that of a mean over groups, of which there must be two, and four for the ratio to it. Of a batch with
    more than `max_columns` columns the first ones (of each policy, in proportion; whole groups) are measured, and the
    variance of the mean is still that of the whole batch.
    """

    tags = (
        "gradient/per_sample_variance",
        "gradient/variance_of_mean",
        "gradient/snr",
        "gradient/expected_cosine",
    )

    def __init__(
        self,
        *,
        every: Count = 5,
        max_columns: Annotated[int, Range(least=8)] | None = 256,
        group: Annotated[int, Range(least=8)] = 16,
    ) -> None:
        self.every, self.max_columns, self.group = every, max_columns, group
        self._unanswered = Unanswered()

    def measure(self, snapshot: Snapshot) -> Metrics:
        """Returns the variance of one column's gradient and of the mean, the debiased SNR and the expected cosine."""
        columns = snapshot.coefficients.shape[1]
        measured = min(columns, self.max_columns or columns)
        if snapshot.groups is not None:
            found = _grouped(snapshot, snapshot.groups, measured)
            if found is None:
                return self._unanswered(self.tags, "fewer than two groups of equal size")
            metrics: Metrics = dict(zip(self.tags, _values(found), strict=True))
            if int(snapshot.groups.max()) + 1 < LEAST_FOR_RATIOS:
                metrics |= self._unanswered(self.tags[2:], f"fewer than {LEAST_FOR_RATIOS} groups")
            return metrics
        reason = obstacle(snapshot)
        if reason is not None:
            return self._unanswered(self.tags, reason)
        if snapshot.estimator.controlled:
            measured = min(measured, affordable(snapshot, num_vectors=2))
        stratum = strata_of(snapshot)
        if (
            stratum is not None
            and snapshot.coupling != "pairwise"
            and (measured == columns or not snapshot.estimator.controlled)
        ):
            moments = _stratified(snapshot, stratum, measured)
            return dict(zip(self.tags, _values(moments), strict=True))
        mean, squares = _sums(snapshot, measured)
        if snapshot.coupling == "pairwise":
            pairs = self._pairs(snapshot)
            signal = float(mean.square().sum()) - pairs.variance_of_mean(measured)
            moments = GradientMoments(
                per_sample_variance=squares / measured - signal,
                variance_of_mean=pairs.variance_of_mean(columns),
                signal=signal,
            )
        else:
            moments = independent_moments(mean, squares, measured).of_mean_over(columns)
        return dict(zip(self.tags, _values(moments), strict=True))

    def _pairs(self, snapshot: Snapshot) -> PairMoments:
        """Returns the moments of the symmetric kernel whose mean over pairs of columns the estimate is."""
        columns = snapshot.coefficients.shape[1]
        groups = groups_of(columns, self.group, snapshot.scores.num_parameters)[:MOST_GROUPS]
        return mean_pairs([pair_moments(block) for block in cross_gradients(snapshot, snapshot.factors.signal, groups)])


def _values(moments: GradientMoments) -> tuple[float | None, ...]:
    return moments.per_sample_variance, moments.variance_of_mean, moments.snr, moments.expected_cosine


def _stratified(snapshot: Snapshot, stratum: Tensor, most: int) -> GradientMoments:
    """Returns the moments of the mean over columns of several policies, at most about `most` of which are measured."""
    chunks = chunks_of(snapshot, share_of_each(stratum, most))
    return Sums.of(((stratum[columns], chunk) for columns, chunk in chunks), torch.bincount(stratum)).moments()


def _grouped(snapshot: Snapshot, group: Tensor, most: int) -> GradientMoments | None:
    """Returns the moments of the mean over groups, about `most` columns measured; None where these cannot tell."""
    counts = torch.bincount(group)
    number, size = len(counts), int(counts[0])
    if number < LEAST_GROUPS or not bool((counts == size).all()):
        return None
    kept = max(LEAST_GROUPS, min(number, most // size))
    sums, squares = torch.zeros(()), 0.0
    for columns, chunk in chunks_of(snapshot, (group < kept).nonzero().squeeze(-1)):
        part = chunk.new_zeros(kept, chunk.shape[1], dtype=torch.float64)
        sums = sums + part.index_add_(0, group[columns], chunk.double())
        squares += float(chunk.square().sum())
    return grouped_moments(sums, squares, size, number)


def _sums(snapshot: Snapshot, num_columns: int) -> tuple[Tensor, float]:
    """Returns the mean gradient `[P]` of the first columns and the sum of their squared norms."""
    total, squares = torch.zeros(()), 0.0
    for _, chunk in chunks_in_use(snapshot, num_columns):
        total = total + chunk.sum(dim=0)
        squares += float(chunk.square().sum())
    return total / num_columns, squares
