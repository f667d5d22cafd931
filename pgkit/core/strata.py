"""Moments of a mean over samples of several laws, each law's samples a stratum.

How many samples a stratum has is no chance: what its mean differs from that of the others is no noise.
Source: Cochran 1977 (Sampling Techniques, chapter 5).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from pgkit.core.moments import GradientMoments
from pgkit.types import expect


def numbered(*labels: Tensor) -> Tensor:
    """Returns the stratum of every sample, `[N]`, from 0 on: samples that agree in all labels `[N]` share one."""
    expect("N .", **{f"label {place}": label for place, label in enumerate(labels)})
    return torch.unique(torch.stack(labels), dim=1, return_inverse=True)[1]


def share_of_each(stratum: Tensor, most: int) -> Tensor:
    """Returns at most about `most` samples, `[n]` in ascending order: the first of each stratum, in proportion.

    At least two of each that has two.
    Shapes: stratum `[N]`, numbers from 0.
    """
    number = len(stratum)
    if most >= number:
        return torch.arange(number, device=stratum.device)
    # Counting from the start of its own stratum.
    place = torch.zeros_like(stratum)
    for each in stratum.unique():
        inside = stratum == each
        place[inside] = torch.arange(int(inside.sum()), device=stratum.device)
    kept = (torch.bincount(stratum) * most // number).clamp(min=2)
    return (place < kept[stratum]).nonzero().squeeze(-1)


@dataclass(frozen=True, kw_only=True)
class Sums:
    """What the moments are made of: sums `[K, P]` and sums of squared lengths `[K]` of the samples looked at.

    `counts` `[K]` are those of the batch, `measured` `[K]` of them were looked at.
    """

    sums: Tensor
    squares: Tensor
    measured: Tensor
    counts: Tensor

    @classmethod
    def of(cls, chunks: Iterable[tuple[Tensor, Tensor]], counts: Tensor) -> Sums:
        """Returns the sums over chunks of (strata `[n]`, gradients `[n, P]`)."""
        total, squares = torch.zeros(()), torch.zeros(len(counts), dtype=torch.float64, device=counts.device)
        measured = torch.zeros_like(counts)
        for stratum, gradients in chunks:
            part = gradients.new_zeros(len(counts), gradients.shape[1]).index_add_(0, stratum, gradients)
            total = total + part.double()
            squares.index_add_(0, stratum, gradients.square().sum(dim=1).double())
            measured.index_add_(0, stratum, torch.ones_like(stratum))
        return cls(sums=total, squares=squares, measured=measured, counts=counts)

    def moments(self) -> GradientMoments:
        """Returns the moments of the mean of the batch: Σ_k n_k S_k² / n² is its variance, S_k² that inside stratum k.

        `per_sample_variance` is that of a sample drawn at random from the batch, so that differences between strata
        count in it; the variance of the mean is not an n-th of it. Of strata that were looked at in part the mean
        stands for all.
        Bias: none for samples that are independent, and of one law inside a stratum.
        Raises: ValueError for a stratum of which fewer than two samples were looked at.
        """
        if int(self.measured.min()) < 2:
            raise ValueError(f"measured: {int(self.measured.min())} of a stratum, expected at least 2")
        counts, measured = self.counts.double(), self.measured.double()
        shares = counts / counts.sum()
        means = self.sums / measured[:, None]
        own = means.square().sum(dim=1)
        inside = ((self.squares - measured * own) / (measured - 1)).clamp(min=0.0)
        mean = (shares[:, None] * means).sum(dim=0)
        signal = float(mean.square().sum() - (shares.square() * inside / measured).sum())
        return GradientMoments(
            per_sample_variance=float((shares * self.squares / measured).sum()) - signal,
            variance_of_mean=float((shares * inside).sum() / counts.sum()),
            signal=signal,
        )
