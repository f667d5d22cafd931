"""How noisy a mean of per-sample gradients is: covariance traces, the signal behind them, and their ratio.

Every variance here is the trace of a covariance matrix. `per_sample_variance` is that of one sample's gradient,
`variance_of_mean` that of the mean of N of them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from torch import Tensor

from pgkit.types import expect

Number = TypeVar("Number", float, Tensor)


@dataclass(frozen=True, kw_only=True)
class GradientMoments:
    """Unbiased estimates of what a batch says about its gradient's noise: all scalars.

    `signal` estimates |E g|² and may be negative; `variance_of_mean` is of the mean of the batch's N samples.
    """

    per_sample_variance: float
    variance_of_mean: float
    signal: float

    def of_mean_over(self, num_samples: int) -> GradientMoments:
        """Returns the same moments for the mean of another number of independent samples."""
        return replace(self, variance_of_mean=self.per_sample_variance / num_samples)

    @property
    def snr(self) -> float | None:
        """The debiased signal-to-noise ratio of the mean, |E g|² / variance_of_mean; None without variance."""
        return self.signal / self.variance_of_mean if self.variance_of_mean > 0 else None

    @property
    def expected_cosine(self) -> float | None:
        """About the cosine between this batch's gradient and the true one; None while the ratio is unresolved."""
        ratio = self.snr
        return None if ratio is None or ratio <= 0 else (1 + 1 / ratio) ** -0.5


def independent_moments(mean: Tensor, sum_of_squares: float, num_samples: int) -> GradientMoments:
    """Returns the moments of N independent per-sample gradients.

    Shapes: mean `[P]`; sum_of_squares is the scalar Σ_n |g_n|².
    Bias: none when samples are independent; with coupled ones it understates the variance, see `pair_moments`.
    Source: McCandlish et al. 2018, arXiv:1812.06162, for the debiased signal.
    """
    squared_mean = float(mean.square().sum())
    per_sample = max(0.0, (sum_of_squares - num_samples * squared_mean) / (num_samples - 1))
    of_mean = per_sample / num_samples
    return GradientMoments(per_sample_variance=per_sample, variance_of_mean=of_mean, signal=squared_mean - of_mean)


def grouped_moments(sums: Tensor, sum_of_squares: float, size: int, num_groups: int) -> GradientMoments:
    """Returns the moments of the mean over independent groups of equally many samples, K of which were looked at.

    A mean over groups is one over their means, which are independent draws whatever ties the samples of a group.
    Shapes: sums `[K, P]` of the gradients of each group; sum_of_squares is the scalar Σ_n |g_n|² over their samples.
    Bias: none.
    Source: Cochran 1977 (Sampling Techniques, chapter 9, clusters of equal size).
    """
    means = sums.double() / size
    units = independent_moments(means.mean(dim=0), float(means.square().sum()), len(means))
    return GradientMoments(
        per_sample_variance=sum_of_squares / (size * len(means)) - units.signal,
        variance_of_mean=units.per_sample_variance / num_groups,
        signal=units.signal,
    )


@dataclass(frozen=True, kw_only=True)
class PairMoments:
    """Second moments of the kernel h of a U-statistic of order two, estimated without bias from one group."""

    disjoint: float
    """E[h_12 · h_34] = |E g|²."""
    sharing_one: float
    """E[h_12 · h_13]."""
    same: float
    """E|h_12|²."""

    def variance_of_mean(self, num_samples: int) -> float:
        """Returns the variance of the U-statistic over all pairs of `num_samples` samples."""
        return pair_variance(self.disjoint, self.sharing_one, self.same, num_samples)


def pair_variance(disjoint: Number, sharing_one: Number, same: Number, num_samples: int) -> Number:
    """Returns the variance of a U-statistic of order two over N samples from its kernel's moments, elementwise.

    Shapes: numbers, or tensors of one shape.
    Source: Hoeffding 1948 (Annals of Mathematical Statistics 19:293).
    """
    one, both = sharing_one - disjoint, same - disjoint
    return (4 * (num_samples - 2) * one + 2 * both) / (num_samples * (num_samples - 1))


def pair_moments(cross: Tensor) -> PairMoments:
    """Returns the kernel moments of a leave-one-out estimate from cross gradients.

    cross[i, j] = Σ_t G_it s_jt, sample i's outcomes against sample j's scores. Leave-one-out is the mean over pairs
    of h_ij = ½ Σ_t (G_it − G_jt)(s_it − s_jt) = ½ (cross_ii + cross_jj − cross_ij − cross_ji), a U-statistic.

    Shapes: cross `[n, n, P]`, n of at least 4.
    Bias: none, provided columns that ended count as 0.
    Source: Hoeffding 1948 (Annals of Mathematical Statistics 19:293).
    """
    n = expect("n n P .", cross=cross)["n"]
    if n < 4:
        raise ValueError(f"cross: {n} samples, expected at least 4")
    sums = kernel_sums(cross)
    total, by_row, by_pair = float(sums.total), float(sums.by_row), float(sums.by_pair)
    return PairMoments(
        disjoint=(total - 4 * by_row + 2 * by_pair) / (n * (n - 1) * (n - 2) * (n - 3)),
        sharing_one=(by_row - by_pair) / (n * (n - 1) * (n - 2)),
        same=by_pair / (n * (n - 1)),
    )


