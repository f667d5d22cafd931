"""Utilities that depend on the order of costs alone, so that a search moves alike for f and for exp f."""

from __future__ import annotations

from math import log
from typing import Literal

import torch
from torch import Tensor


def rank_utilities(costs: Tensor, *, best: Literal["lowest", "highest"] = "lowest") -> Tensor:
    """Returns u_i = max(0, log(n/2 + 1) − log rank_i) / Σ_j max(0, …) − 1/n, `[N]`: they sum to 0, the best is largest.

    Rank 1 is the best; equal costs share the mean of their utilities, so that no order is invented.
    Shapes: costs `[N]`.
    Source: Wierstra et al. 2014 (JMLR 15:949), arXiv:1106.4487, section 3.1.
    """
    count = len(costs)
    raw = (log(count / 2 + 1) - torch.arange(1, count + 1, dtype=torch.float64).log()).clamp(min=0)
    by_rank = (raw / raw.sum() - 1 / count).to(costs.dtype)
    groups, sizes = (costs if best == "lowest" else -costs).unique(return_inverse=True, return_counts=True)[1:]
    of_group = torch.stack([piece.mean() for piece in by_rank.split(sizes.tolist())])
    return of_group[groups]
