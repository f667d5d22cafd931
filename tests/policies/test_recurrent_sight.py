"""What a policy with a memory may see: images, entries beside them, tables of allowed actions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor, nn

from pgkit.core import column_scores
from pgkit.core.column_scores import ColumnScores
from pgkit.core.convolutions import Convolutions
from pgkit.core.unrolling import log_prob_of_columns
from pgkit.errors import UsageError
from pgkit.policies.recurrent import RecurrentActor, RecurrentPolicy
from pgkit.types import Trajectories
from tests.end_to_end.runs import train, train_briefly
from tests.remembering import KINDS, policy_of

pytestmark = [pytest.mark.equivalence, pytest.mark.usefixtures("float64")]

T, N = 4, 3
IMAGE, VECTOR = spaces.Box(0, 255, (9, 8, 3), np.uint8), spaces.Box(-1, 1, (2,))
PAIR = spaces.MultiDiscrete([2, 3])
BESIDE = spaces.Dict({"a": VECTOR, "b": IMAGE, "action_mask": spaces.MultiBinary(4)})
TABLED = spaces.Dict({"seen": VECTOR, "action_mask": spaces.MultiBinary([2, 3])})
CASES: dict[str, tuple[spaces.Space[Any], spaces.Space[Any], dict[str, Any]]] = {
    "impala": (IMAGE, spaces.Discrete(4), {"convolutions": "impala"}),
    "floats": (spaces.Box(-1, 1, (3, 9, 8)), VECTOR, {"convolutions": "impala", "hidden_sizes": []}),
    "nature": (spaces.Box(0, 255, (36, 36), np.uint8), spaces.Discrete(4), {"convolutions": "nature"}),
    "beside": (BESIDE, spaces.Discrete(4), {"convolutions": "impala"}),
    "tuple": (spaces.Tuple([spaces.Discrete(3), IMAGE]), VECTOR, {"convolutions": "impala"}),
    "flat": (IMAGE, spaces.Discrete(4), {}),
    "table": (TABLED, PAIR, {}),
    "table and image": (spaces.Dict({**TABLED.spaces, "seen": IMAGE}), PAIR, {"convolutions": "impala"}),
}


def seen(space: spaces.Space[Any]) -> Any:
    """Returns observations `[T, N, …]` in numpy, flat where the space has parts; of every mask the first is allowed."""
    generator = np.random.default_rng(0)
    if isinstance(space, spaces.Dict | spaces.Tuple):
        parts: dict[str, Any] = (
            dict(space) if isinstance(space, spaces.Dict) else {str(k): s for k, s in enumerate(space)}
        )  # type: ignore[call-overload]  # a mapping
        found = {name: seen(part) for name, part in parts.items()}
        if "action_mask" in found:
            found["action_mask"].reshape(T, N, -1)[..., 0] = 1
        return found
    if isinstance(space, spaces.Box) and space.dtype == np.uint8:
        return generator.integers(0, 256, (T, N, *space.shape), dtype=np.uint8)
    if isinstance(space, spaces.Box):
        return generator.standard_normal((T, N, *space.shape))
    return generator.integers(2, size=(T, N, *(space.shape or ())))


def at(obs: Any, index: Any, *, torch_: bool = False) -> Any:
    if isinstance(obs, dict):
        return {name: at(part, index, torch_=torch_) for name, part in obs.items()}
    return torch.from_numpy(obs[index]) if torch_ else obs[index]


def policy_for(kind: str, case: str) -> RecurrentPolicy:
    space, actions, options = CASES[case]
    policy = policy_of(kind, space, actions, **options)
    with torch.no_grad():
        for layer in policy.modules():
            if isinstance(layer, nn.Conv2d):
                layer.weight.mul_(0.06)
    return policy


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("path", ["numpy", "torch"])
def test_acting_image_by_image_is_the_unroll(kind: str, case: str, path: str) -> None:
    policy, obs = policy_for(kind, case), seen(CASES[case][0])
    act = policy.actor()
    if path == "torch":
        act = RecurrentActor(policy._in_torch(), act._blank)
    starts = torch.zeros(T, N, dtype=torch.bool)
    starts[2, 1] = True
    act.begin(np.zeros(N, bool))
    rows = []
    for t in range(T):
        assert act.state is not None
        act.state[starts[t].numpy()] = 0
        rows.append(act(at(obs, t)).copy())
    expected = policy(at(obs, slice(None), torch_=True), starts).detach()
    np.testing.assert_allclose(np.stack(rows), expected, rtol=0, atol=1e-10)
    # What was seen first matters later, and nothing of it after a new start.
    changed = at(obs, slice(None))
    first = changed if not isinstance(changed, dict) else next(v for k, v in changed.items() if k != "action_mask")
    first[0] = first[0] // 2 if first.dtype == np.uint8 else 1 - first[0]
    difference = (policy(at(changed, slice(None), torch_=True), starts).detach() - expected).abs().amax(dim=-1)
    assert (difference[:, [0, 2]].amax(dim=1) > 1e-7).all() and (difference[2:, 1] < 1e-12).all()


@pytest.mark.parametrize("case", ["impala", "flat", "nature"])
def test_the_way_from_an_image_to_the_memory_is_that_of_the_networks_for_images(case: str) -> None:
    policy, obs = policy_for("gru", case), at(seen(CASES[case][0]), slice(None), torch_=True)
    gates, memory, head = policy._remembering
    layers = list(gates)  # type: ignore[arg-type]  # a Sequential
    assert isinstance(layers[0], Convolutions) == (case != "flat")
    cell = nn.GRUCell(layers[-1].in_features, 3)
    with torch.no_grad():
        cell.weight_ih.copy_(layers[-1].weight)
        cell.bias_ih.copy_(layers[-1].bias)
        cell.weight_hh.copy_(memory.hidden.weight)  # type: ignore[union-attr, arg-type]  # a recurrent layer
        cell.bias_hh.copy_(memory.hidden.bias)  # type: ignore[union-attr, arg-type]  # a recurrent layer
        expected = policy(obs)
        for n in range(N):
            state = torch.zeros(3)
            for t in range(T):
                x = obs[t, n] / 255
                if case != "flat":
                    image = x[None] if x.dim() == 2 else x.movedim(-1, 0)
                    x = layers[0].layers(image[None])[0]
                x = x.reshape(-1)
                for layer in layers[1 if case != "flat" else 0 : -1]:
                    x = layer(x)
                state = cell(x, state)
                torch.testing.assert_close(head(state), expected[t, n], rtol=0, atol=1e-10)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("case", ["beside", "table"])
@pytest.mark.parametrize("chunk", [column_scores.CHUNK, 2000])
def test_scores_are_exact_through_convolutions_and_tables(
    kind: str, case: str, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(column_scores, "CHUNK", chunk)
    policy, obs = policy_for(kind, case), at(seen(CASES[case][0]), [0, 1, 2, 3, 3], torch_=True)
    starts, nothing = torch.zeros(T, N, dtype=torch.bool), torch.zeros(T, N)
    starts[2, 0] = True
    mask = ~starts.roll(-1, dims=0)
    first = torch.zeros(T, N, dtype=torch.long) if case == "beside" else torch.zeros(T, N, 2, dtype=torch.long)
    batch = Trajectories(
        obs=obs, actions=first, rewards=nothing, behavior_log_prob=nothing, behavior_id=torch.zeros(N),
        terminated=starts, truncated=starts, starts=starts, mask=mask, lane=torch.arange(N), whole_episodes=False,
        policy_state=torch.randn(N, policy._remembering.memory.state_size),
    )  # fmt: skip
    log_prob = log_prob_of_columns(policy, batch, slice(None))
    parameters = list(policy.parameters())

    def flat(value: Tensor) -> Tensor:
        return torch.cat([x.reshape(-1) for x in torch.autograd.grad(value, parameters, retain_graph=True)])

    expected = torch.stack([flat(one) for one in log_prob.reshape(-1)]).unflatten(0, (T, N)) * mask[..., None]
    scores = ColumnScores(policy, batch, mask)
    assert scores.factors == (case == "table")
    coefficients, vectors = torch.randn(2, T, N), torch.randn(N, expected.shape[2])
    products = torch.einsum("mtn,tnp->mnp", coefficients, expected)
    for found, exact in (
        (scores.stacked(coefficients), products),
        (scores.per_sample(coefficients[1]), products[1]),
        (scores.gradients_of(slice(1, 3), coefficients[:, :, 1:3]), products[:, 1:3]),
        (scores.step_squares(), expected.square().sum(dim=2)),
        (scores.step_products(vectors), (expected * vectors).sum(dim=2)),
        (scores.of_steps(torch.tensor([11, 0, 4, 4])), expected.flatten(0, 1)[[11, 0, 4, 4]]),
    ):
        torch.testing.assert_close(found, exact, rtol=1e-10, atol=1e-10)


def test_convolutions_without_an_image_are_refused() -> None:
    with pytest.raises(UsageError, match="policy: a network for images and no image in the observation, expected one"):
        policy_of("gru", VECTOR, PAIR, convolutions="impala")


def test_what_the_table_forbids_has_no_chance_with_a_memory() -> None:
    policy, obs = policy_for("lstm", "table"), seen(TABLED)
    act = policy.actor()
    for t in range(T):
        parameters = act(at(obs, t))
        forbidden = obs["action_mask"][t].reshape(N, -1) == 0
        assert (parameters[forbidden] == -1e9).all() and forbidden.any()
        chances = np.exp(parameters)
        np.testing.assert_allclose(chances.sum(axis=1), 1, atol=1e-12)


IMAGES = (
    "env=gym", "env.id=tests.policies.image_envs:Quarters-v0", "policy=gru", "policy.convolutions=impala",
    "policy.hidden_sizes=[]",
)  # fmt: skip


def test_an_agent_learns_from_images_behind_a_memory() -> None:
    # One step an episode: the action that names the bright quarter pays 1; blind play earns 1/4.
    torch.set_default_dtype(torch.float32)
    _, journal = train_briefly(
        *IMAGES, "collect.episodes=32", "total_steps=2500", "optimizer.lr=0.003", "diagnostics=none"
    )
    assert journal.record.return_mean_100 > 0.8


def test_slabs_of_images_are_learnt_from_with_a_critic_that_remembers_and_instruments(tmp_path: Path) -> None:
    torch.set_default_dtype(torch.float32)
    run = train(
        tmp_path, *IMAGES, "agent=ppo", "env.num_envs=4", "collect.steps=8", "critic=recurrent_value",
        "critic.convolutions=impala", "critic.hidden_sizes=[]", "critic.steps=2", "diagnostics=[variance,baseline]",
        "diagnostics.variance.every=1", "total_steps=60", "evaluation.episodes=4",
    )  # fmt: skip
    assert run.summary["status"] == "finished" and len(run.metrics) > 2
    assert all(float(line["gradient/per_sample_variance"]) > 0 for line in run.metrics)
    # Later slabs go on with episodes, and are as likely as when they were collected.
    assert all(float(line["update/first_ratio_deviation"]) < 1e-4 for line in run.metrics)
