"""Running moments of a stream, merged batch by batch."""

from __future__ import annotations

import torch
from torch import Tensor


def merge_moments(count: Tensor, mean: Tensor, squares: Tensor, batch: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Returns (count, mean, sum of squared deviations) after the rows of `batch` joined them.

    Accurate where the mean is large against the spread, as long as the moments are float64.
    Shapes: count `[]`; mean and squares `[D]`; batch `[M, D]`.
    Source: Chan, Golub and LeVeque 1983 (The American Statistician 37:242).
    """
    batch = batch.to(mean.dtype)
    added = batch.shape[0]
    if added == 0:
        return count, mean, squares
    batch_mean = batch.mean(dim=0)
    delta = batch_mean - mean
    total = count + added
    squares = squares + (batch - batch_mean).square().sum(dim=0) + delta.square() * count * added / total
    return total, mean + delta * (added / total), squares


def deviation(count: Tensor, squares: Tensor, *, floor: float = 1e-8) -> Tensor:
    """Returns the standard deviation `[D]` behind such moments: 1 before anything was seen, at least √floor.

    Source: Welford 1962 (Technometrics 4:419).
    """
    variance = torch.where(count > 0, squares / count.clamp(min=1), torch.ones_like(squares))
    return variance.clamp(min=floor).sqrt()
