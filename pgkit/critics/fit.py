"""One step of least squares, by autograd or by hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import final

import numpy as np
import torch
from torch import Tensor, nn

from pgkit.core.division import Division
from pgkit.core.flat_gradient import FlatGradient
from pgkit.core.perceptron import Perceptron, picked

Chosen = Callable[[Tensor, Tensor], Tensor]
"""(outputs `[M, K]` of rows, their numbers `[M]`) -> the ones `[M]` that are fitted."""


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """Rows to be fitted: `inputs` `[R, D]` of the network, `goal` `[R]`, and how much each counts, alike if None.

    With a `clip` the loss of a row is at least that of a prediction held within it around `before` `[R]`.
    """

    inputs: Tensor
    goal: Tensor
    weight: Tensor | None = None
    before: Tensor | None = None
    clip: float | None = None

    def held(self, predicted: Tensor, index: Tensor) -> Tensor | None:
        """Returns predictions `[M]` held within the clip, None without one."""
        if self.before is None or self.clip is None:
            return None
        before = self.before[index]
        return before + (predicted - before).clamp(-self.clip, self.clip)

    @cached_property
    def arrays(self) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """The same in numpy, on the same memory."""
        return self.inputs.numpy(), self.goal.numpy(), None if self.weight is None else self.weight.numpy()


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

    def outputs(self, inputs: Tensor) -> Tensor:
        """Returns what the network makes of inputs `[..., D]`, `[..., K]`, detached."""
        with torch.no_grad():
            if self._perceptron is None:
                result: Tensor = self.network(inputs)
                return result
            found = self._perceptron.outputs(inputs.reshape(-1, inputs.shape[-1]).numpy())
            return torch.from_numpy(found).reshape(*inputs.shape[:-1], -1)

    def step(self, rows: Fitted, index: Tensor, chosen: Chosen) -> Tensor:
        """Takes one step on the rows `index` `[M]` and returns their loss before it, a scalar."""
        loss = self.differentiate(rows, index, chosen, of=len(index))
        self.optimizer.step()
        return loss

    def differentiate(self, rows: Fitted, index: Tensor, chosen: Chosen, *, of: int) -> Tensor:
        """Hands the optimizer the gradient of Σ w (f(x) − y)² / `of` over rows `index` `[M]`, and returns that sum."""
        if self._perceptron is not None:
            return self._by_hand(self._perceptron, rows, index, of)
        predicted = chosen(self.network(rows.inputs[index]), index)
        errors, held = (predicted - rows.goal[index]).square(), rows.held(predicted, index)
        if held is not None:
            errors = torch.maximum(errors, (held - rows.goal[index]).square())
        loss = (errors if rows.weight is None else rows.weight[index] * errors).sum() / of
        self.optimizer.zero_grad()
        loss.backward()
        return loss.detach()

    def _by_hand(self, perceptron: Perceptron, rows: Fitted, index: Tensor, of: int) -> Tensor:
        inputs, goal, weight = rows.arrays
        taken = index.numpy()
        evaluation = perceptron.evaluate(picked(inputs, taken))
        errors = slopes = evaluation.outputs[:, 0] - goal[taken]
        held = rows.held(torch.from_numpy(evaluation.outputs[:, 0]), index)
        if held is not None:
            bound = held.numpy() - goal[taken]
            stuck = np.abs(bound) > np.abs(errors)
            # Where the clip sets the loss, the prediction is outside of it and has no slope.
            slopes, errors = np.where(stuck, 0, errors), np.where(stuck, bound, errors)
        weights = 1 if weight is None else weight[taken]
        pull = weights * slopes
        evaluation.gradient((pull * (2 / of))[:, None], self._gradient.vector.numpy())
        self._gradient.hand_over()
        return torch.tensor(np.dot(weights * errors, errors) / of)


@final
class DividedLeastSquares:
    """The same steps by several processes that hold the same rows: each differentiates a piece of every minibatch."""

    def __init__(self, whole: LeastSquares, division: Division) -> None:
        self._whole, self._division = whole, division
        self.outputs = whole.outputs
        self._parameters = [each for each in whole.network.parameters() if each.requires_grad]
        self._size = sum(each.numel() for each in self._parameters)

    def step(self, rows: Fitted, index: Tensor, chosen: Chosen) -> Tensor:
        """Takes one step on the rows `index` `[M]` and returns their loss before it, a scalar."""
        own = self._division.piece(len(index)) if self._division.pays(len(index), self._size) else None
        if own is None:
            return self._whole.step(rows, index, chosen)
        loss = self._whole.differentiate(rows, index[own], chosen, of=len(index))
        gradients = [each.grad for each in self._parameters if each.grad is not None]
        total = self._division.total(torch.cat([*(each.reshape(-1) for each in gradients), loss.reshape(1)]))
        *pieces, loss = total.split([*(each.numel() for each in gradients), 1])
        for gradient, piece in zip(gradients, pieces, strict=True):
            gradient.copy_(piece.view_as(gradient))
        self._whole.optimizer.step()
        return loss.squeeze()
