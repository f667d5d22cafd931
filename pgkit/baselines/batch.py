"""Baselines made of the batch itself, time by time."""

from __future__ import annotations

from typing import Literal, final

import torch
from torch import Tensor

from pgkit.baselines.base import MemorylessBaseline
from pgkit.core import score
from pgkit.core.optimal_baseline import folds_of, others
from pgkit.core.placed import carried
from pgkit.errors import UsageError
from pgkit.types import Coupling, Factors


@final
class Mean(MemorylessBaseline):
    """The mean signal of all columns at each time, ended ones counting as 0.

    Bias: each sample sits in its own baseline, which multiplies the expected gradient by exactly (N−1)/N.
    Source: Kool, van Hoof and Welling 2019 (ICLR workshop), for the comparison.
    """

    unbiased = False
    coupling: Coupling = "batch"

    def value(self, factors: Factors) -> Tensor:
        """Returns the mean of the row, `[F, N]`."""
        return torch.where(factors.mask, factors.signal, 0.0).mean(dim=1, keepdim=True).expand_as(factors.signal)


@final
class LeaveOneOut(MemorylessBaseline):
    """The mean signal of the *other* columns at each time.

    Where columns began in groups of the same start (`collect.group`), the others are those of its group, unless
    `within="batch"`. Columns that ended earlier count as 0 (`ended="zero"`: their reward-to-go really is 0, and the
    estimate is a U-statistic whose variance is known without bias) or are left out (`ended="exclude"`). Under weights
    to a mixture each policy's columns are a stratum (`core.score.leave_one_out`); where ended ones are left out, the
    others are those of other folds (`core.optimal_baseline.folds_of`).
    Bias: none: a column's baseline does not depend on its own actions.
    Source: Kool, van Hoof and Welling 2019 (ICLR workshop); Salimans and Knowles 2014, arXiv:1401.1022.
    """

    least_columns = 2

    def __init__(
        self, *, ended: Literal["zero", "exclude"] = "zero", within: Literal["group", "batch"] = "group"
    ) -> None:
        self.ended, self.within = ended, within
        self.coupling: Coupling = "pairwise" if ended == "zero" else "cross_fitted"

    def value(self, factors: Factors) -> Tensor:
        """Returns the mean of the other columns of the row, `[F, N]`; 0 where no other column is left."""
        if self.within == "group" and factors.group is not None:
            if factors.strata is not None:
                raise UsageError("baseline.within: group with weights to a mixture of policies, expected batch")
            return score.leave_one_out_of_group(factors.signal, factors.mask, factors.group, ended=self.ended == "zero")
        if self.ended == "zero":
            return score.leave_one_out(factors.signal, factors.mask, factors.strata)
        signal = torch.where(factors.mask, factors.signal, 0.0).double()
        fold = folds_of(signal.shape[1], None, factors.strata)
        own = carried(fold, signal)
        sums, counts = (others(each.T.double(), fold)[own].T for each in (signal, factors.mask))
        return (sums / counts.clamp(min=1)).to(factors.signal.dtype)
