"""Per-sample gradients by layers, by vmap and one at a time: three ways to one matrix."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor, nn

from pgkit.core import scores as scores_module
from pgkit.core.persample import (
    combine,
    factors_into_layers,
    layer_scores,
    layout,
    num_parameters,
    per_sample_by_vmap,
)
from pgkit.core.scores import Scores
from pgkit.policies.mlp import MLPPolicy
from pgkit.rl.factors import LogProbability

pytestmark = [pytest.mark.equivalence, pytest.mark.usefixtures("float64")]

T, N, M = 7, 5, 3


class Recurring(nn.Module):
    """log p by one layer used twice and a frozen one before it."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.again = nn.Linear(3, 4), nn.Linear(4, 4, bias=False)
        self.first.requires_grad_(False)

    def forward(self, obs: Tensor, actions: Tensor) -> Tensor:
        features = self.again(torch.tanh(self.again(torch.tanh(self.first(obs)))))
        return torch.log_softmax(features, dim=-1).gather(-1, actions[..., None]).squeeze(-1)


class Normalised(nn.Module):
    """log p with parameters in a layer that does not factor."""

    def __init__(self) -> None:
        super().__init__()
        self.network = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Tanh(), nn.Linear(4, 4))

    def forward(self, obs: Tensor, actions: Tensor) -> Tensor:
        return torch.log_softmax(self.network(obs), dim=-1).gather(-1, actions[..., None]).squeeze(-1)


def categorical() -> nn.Module:
    box = spaces.Box(-1, 1, (3,))
    policy = MLPPolicy(observation_space=box, action_space=spaces.Discrete(4), hidden_sizes=[6, 5], init="default")
    return LogProbability(policy)


def gaussian() -> nn.Module:
    space = spaces.Dict({"place": spaces.Box(-1, 1, (3,)), "mode": spaces.Discrete(2)})
    action = spaces.Box(-1, 1, (2,))
    policy = MLPPolicy(
        observation_space=space, action_space=action, hidden_sizes=[6], activation="silu", init="default"
    )
    return LogProbability(policy)


MODULES: dict[str, Callable[[], nn.Module]] = {
    "categorical": categorical,
    "gaussian": gaussian,
    "recurring": Recurring,
    "normalised": Normalised,
}


def problem(name: str) -> tuple[nn.Module, tuple[object, Tensor], Tensor, Tensor]:
    """Returns a module, its inputs, a mask with padding and reset rows, and coefficients that are 0 outside it."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        module = MODULES[name]()
        obs: object = torch.randn(T, N, 3)
        if name == "gaussian":
            obs = {"place": torch.randn(T, N, 3), "mode": torch.randint(0, 2, (T, N))}
            actions = torch.randn(T, N, 2)
        else:
            actions = torch.randint(0, 4, (T, N))
        mask = torch.arange(T)[:, None] < torch.tensor([7, 4, 1, 6, 2])
        mask[2, 0] = False
        coefficients = torch.where(mask, torch.randn(M, T, N), 0.0)
    return module, (obs, actions), mask, coefficients


def one_at_a_time(module: nn.Module, inputs: tuple[object, Tensor], coefficients: Tensor) -> Tensor:
    parameters = [p for p in module.parameters() if p.requires_grad]
    result = torch.zeros(M, N, num_parameters(module))
    for vector in range(M):
        for column in range(N):
            total = (module(*inputs) * coefficients[vector])[:, column].sum()
            result[vector, column] = torch.cat([g.flatten() for g in torch.autograd.grad(total, parameters)])
    return result


@pytest.mark.parametrize("name", MODULES)
def test_all_ways_agree(name: str) -> None:
    module, inputs, mask, coefficients = problem(name)
    expected = one_at_a_time(module, inputs, coefficients)
    assert expected.norm() > 1
    by_vmap = per_sample_by_vmap(module, inputs, coefficients)
    torch.testing.assert_close(by_vmap, expected, rtol=0, atol=1e-10)
    assert factors_into_layers(module) == (name != "normalised")
    if name == "normalised":
        with pytest.raises(ValueError, match="outside Linear and Constant"):
            layer_scores(module, inputs, mask)
    else:
        by_layer = combine(layer_scores(module, inputs, mask), coefficients, num_parameters(module))
        torch.testing.assert_close(by_layer, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", MODULES)
@pytest.mark.parametrize("chunk", [1, 300, 2**24])
def test_chunks_change_nothing(name: str, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    module, inputs, mask, coefficients = problem(name)
    monkeypatch.setattr(scores_module, "CHUNK", chunk)
    scores = Scores(module, inputs, mask)
    pieces = list(scores.gradients(coefficients))
    assert [columns.start for columns, _ in pieces] == sorted({columns.start for columns, _ in pieces})
    assert (len(pieces) == N) if chunk == 1 else True
    found = torch.cat([gradients for _, gradients in pieces], dim=1)
    torch.testing.assert_close(found, one_at_a_time(module, inputs, coefficients), rtol=0, atol=1e-10)
    torch.testing.assert_close(scores.per_sample(coefficients[1]), found[1], rtol=0, atol=1e-12)
    some = slice(1, 4)
    of_some = scores.gradients_of(some, coefficients[:, :, some])
    torch.testing.assert_close(of_some, found[:, some], rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", MODULES)
def test_scores_of_single_steps_add_up(name: str) -> None:
    module, inputs, mask, coefficients = problem(name)
    scores = Scores(module, inputs, mask)
    of_steps = scores.of_steps(torch.arange(T * N)).unflatten(0, (T, N))
    expected = torch.einsum("mtn,tnp->mnp", coefficients, of_steps)
    torch.testing.assert_close(scores.stacked(coefficients), expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", MODULES)
def test_rows_outside_the_mask_have_no_score(name: str) -> None:
    module, inputs, mask, coefficients = problem(name)
    scores = Scores(module, inputs, mask)
    wild = torch.where(mask, coefficients, 1e6)
    clean = torch.cat([gradients for _, gradients in scores.gradients(coefficients)], dim=1)
    found = torch.cat([gradients for _, gradients in scores.gradients(wild)], dim=1)
    torch.testing.assert_close(found, clean, rtol=0, atol=1e-12)


def test_the_layout_is_that_of_the_parameters() -> None:
    module = gaussian()
    flat = torch.cat([p.detach().flatten() for p in module.parameters()])
    for name, place in layout(module).items():
        assert torch.equal(flat[place], module.get_parameter(name).flatten())
    assert list(layout(Recurring())) == ["again.weight"] and num_parameters(Recurring()) == 16


def test_the_scores_are_those_of_numpy() -> None:
    # A softmax by hand: the score of logit a is 1[a taken] − π(a), the weight's its product with the input.
    box = spaces.Box(-1, 1, (3,))
    policy = MLPPolicy(observation_space=box, action_space=spaces.Discrete(4), hidden_sizes=[], init="default")
    obs, actions = torch.randn(1, 2, 3), torch.tensor([[3, 0]])
    found = Scores(LogProbability(policy), (obs, actions), torch.ones(1, 2, dtype=torch.bool)).per_sample(
        torch.tensor([[1.0, -2.0]])
    )
    weight, bias = (p.detach().numpy() for p in policy.network[0].parameters())
    for column, factor in enumerate((1.0, -2.0)):
        logits = weight @ obs[0, column].numpy() + bias
        score = np.eye(4)[int(actions[0, column])] - np.exp(logits) / np.exp(logits).sum()
        expected = factor * np.concatenate([np.outer(score, obs[0, column].numpy()).ravel(), score])
        np.testing.assert_allclose(found[column].numpy(), expected, rtol=0, atol=1e-12)
