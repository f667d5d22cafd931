"""Baselines of one number."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, final

import torch
from torch import Tensor

from pgkit.baselines.base import MemorylessBaseline
from pgkit.options import Fraction
from pgkit.types import Coupling, Factors


@final
class Zero(MemorylessBaseline):
    """No baseline."""

    def value(self, factors: Factors) -> Tensor:
        """Returns zeros `[F, N]`."""
        return torch.zeros_like(factors.signal)


@final
class Constant(MemorylessBaseline):
    """A number that the user knows.

    Bias: none, as long as it was not computed from the batch.
    Source: Williams 1992.
    """

    def __init__(self, *, value: float = 0.0) -> None:
        self.number = value

    def value(self, factors: Factors) -> Tensor:
        """Returns the number at every factor, `[F, N]`."""
        return torch.full_like(factors.signal, self.number)


@final
class MovingAverage:
    """The moving average of the mean signal of past batches, corrected for its start at nothing.

    Bias: none, because the batch is learnt from only after it was read; the other order shrinks the gradient.
    Source: Williams 1992 (Machine Learning 8:229), reinforcement comparison.
    """

    unbiased = True
    coupling: Coupling = "independent"
    needs_values = False
    least_columns = 1

    def __init__(self, *, decay: Fraction = 0.9) -> None:
        self.decay = decay
        self._sum, self._weight = 0.0, 0.0

    def value(self, factors: Factors) -> Tensor:
        """Returns the average so far at every factor, 0 before the first batch."""
        return torch.full_like(factors.signal, self._sum / self._weight if self._weight else 0.0)

    def update(self, factors: Factors) -> None:
        """Adds the mean signal of the valid factors."""
        if not factors.mask.any():
            return
        self._sum = self.decay * self._sum + (1 - self.decay) * float(factors.signal[factors.mask].mean())
        self._weight = self.decay * self._weight + (1 - self.decay)

    def state_dict(self) -> dict[str, Any]:
        """Returns the two running sums."""
        return {"sum": self._sum, "weight": self._weight}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Puts the running sums back."""
        self._sum, self._weight = state["sum"], state["weight"]
