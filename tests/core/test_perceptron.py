"""A network differentiated by hand is the network that autograd differentiates."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from pgkit.core.flat_gradient import FlatGradient
from pgkit.core.networks import multilayer_perceptron
from pgkit.core.perceptron import Perceptron

pytestmark = [pytest.mark.equivalence, pytest.mark.usefixtures("float64")]


def network_of(activation: str, hidden: list[int], inputs: int = 3, outputs: int = 2) -> nn.Sequential:
    network = multilayer_perceptron(
        inputs, hidden, outputs, activation=activation, init="orthogonal", output_gain=1.0  # type: ignore[arg-type]
    )  # fmt: skip
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return network


@settings(deadline=None, max_examples=30)
@given(
    activation=st.sampled_from(["tanh", "relu", "silu"]),
    hidden=st.lists(st.integers(1, 9), max_size=3),
    rows=st.integers(1, 20),
    seed=st.integers(0, 99),
)
def test_outputs_and_gradients_are_those_of_autograd(activation: str, hidden: list[int], rows: int, seed: int) -> None:
    torch.manual_seed(seed)
    network, inputs = network_of(activation, hidden), torch.randn(rows, 3)
    pull = torch.randn(rows, 2)
    outputs = network(inputs)
    outputs.backward(pull)
    expected = torch.cat([parameter.grad.reshape(-1) for parameter in network.parameters()])  # type: ignore[union-attr]

    perceptron = Perceptron.of(network)
    assert perceptron is not None and perceptron.num_parameters == len(expected)
    evaluation, found = perceptron.evaluate(inputs.numpy()), np.empty(len(expected))
    np.testing.assert_allclose(evaluation.outputs, outputs.detach().numpy(), atol=1e-12)
    evaluation.gradient(pull.numpy(), found)
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-11)
    buffers = [np.empty((rows, size)) for size in perceptron.sizes]
    np.testing.assert_allclose(perceptron.run(inputs.numpy(), buffers), outputs.detach().numpy(), atol=1e-12)


@pytest.mark.parametrize("rows", [0, 1, 7, 8, 9, 30])
def test_blocks_of_rows_are_the_rows(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pgkit.core.perceptron.BLOCK", 8)
    network, inputs = network_of("silu", [5, 4]), torch.randn(rows, 3)
    perceptron = Perceptron.of(network)
    assert perceptron is not None
    outputs, pull = network(inputs), torch.randn(rows, 2)
    np.testing.assert_allclose(perceptron.outputs(inputs.numpy()), outputs.detach().numpy(), atol=1e-12)
    outputs.backward(pull)
    expected = torch.cat([parameter.grad.reshape(-1) for parameter in network.parameters()])  # type: ignore[union-attr]
    evaluation, found = perceptron.evaluate(inputs.numpy()), np.empty(perceptron.num_parameters)
    np.testing.assert_allclose(evaluation.outputs, outputs.detach().numpy(), atol=1e-12)
    evaluation.gradient(pull.numpy(), found)
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-11)


def test_only_the_last_evaluation_is_differentiated() -> None:
    perceptron = Perceptron.of(network_of("tanh", [4]))
    assert perceptron is not None
    first, found = perceptron.evaluate(np.ones((5, 3))), np.empty(perceptron.num_parameters)
    before = first.outputs.copy()
    perceptron.evaluate(np.zeros((5, 3)))
    np.testing.assert_array_equal(first.outputs, before)
    with pytest.raises(RuntimeError, match="another one followed"):
        first.gradient(np.ones((5, 2)), found)


def test_it_follows_changes_in_place_and_moments_far_out_stay_finite() -> None:
    network = network_of("silu", [4])
    perceptron = Perceptron.of(network)
    assert perceptron is not None
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(300.0)
    inputs = torch.randn(5, 3) * 100
    evaluation, found = perceptron.evaluate(inputs.numpy()), np.empty(perceptron.num_parameters)
    np.testing.assert_allclose(evaluation.outputs, network(inputs).detach().numpy(), rtol=1e-12)
    evaluation.gradient(np.ones((5, 2)), found)
    assert np.isfinite(found).all()


def frozen() -> nn.Module:
    network = network_of("tanh", [4])
    network[0].weight.requires_grad_(False)
    return network


@pytest.mark.parametrize(
    "network",
    [
        nn.Linear(3, 2),
        nn.Sequential(nn.Linear(3, 2), nn.ReLU()),
        nn.Sequential(nn.Linear(3, 4), nn.GELU(), nn.Linear(4, 2)),
        nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 4), nn.SiLU(), nn.Linear(4, 2)),
        nn.Sequential(nn.Linear(3, 4, bias=False), nn.ReLU(), nn.Linear(4, 2)),
        nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 2)),
        frozen(),
        network_of("tanh", [4]).to("meta"),
    ],
    ids=["bare", "ends-active", "other-activation", "two-kinds", "no-bias", "layer-norm", "frozen", "elsewhere"],
)
def test_anything_else_goes_the_general_way(network: nn.Module) -> None:
    assert Perceptron.of(network) is None


def test_pieces_of_the_flat_vector_are_the_gradients() -> None:
    network = network_of("tanh", [4])
    flat = FlatGradient(list(network.parameters()))
    flat.vector.copy_(torch.arange(len(flat.vector)))
    flat.hand_over()
    found = torch.cat([parameter.grad.reshape(-1) for parameter in network.parameters()])  # type: ignore[union-attr]
    assert torch.equal(found, torch.arange(len(found)).to(found))
