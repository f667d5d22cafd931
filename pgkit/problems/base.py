"""What every problem offers to `pgkit.fit`; those whose gradient is known exactly offer more to `pgkit.verify`."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from pgkit.types import Expectation, Parameters


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
        """Returns the expectation, over all the data where there are any, with its cost at the start."""

    def at(self, parameters: Parameters) -> Expectation:
        """Returns the expectation with its cost at other parameters; the same where the cost knows nothing of them."""
        return self.expectation()

    def minibatch(self, parameters: Parameters, generator: torch.Generator) -> Expectation:
        """Returns the expectation of one step: of a random part of the data, without bias, or the whole."""
        return self.at(parameters)

    def objective(self, parameters: Parameters) -> float | None:
        """Returns the value of the expectation, exactly or on noise that never changes; None if unknown."""
        return None

    def distance(self, parameters: Parameters) -> float | None:
        """Returns how far the parameters are from the exact answer, in the class's own unit; None if unknown."""
        return None

    def close(self) -> None:
        """Ends whatever the problem started."""
