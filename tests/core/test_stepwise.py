"""Products of single steps' scores, against the scores themselves."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from pgkit.core.scores import Scores

pytestmark = [pytest.mark.equivalence, pytest.mark.usefixtures("float64")]

STEPS, SAMPLES = 5, 4


class Twice(nn.Module):
    """Uses one layer twice at every step."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.shared = nn.Linear(3, 3), nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.shared(torch.tanh(self.shared(torch.tanh(self.first(x))))).log_softmax(-1)[..., 0]


class Bare(nn.Module):
    """Has a parameter in no layer, so that its scores do not factor."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.power = nn.Linear(3, 2), nn.Parameter(torch.tensor(1.3))

    def forward(self, x: Tensor) -> Tensor:
        return (self.power * self.layer(x)).log_softmax(-1)[..., 0]


@pytest.mark.parametrize("module", [Twice, Bare])
def test_they_are_those_of_every_steps_own_gradient(module: type[nn.Module]) -> None:
    torch.manual_seed(0)
    made, inputs = module(), torch.randn(STEPS, SAMPLES, 3)
    mask = torch.ones(STEPS, SAMPLES, dtype=torch.bool)
    mask[3:, 1] = False
    scores = Scores(made, (inputs,), mask)
    vectors = torch.randn(SAMPLES, scores.num_parameters)
    products, squares = torch.zeros(STEPS, SAMPLES), torch.zeros(STEPS, SAMPLES)
    for t in range(STEPS):
        for n in range(SAMPLES):
            gradients = torch.autograd.grad(made(inputs[t, n]), list(made.parameters()))
            own = torch.cat([each.flatten() for each in gradients]) * mask[t, n]
            products[t, n], squares[t, n] = own @ vectors[n], own @ own
    torch.testing.assert_close(scores.step_products(vectors), products, rtol=0, atol=1e-12)
    torch.testing.assert_close(scores.step_squares(), squares, rtol=0, atol=1e-12)
