"""What every problem offers to `pgkit.fit`; those whose gradient is known exactly offer more to `pgkit.verify`."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from pgkit.types import Expectation


class Problem(ABC):
    """An expectation to be minimised, or maximised, from given parameters.

    `target` is how near an answer must be: by `distance` where that is known, else by `objective`; None where there is
    no such number.
    """

    maximise = False
    target: float | None = None

    @abstractmethod
    def parameters(self) -> dict[str, Tensor]:
        """Returns the parameters at the start, new tensors at every call."""

    @abstractmethod
    def expectation(self) -> Expectation:
        """Returns the expectation, over all the data where there are any."""

    def minibatch(self, generator: torch.Generator) -> Expectation:
        """Returns the expectation of one step: of a random part of the data, without bias, or the whole."""
        return self.expectation()

    def objective(self, parameters: dict[str, Tensor]) -> float | None:
        """Returns the value of the expectation, exactly, or on noise that is the same at every call; None if unknown."""
        return None

    def distance(self, parameters: dict[str, Tensor]) -> float | None:
        """Returns how far the parameters are from the exact answer, in the units that the class says; None if unknown."""
        return None
