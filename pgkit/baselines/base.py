"""What baselines without memory share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from pgkit.types import Coupling, Factors


class MemorylessBaseline(ABC):
    """A baseline that is a function of the batch alone: nothing to learn, nothing to save."""

    unbiased = True
    coupling: Coupling = "independent"
    needs_values = False
    least_columns = 1

    @abstractmethod
    def value(self, factors: Factors) -> Tensor:
        """Returns the baseline `[F, N]`, detached."""

    def update(self, factors: Factors) -> None:
        """Learns nothing."""

    def state_dict(self) -> dict[str, Any]:
        """Returns an empty state."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes an empty state."""
