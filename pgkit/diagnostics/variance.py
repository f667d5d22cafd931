"""How noisy the gradient of this batch was."""

from __future__ import annotations

import logging
from typing import Annotated, final

import torch
from torch import Tensor

from pgkit.core.moments import GradientMoments, PairMoments, independent_moments, mean_pairs, pair_moments
from pgkit.options import Count, Range
from pgkit.snapshot import Snapshot
from pgkit.types import Metrics

LEAST_COUPLED = 4
"""Columns without which the variance of a leave-one-out estimate has no unbiased estimate."""
MOST_GROUPS = 4
"""Groups of columns that are looked at in one batch: their cost grows with the square of their size."""
MOST_NUMBERS = 2**25
"""Numbers in one group's cross gradients, about 128 MiB in float32."""


@final
class GradientVariance:
    """The covariance of exact per-column gradients, by its trace, and what it means for the mean of the batch.

    All quantities are those of the mean over columns of the summed surrogate, without the entropy bonus, whatever
    scale the update gives its objective. Where leave-one-out couples the columns, the variance of the mean is that of
    a U-statistic, estimated without bias in groups of at most `group` columns; where a baseline couples them in
    another way, nothing unbiased is known and the values are null. Of a batch with more than `max_columns` columns
    the first ones are measured, and the variance of the mean is still that of the whole batch.
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
        self._said: set[str] = set()

    def measure(self, snapshot: Snapshot) -> Metrics:
        """Returns the variance of one column's gradient and of the mean, the debiased SNR and the expected cosine."""
        reason = _obstacle(snapshot)
        if reason is not None:
            if reason not in self._said:
                logging.getLogger("pgkit").warning("gradient/variance_of_mean is null: %s", reason)
                self._said.add(reason)
            return dict.fromkeys(self.tags)
        coefficients = snapshot.coefficients[:, : self.max_columns]
        mean, squares = _sums(snapshot, coefficients)
        measured, columns = coefficients.shape[1], snapshot.coefficients.shape[1]
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
        values = (moments.per_sample_variance, moments.variance_of_mean, moments.snr, moments.expected_cosine)
        return dict(zip(self.tags, values, strict=True))

    def _pairs(self, snapshot: Snapshot) -> PairMoments:
        """Returns the moments of the symmetric kernel whose mean over pairs of columns the estimate is."""
        affordable = int((MOST_NUMBERS / snapshot.scores.num_parameters) ** 0.5)
        size = max(LEAST_COUPLED, min(self.group, affordable))
        columns = torch.arange(snapshot.coefficients.shape[1])
        # As many groups as keep to that size, unless they would get too small to be of use.
        number = min(-(-len(columns) // size), len(columns) // LEAST_COUPLED)
        groups = columns.tensor_split(number)[:MOST_GROUPS]
        cross = (_cross_gradients(snapshot, slice(int(group[0]), int(group[-1]) + 1)) for group in groups)
        return mean_pairs([pair_moments(block) for block in cross])


def _obstacle(snapshot: Snapshot) -> str | None:
    """Returns why this batch has no unbiased variance, or None."""
    columns = snapshot.coefficients.shape[1]
    if snapshot.coupling == "batch":
        return "a statistic of the whole batch couples its columns"
    least = LEAST_COUPLED if snapshot.coupling == "pairwise" else 2
    return f"{columns} columns, and at least {least} are needed" if columns < least else None


def _sums(snapshot: Snapshot, coefficients: Tensor) -> tuple[Tensor, float]:
    """Returns the mean gradient `[P]` and the sum over columns of squared norms."""
    total, squares = torch.zeros(()), 0.0
    for _, gradients in snapshot.scores.gradients(coefficients[None]):
        total = total + gradients[0].sum(dim=0)
        squares += float(gradients[0].square().sum())
    return total / coefficients.shape[1], squares


def _cross_gradients(snapshot: Snapshot, columns: slice) -> Tensor:
    """Returns, for columns i and j of a group, the outcomes of i against the scaled scores of j, `[n, n, P]`."""
    outcomes = torch.where(snapshot.factors.mask, snapshot.factors.signal, 0.0)[:, columns].double()
    # The kernel sees differences alone; without what is common to a row they lose nothing to rounding.
    scale = snapshot.factors.scale
    assert scale is not None
    centred = (outcomes - outcomes.mean(dim=1, keepdim=True)).to(scale.dtype)
    coefficients = centred.T[:, :, None] * scale[:, columns]
    return snapshot.scores.gradients_of(columns, coefficients)
