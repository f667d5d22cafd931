"""One step of least squares, by autograd or by hand."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import final

import torch
from torch import Tensor, nn

from pgkit.core.flat_gradient import FlatGradient
from pgkit.core.perceptron import Perceptron

Chosen = Callable[[Tensor], Tensor]
"""Of outputs `[M, K]` the ones `[M]` that are fitted."""


@final
class LeastSquares:
    """Optimizer steps on the mean of w (f(x) − y)² over rows.

    A plain network with one output is differentiated by hand, which is equal and several times as fast on minibatches.
    """

    def __init__(self, network: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        self.network, self.optimizer = network, optimizer

    # Found at the first step, when the network is where it will stay.
    @cached_property
    def _perceptron(self) -> Perceptron | None:
        perceptron = Perceptron.of(self.network)
        return perceptron if perceptron is not None and perceptron.sizes[-1] == 1 else None

    @cached_property
    def _gradient(self) -> FlatGradient:
        return FlatGradient(list(self.network.parameters()))

    def step(self, inputs: Tensor, goal: Tensor, weight: Tensor | None, chosen: Chosen) -> Tensor:
        """Takes one step and returns the loss before it, a scalar.

        Shapes: inputs `[M, D]`; goal, weight `[M]`.
        """
        if self._perceptron is not None:
            return self._by_hand(self._perceptron, inputs, goal, weight)
        errors = (chosen(self.network(inputs)) - goal).square()
        loss = errors.mean() if weight is None else (weight * errors).mean()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss.detach()

    def _by_hand(self, perceptron: Perceptron, inputs: Tensor, goal: Tensor, weight: Tensor | None) -> Tensor:
        evaluation = perceptron.evaluate(inputs.numpy())
        errors = torch.from_numpy(evaluation.outputs)[:, 0] - goal
        pull = errors if weight is None else weight * errors
        evaluation.gradient((pull * (2 / len(goal)))[:, None].numpy(), self._gradient.vector.numpy())
        self._gradient.hand_over()
        self.optimizer.step()
        return (pull @ errors) / len(goal)
