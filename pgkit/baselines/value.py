"""The critic as a baseline."""

from __future__ import annotations

from typing import final

from torch import Tensor

from pgkit.baselines.base import MemorylessBaseline
from pgkit.types import Factors


@final
class Value(MemorylessBaseline):
    """V(s_t), read from the critic's values of this batch.

    Bias: none, as long as the critic learns from the batch only afterwards.
    Source: Sutton et al. 2000; Greensmith, Bartlett and Baxter 2004 (JMLR 5:1471).
    """

    needs_values = True

    def value(self, factors: Factors) -> Tensor:
        """Returns the values of the states that were acted in, `[F, N]`."""
        if factors.values is None:
            raise ValueError("values: None, expected those of a critic")
        return factors.values[:-1]