@dataclass(frozen=True, kw_only=True)
class KernelSums:
    """Inner products of the sums over a kernel h_ij and its rows r_i = Σ_j h_ij, double; T = Σ_i r_i.

    Shapes: total |T|², by_row Σ_i |r_i|² and by_pair Σ_ij |h_ij|² are scalars; with_total T·r_i, own |r_i|²,
    with_rows Σ_j r_j·h_ij and row Σ_j |h_ij|² are `[n]`.
    """

    total: Tensor
    by_row: Tensor
    by_pair: Tensor
    with_total: Tensor
    own: Tensor
    with_rows: Tensor
    row: Tensor


def kernel_sums(cross: Tensor) -> KernelSums:
    """Returns the sums that the moments of the leave-one-out kernel, with and without a sample, are made of.

    Shapes: cross `[n, n, P]`, as in `pair_moments`.
    """
    diagonal = cross.diagonal(dim1=0, dim2=1).T
    kernel = 0.5 * (diagonal[:, None] + diagonal[None, :] - cross - cross.transpose(0, 1))
    rows = kernel.sum(dim=1)
    everything = rows.sum(dim=0)
    own, row = rows.square().sum(dim=1).double(), kernel.square().sum(dim=(1, 2)).double()
    return KernelSums(
        total=everything.square().sum().double(),
        by_row=own.sum(),
        by_pair=row.sum(),
        with_total=(rows @ everything).double(),
        own=own,
        with_rows=torch.einsum("ijp,jp->i", kernel, rows).double(),
        row=row,
    )


def leave_one_out_variance(costs: Tensor, scores: Tensor, direct: Tensor | None = None) -> Tensor:
    """Returns the variance of each coordinate of the leave-one-out estimate of one factor, `[P]`; it may be negative.

    The estimate (N−1)⁻¹ Σ_i (f_i − f̄) s_i + d̄ is a U-statistic with kernel ½ (f_i − f_j)(s_i − s_j) + ½ (d_i + d_j).
    With f, s, d centred and the sums over all pairs expanded, what `pair_moments` needs N² products for is
    Σf²s² / ((N−2)(N−3)) − (N+1)(Σfs)² / (N(N−3)(N−1)²) − Σf² Σs² / (N(N−1)(N−2)(N−3)) + Σd² / (N(N−1))
    + 2 Σfsd / ((N−1)(N−2)), in O(NP).

    Shapes: costs `[N]`, N of at least 4; scores and direct, the gradient of the cost itself, `[N, P]`.
    Bias: none; the sample formula instead says .172 for a true .247 at N = 4.
    Source: Hoeffding 1948 (Annals of Mathematical Statistics 19:293).
    """
    n = expect("N", costs=costs, scores=scores)["N"]
    if n < 4:
        raise ValueError(f"costs: {n} samples, expected at least 4")
    f, s = (costs - costs.mean()).double()[:, None], (scores - scores.mean(dim=0)).double()
    products = f * s
    variance = products.square().sum(dim=0) / ((n - 2) * (n - 3))
    variance -= (n + 1) * products.sum(dim=0).square() / (n * (n - 3) * (n - 1) ** 2)
    variance -= f.square().sum() * s.square().sum(dim=0) / (n * (n - 1) * (n - 2) * (n - 3))
    if direct is not None:
        d = (direct - direct.mean(dim=0)).double()
        variance += d.square().sum(dim=0) / (n * (n - 1)) + 2 * (products * d).sum(dim=0) / ((n - 1) * (n - 2))
    return variance.to(scores.dtype)


def explained_variance(prediction: Tensor, target: Tensor) -> float | None:
    """Returns 1 − Var(target − prediction) / Var(target), None where the target does not vary.

    Shapes: both `[M]`.
    Source: Schulman et al. 2016, arXiv:1506.02438, for its use with critics.
    """
    expect("M .", prediction=prediction, target=target)
    # Equal targets may have a variance: the rounding error of their mean.
    if len(target) == 0 or target.min() == target.max():
        return None
    return 1 - float((target - prediction).var() / target.var())


def mean_pairs(groups: list[PairMoments]) -> PairMoments:
    """Returns the average of the moments of several disjoint groups of samples."""
    stacked = torch.tensor([[g.disjoint, g.sharing_one, g.same] for g in groups], dtype=torch.float64).mean(dim=0)
    return PairMoments(disjoint=float(stacked[0]), sharing_one=float(stacked[1]), same=float(stacked[2]))
