"""What a few batches say about the noise of an estimator, with intervals: the stratified jackknife.

Every batch gives the statistics of all its trajectories and those without each of them in turn. Batches are strata:
their trajectories come from different policies, so only trajectories of the same batch are compared with each other.
Variances and their ratios get their interval on the log scale, on which their error is closer to symmetric.
Source: Tukey 1958 (Annals of Mathematical Statistics 29:614); Efron and Stein 1981 (Annals of Statistics 9:586).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.special import stdtrit
from torch import Tensor

from pgkit.core.coverage import LEVEL
from pgkit.core.moments import kernel_sums, pair_variance
from pgkit.types import expect

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A number and the interval around it; `low` and `high` are None where the data do not carry one."""

    point: float | None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, kw_only=True)
class Spread:
    """What one batch says about an estimator's noise; entry 0 from all n trajectories, entry 1+i without number i.

    Shapes: both `[1+n]`, double, on the host: many small batches cost a fifth there of what they do as tensors.
    `variance` is that of the mean of the batch, a trace; `signal` estimates |E g|². Entries that too few trajectories
    are left for are nan.
    """

    variance: Array
    signal: Array

    @classmethod
    def of(cls, variance: Tensor, signal: Tensor) -> Spread:
        """Returns the spread that two tensors hold."""
        both = torch.stack([variance, signal]).detach().cpu().numpy()
        return cls(variance=both[0], signal=both[1])


def spread(gradients: Tensor, *, num_samples: int) -> Spread:
    """Returns the spread of a mean of `num_samples` independent per-sample gradients, n of which are given.

    Bias: none for independent samples.
    Shapes: gradients `[n, P]`, n of at least 2.
    """
    n = expect("N P .", gradients=gradients)["N"]
    mean = gradients.mean(dim=0)
    squares = gradients.square().sum(dim=1).double()
    inner = (gradients @ mean).double()
    squared_mean = mean.double().square().sum()
    total = squares.sum()
    # Without sample i: the mean moves to (n ḡ − g_i) / (n − 1), and everything follows from inner products.
    left = n - 1
    means = (n**2 * squared_mean - 2 * n * inner + squares) / left**2
    traces = (total - squares - left * means) / (left - 1) if left > 1 else torch.full_like(squares, math.nan)
    trace = (total - n * squared_mean) / left
    variances = torch.cat([trace[None], traces]).clamp(min=0.0)
    sizes = variances.new_tensor([n] + [left] * n)
    return Spread.of(variances / num_samples, torch.cat([squared_mean[None], means]) - variances / sizes)


def pair_spread(groups: Sequence[Tensor], *, num_samples: int) -> Spread:
    """Returns the spread of a leave-one-out estimate over `num_samples` samples, from groups of cross gradients.

    Moments are averaged over the groups, and leaving a sample out changes those of its own group alone.
    Bias: none, provided columns that ended count as 0.
    Shapes: groups `[n, n, P]` each, as `pair_moments` takes them, n of at least 4; of 5 for an interval.
    Source: Hoeffding 1948 (Annals of Mathematical Statistics 19:293).
    """
    found = [_moments_left_out(cross) for cross in groups]
    whole = torch.stack([moments[:, 0] for moments in found]).mean(dim=0)  # [3]
    columns = [whole[:, None]]
    for moments in found:
        columns.append(whole[:, None] + (moments[:, 1:] - moments[:, :1]) / len(found))
    disjoint, sharing_one, same = torch.cat(columns, dim=1)
    return Spread.of(pair_variance(disjoint, sharing_one, same, num_samples), disjoint)


def _moments_left_out(cross: Tensor) -> Tensor:
    """Returns the three kernel moments of a group, whole and without each sample, `[3, 1+n]`."""
    n = cross.shape[0]
    sums = kernel_sums(cross)
    nothing = sums.own.new_zeros(1)
    # Without sample i the sum over all pairs loses row i twice, and every other row loses its pair with i.
    totals = sums.total + torch.cat([nothing, -4 * sums.with_total + 4 * sums.own])
    by_rows = sums.by_row + torch.cat([nothing, -sums.own - 2 * sums.with_rows + sums.row])
    by_pairs = sums.by_pair + torch.cat([nothing, -2 * sums.row])
    m = sums.own.new_tensor([n] + [n - 1] * n)
    return torch.stack(
        [
            (totals - 4 * by_rows + 2 * by_pairs) / (m * (m - 1) * (m - 2) * (m - 3)),
            (by_rows - by_pairs) / (m * (m - 1) * (m - 2)),
            by_pairs / (m * (m - 1)),
        ]
    )


def ratio(numerators: Sequence[Array], denominators: Sequence[Array]) -> Interval:
    """Returns the ratio of two positive quantities summed over batches, its interval on the log scale.

    Shapes: one `[1+n]` a batch on either side, from the same trajectories.
    """
    return _interval(numerators, denominators, np.log, math.exp)


def linear_ratio(numerators: Sequence[Array], denominators: Sequence[Array]) -> Interval:
    """Returns the ratio of a quantity of either sign to a positive one, both summed over batches.

    Shapes: one `[1+n]` a batch on either side, from the same trajectories.
    """
    return _interval(numerators, denominators, lambda x: x, lambda x: x)


def _interval(
    numerators: Sequence[Array],
    denominators: Sequence[Array],
    transform: Callable[[Array], Array],
    back: Callable[[float], float],
) -> Interval:
    if not numerators:
        return Interval(point=None)
    # The batches lie behind each other, each with its whole first.
    counts = np.array([len(each) for each in numerators])
    first = counts.cumsum() - counts
    over, under = np.concatenate(numerators), np.concatenate(denominators)
    above, below = float(over[first].sum()), float(under[first].sum())
    if not (below > 0 and math.isfinite(above)):
        return Interval(point=None)
    with np.errstate(divide="ignore", invalid="ignore"):
        center = float(transform(np.array(above / below)))
        if not math.isfinite(center):
            return Interval(point=None)
        without = transform((above - over[first].repeat(counts) + over) / (below - under[first].repeat(counts) + under))
        # What stands in the place of a whole counts for nothing in its batch.
        without[first] = 0.0
        deviations = without - (np.add.reduceat(without, first) / (counts - 1)).repeat(counts)
        deviations[first] = 0.0
        variance = float((np.add.reduceat(deviations**2, first) * (counts - 2) / (counts - 1)).sum())
    freedom = int((counts - 2).sum())
    point = back(center)
    if not math.isfinite(variance) or freedom < 1:
        return Interval(point=point)
    half = float(stdtrit(freedom, 0.5 + LEVEL / 2)) * math.sqrt(variance)
    return Interval(point=point, low=back(center - half), high=back(center + half))
