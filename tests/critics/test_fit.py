"""A step of least squares by hand is the step that autograd takes."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from pgkit.core.networks import multilayer_perceptron
from pgkit.critics.fit import Fitted, LeastSquares

pytestmark = [pytest.mark.equivalence, pytest.mark.usefixtures("float64")]


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("outputs", [1, 3])
def test_steps_lead_where_autograd_leads(weighted: bool, outputs: int) -> None:
    torch.manual_seed(0)
    network = multilayer_perceptron(3, [6, 5], outputs, activation="tanh", init="orthogonal", output_gain=1.0)
    plain = copy.deepcopy(network)
    fit = LeastSquares(network, torch.optim.Adam(network.parameters(), lr=0.01))
    optimizer = torch.optim.Adam(plain.parameters(), lr=0.01)
    for _ in range(5):
        inputs, goal, weight = torch.randn(8, 3), torch.randn(8), torch.rand(8) if weighted else None
        rows = Fitted(inputs=inputs, goal=goal, weight=weight)
        loss = fit.step(rows, torch.arange(8), lambda found, _: found[:, 0])
        errors = (plain(inputs)[:, 0] - goal).square()
        expected = (errors if weight is None else weight * errors).mean()
        optimizer.zero_grad()
        expected.backward()
        optimizer.step()
        assert float(loss) == pytest.approx(float(expected.detach()), abs=1e-12)
    for one, other in zip(network.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(one, other, atol=1e-10, rtol=0)


@pytest.mark.parametrize("outputs", [1, 3])
def test_outputs_are_the_networks(outputs: int) -> None:
    network = multilayer_perceptron(3, [6, 5], outputs, activation="relu", init="orthogonal", output_gain=1.0)
    inputs = torch.randn(4, 2, 3)
    found = LeastSquares(network, torch.optim.SGD(network.parameters())).outputs(inputs)
    assert not found.requires_grad
    torch.testing.assert_close(found, network(inputs).detach(), atol=1e-12, rtol=0)


def test_a_network_of_another_kind_is_fitted_too() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(2, 4), nn.GELU(), nn.Linear(4, 1))
    fit = LeastSquares(network, torch.optim.Adam(network.parameters(), lr=0.05))
    inputs = torch.randn(64, 2)
    rows, everything = Fitted(inputs=inputs, goal=inputs.sum(dim=1)), torch.arange(64)
    losses = [float(fit.step(rows, everything, lambda found, _: found[:, 0])) for _ in range(100)]
    assert losses[-1] < 0.1 * losses[0]
