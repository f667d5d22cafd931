"""Policies with a memory: the unroll, its resets, and acting row by row are one and the same law."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import nn
from torch.nn.functional import linear

from pgkit.core.recurrence import GRU, LSTM, Recurrence
from pgkit.playback import restore
from pgkit.policies.recurrent import RecurrentActor, RecurrentPolicy
from pgkit.run.checkpoint import SavedPolicy, load_policy_state, save_policy
from tests.remembering import ACTIONS, KINDS, SEEN, policy_of

pytestmark = pytest.mark.equivalence

T, N = 9, 4
MASKED = spaces.Dict({"obs": SEEN, "action_mask": spaces.MultiBinary(2)})


def starts_of() -> torch.Tensor:
    """Returns where episodes begin: all at row 0 but one, which goes on; two begin later."""
    starts = torch.zeros(T, N, dtype=torch.bool)
    starts[0, :3] = starts[4, 2] = starts[7, 3] = True
    return starts


def observed(space: spaces.Space[Any]) -> Any:
    """Returns observations `[T, N, …]` in numpy."""
    generator = np.random.default_rng(3)
    if isinstance(space, spaces.Discrete):
        return generator.integers(int(space.n), size=(T, N))
    if isinstance(space, spaces.Dict):
        allowed = np.ones((T, N, 2), np.int8)
        allowed[::2, :, 1] = 0
        return {"action_mask": allowed, "obs": generator.standard_normal((T, N, 4))}
    return generator.standard_normal((T, N, *(space.shape or ())))


def rows_of(obs: Any, index: Any) -> Any:
    return {key: each[index] for key, each in obs.items()} if isinstance(obs, dict) else obs[index]


def in_torch(obs: Any) -> Any:
    return {key: torch.as_tensor(each) for key, each in obs.items()} if isinstance(obs, dict) else torch.as_tensor(obs)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(("layer", "reference"), [(GRU, nn.GRU), (LSTM, nn.LSTM)])
def test_layers_are_those_of_torch(layer: type[Recurrence], reference: Any) -> None:
    torch.manual_seed(0)
    theirs, ours = reference(5, 3), layer(3, init="default")
    with torch.no_grad():
        ours.hidden.weight.copy_(theirs.weight_hh_l0)
        ours.hidden.bias.copy_(theirs.bias_hh_l0)
    inputs, state = torch.randn(T, N, 5), torch.randn(N, ours.state_size)
    parts = [part[None].contiguous() for part in state.split(3, dim=1)]
    expected, last = theirs(inputs, parts[0] if len(parts) == 1 else tuple(parts))
    outputs, after = ours(linear(inputs, theirs.weight_ih_l0, theirs.bias_ih_l0), None, state)
    assert torch.allclose(outputs, expected, rtol=0, atol=1e-12)
    assert torch.allclose(after, torch.cat([each[0] for each in last] if len(parts) > 1 else [last[0]], dim=-1))


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("layer", [GRU, LSTM])
@pytest.mark.parametrize("resets", [True, False])
def test_derivatives_by_hand_are_those_of_autograd_and_so_are_theirs(layer: type[Recurrence], resets: bool) -> None:
    torch.manual_seed(0)
    memory, starts = layer(3, init="default"), starts_of() if resets else None
    inputs = [torch.randn(T, N, memory.num_gates * 3), torch.randn(N, memory.state_size), *memory.parameters()]
    for each in inputs[:2]:
        each.requires_grad_()
    vectors = [torch.randn_like(each) for each in inputs]
    found = []
    for unroll in (memory, memory.written_out):
        outputs, after = unroll(inputs[0], starts, inputs[1])
        value = (outputs.sin().sum() + 2 * after.cos().sum()).exp()
        first = torch.autograd.grad(value, inputs, retain_graph=True)
        again = torch.autograd.grad(value, inputs, create_graph=True)
        product = sum((a * b).sum() for a, b in zip(again, vectors, strict=True))
        found.append([outputs, after, *first, *again, *torch.autograd.grad(product, inputs)])  # type: ignore[arg-type]  # a tensor
    for by_hand, written_out in zip(*found, strict=True):
        assert torch.allclose(by_hand, written_out, rtol=1e-10, atol=1e-10)
    # Those of what needs none are left out.
    memory.hidden.bias.requires_grad_(False)
    memory(inputs[0].detach(), starts)[0].sum().backward()
    assert memory.hidden.weight.grad is not None and memory.hidden.bias.grad is None


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("kind", KINDS)
def test_a_column_of_several_episodes_is_those_episodes_one_by_one(kind: str) -> None:
    policy, obs, starts = policy_of(kind), torch.from_numpy(observed(SEEN)), starts_of()
    state = torch.randn(N, policy.unrolled(obs)[1].shape[1])
    together = policy(obs, starts, state)
    for n in range(N):
        cuts = [0, *(starts[1:, n].nonzero().squeeze(-1) + 1).tolist(), T]
        for first, last in pairwise(cuts):
            alone = policy(obs[first:last, n : n + 1], None, None if starts[first, n] else state[n : n + 1])
            assert torch.allclose(together[first:last, n], alone[:, 0], rtol=0, atol=1e-12)
    # The state matters where a column goes on, and nowhere else.
    changed = (policy(obs, starts, state + 1) - together).abs().amax(dim=-1) > 1e-6
    assert changed[:, 3].any()
    assert not changed[:, :3].any() and not changed[7:].any()


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("path", ["numpy", "torch"])
@pytest.mark.parametrize(
    ("space", "actions", "options"),
    [
        (SEEN, ACTIONS, {}),
        (SEEN, spaces.Box(-1, 1, (2,)), {"hidden_sizes": []}),
        (SEEN, spaces.Box(-1, 1, (2,)), {"state_dependent_std": True, "activation": "relu"}),
        (spaces.Discrete(6), ACTIONS, {}),
        (MASKED, ACTIONS, {}),
    ],
)
def test_acting_row_by_row_is_the_unroll(
    kind: str, path: str, space: spaces.Space[Any], actions: spaces.Space[Any], options: dict[str, Any]
) -> None:
    policy, obs, starts = policy_of(kind, space, actions, **options), observed(space), starts_of()
    act = policy.actor()
    if path == "torch":
        act = RecurrentActor(policy._in_torch(), act._blank)
    act.begin(np.zeros(N, bool))
    assert act.state is not None
    act.state[3] = 0.7
    state = torch.from_numpy(act.state.copy())
    rows = []
    for t in range(T):
        act.state[starts[t].numpy()] = 0
        rows.append(act(rows_of(obs, t)).copy())
    expected = policy(in_torch(obs), starts, state)
    assert np.allclose(np.stack(rows), expected.detach(), rtol=0, atol=1e-10)
    # It follows the parameters.
    with torch.no_grad():
        policy.network[1].hidden.weight.mul_(0.5)  # type: ignore[union-attr, operator]  # a recurrent layer
    act.begin(np.zeros(N, bool))
    again = act(rows_of(obs, 0))
    assert np.allclose(again, policy(in_torch(rows_of(obs, slice(0, 1)))).detach()[0], rtol=0, atol=1e-10)


def test_an_actor_forgets_two_rows_after_an_end() -> None:
    act, obs = policy_of("gru").actor(), observed(SEEN)
    act.begin(np.array([False, True, False, False]))
    assert act.state is not None and not act.state.any()
    ended = np.zeros((4, N), bool)
    ended[1, 2] = True
    empty = []
    for t in range(4):
        act(obs[t])
        act.follow(ended[t])
        empty.append((act.state == 0).all(axis=1).tolist())
    # Lane 1 was on its reset row at the beginning; lane 2 ended at row 1 and spent row 2 on the reset.
    nobody = [False] * N
    assert empty == [[False, True, False, False], nobody, [False, False, True, False], nobody]


def test_an_actor_that_nobody_told_begins_with_an_empty_memory() -> None:
    policy, obs = policy_of("lstm"), observed(SEEN).astype(np.float32)
    act = policy.actor()
    assert act.state is None
    expected = policy(torch.from_numpy(obs[:2])).detach().numpy()
    assert np.allclose(np.stack([act(obs[0]).copy(), act(obs[1])]), expected, atol=1e-6)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_finite_differences(kind: str) -> None:
    policy, obs, starts = policy_of(kind), torch.from_numpy(observed(SEEN)), starts_of()
    actions, weights = torch.randint(2, (T, N)), torch.randn(T, N)
    state = torch.randn(N, policy.unrolled(obs)[1].shape[1])

    def value() -> torch.Tensor:
        return (weights * policy.log_prob(obs, actions, starts, state)).sum()

    parameters = list(policy.parameters())
    gradients = torch.autograd.grad(value(), parameters)
    step = 1e-5
    for parameter, gradient in zip(parameters, gradients, strict=True):
        flat = parameter.data.view(-1)
        for index in range(0, len(flat), 7):
            differences = []
            for sign in (1, -1):
                flat[index] += sign * step
                differences.append(sign * float(value().detach()))
                flat[index] -= sign * step
            assert sum(differences) / (2 * step) == pytest.approx(float(gradient.reshape(-1)[index]), abs=1e-7)


def test_rows_without_a_time_are_refused() -> None:
    policy = policy_of("gru")
    with pytest.raises(ValueError, match=r"obs: 1 leading dimensions, expected \[T, N, …\]"):
        policy(torch.randn(7, 4))


@pytest.mark.parametrize("kind", KINDS)
def test_a_checkpoint_remembers_how_to_remember(kind: str, tmp_path: Path) -> None:
    policy = policy_of(kind, init="orthogonal")
    target = f"{type(policy).__module__}.{type(policy).__name__}"
    saved = SavedPolicy(
        config={"_target_": target, "hidden_sizes": [5], "memory_size": 3},
        observation_space=SEEN,
        action_space=ACTIONS,
        tensors=policy.state_dict(),
    )
    save_policy(tmp_path / "last", saved)
    found: RecurrentPolicy = restore(load_policy_state(tmp_path / "last"))
    obs = torch.from_numpy(observed(SEEN))
    assert torch.equal(found(obs), policy(obs))


def test_an_untrained_lstm_remembers() -> None:
    layer = LSTM(3, init="orthogonal")
    assert layer.hidden.bias.tolist() == [0.0] * 3 + [1.0] * 3 + [0.0] * 6
