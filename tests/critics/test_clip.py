"""A clipped fit pulls a value no further than its bound."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pgkit.critics.fit import Fitted, LeastSquares

pytestmark = [pytest.mark.exact, pytest.mark.usefixtures("float64")]


class Opaque(nn.Module):
    """A linear layer that nobody can differentiate by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(3, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.inner(x)
        return result


@pytest.mark.parametrize("by_hand", [True, False])
def test_the_loss_is_the_larger_of_free_and_held_and_so_is_its_gradient(by_hand: bool) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(3, 1)) if by_hand else Opaque()
    inputs, goal, weight = torch.randn(50, 3), torch.randn(50), torch.rand(50)
    parameters = list(network.parameters())
    with torch.no_grad():
        before = network(inputs)[:, 0] + 0.5 * torch.randn(50)
    rows, index = Fitted(inputs=inputs, goal=goal, weight=weight, before=before, clip=0.2), torch.arange(0, 50, 2)
    predicted = network(inputs)[:, 0][index]
    held = torch.minimum(torch.maximum(predicted, before[index] - 0.2), before[index] + 0.2)
    losses = torch.maximum((predicted - goal[index]).square(), (held - goal[index]).square())
    expected = (weight[index] * losses).mean()
    gradients = torch.autograd.grad(expected, parameters)
    start = [each.detach().clone() for each in parameters]
    fit = LeastSquares(network, torch.optim.SGD(parameters, lr=0.1))
    loss = fit.step(rows, index, lambda outputs, index: outputs[:, 0])
    assert (fit._perceptron is not None) == by_hand
    assert float(loss) == pytest.approx(float(expected), abs=1e-12)
    for old, new, gradient in zip(start, parameters, gradients, strict=True):
        torch.testing.assert_close(new.detach(), old - 0.1 * gradient, rtol=0, atol=1e-12)
    assert float((losses - (predicted - goal[index]).square()).detach().max()) > 0  # the clip holds some
