"""Scores of policies with a memory against one backward pass for every step of every column."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from gymnasium import spaces
from torch import Tensor, nn

from pgkit.core import column_scores
from pgkit.core.column_scores import ColumnScores
from pgkit.core.unrolling import law_parameters, log_prob_of_columns, mean_divergence
from pgkit.types import Trajectories
from tests.remembering import KINDS, SEEN, policy_of

pytestmark = [pytest.mark.equivalence, pytest.mark.usefixtures("float64")]

T, N = 7, 5
BOX = spaces.Box(-1, 1, (2,))


def batch_of(state_size: int, *, whole: bool = False) -> Trajectories:
    """Returns a slab with an end in the middle of a column and a reset row behind it, or padded whole episodes."""
    torch.manual_seed(2)
    starts, mask = torch.zeros(T, N, dtype=torch.bool), torch.ones(T, N, dtype=torch.bool)
    if whole:
        starts[0], mask[4:, 1] = True, False
    else:
        starts[0, 1:] = starts[4, 0] = True
        mask[3, 0] = False
    nothing = torch.zeros(T, N)
    return Trajectories(
        obs=torch.randn(T + 1, N, 4), actions=torch.randn(T, N, 2), rewards=nothing, behavior_log_prob=nothing,
        behavior_id=torch.zeros(N, dtype=torch.long), terminated=nothing.bool(), truncated=nothing.bool(),
        starts=starts, mask=mask, lane=torch.arange(N), whole_episodes=whole,
        policy_state=0.0 * torch.randn(N, state_size) if whole else torch.randn(N, state_size),
    )  # fmt: skip


def by_autograd(policy: nn.Module, batch: Trajectories) -> Tensor:
    """Returns every score `[T, N, P]`, 0 outside the mask."""
    log_prob = log_prob_of_columns(policy, batch, slice(None))
    parameters = list(policy.parameters())
    rows = [
        torch.cat([each.reshape(-1) for each in torch.autograd.grad(one, parameters, retain_graph=True)])
        for one in log_prob.reshape(-1)
    ]
    return torch.stack(rows).unflatten(0, (T, N)) * batch.mask[..., None]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("chunk", [column_scores.CHUNK, 2000])
def test_all_of_them_are_exact(kind: str, whole: bool, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(column_scores, "CHUNK", chunk)
    policy = policy_of(kind, SEEN, BOX)
    batch = batch_of(policy.unrolled(torch.zeros(1, 1, 4))[1].shape[1], whole=whole)
    expected, scores = by_autograd(policy, batch), ColumnScores(policy, batch, batch.mask)
    coefficients, vectors = torch.randn(3, T, N), torch.randn(N, expected.shape[2])
    products = torch.einsum("mtn,tnp->mnp", coefficients, expected)
    assert scores.num_parameters == expected.shape[2]
    assert torch.allclose(scores.stacked(coefficients), products, rtol=0, atol=1e-10)
    assert torch.allclose(scores.per_sample(coefficients[1]), products[1], rtol=0, atol=1e-10)
    first = torch.cat([found for _, found in scores.gradients(coefficients[:, :, :2])], dim=1)
    assert torch.allclose(first, products[:, :2], rtol=0, atol=1e-10)
    some = scores.gradients_of(slice(1, 3), coefficients[:, :, 1:3])
    assert torch.allclose(some, products[:, 1:3], rtol=0, atol=1e-10)
    assert torch.allclose(scores.step_squares(), expected.square().sum(dim=2), rtol=0, atol=1e-10)
    assert torch.allclose(scores.step_products(vectors), (expected * vectors).sum(dim=2), rtol=0, atol=1e-10)
    index = torch.tensor([31, 0, 12, 12, 7, 33])
    assert torch.allclose(scores.of_steps(index), expected.flatten(0, 1)[index], rtol=0, atol=1e-10)
    assert scores.layers_of_steps(index) is None
    assert list(scores.layout) == [f"policy.{name}" for name, _ in policy.named_parameters()]


def test_a_score_reaches_back_to_what_was_seen_before() -> None:
    policy = policy_of("gru", SEEN, BOX)
    batch = batch_of(3)
    before = ColumnScores(policy, batch, batch.mask).of_steps(torch.tensor([5 * N + 1]))
    obs = batch.obs.clone()  # type: ignore[union-attr]  # one tensor
    obs[2, 1] += 1.0
    after = ColumnScores(policy, replace(batch, obs=obs), batch.mask).of_steps(torch.tensor([5 * N + 1]))
    assert (after - before).abs().max() > 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_rows_are_asked_for_in_any_order(kind: str) -> None:
    policy = policy_of(kind, SEEN, BOX)
    batch = batch_of(policy.unrolled(torch.zeros(1, 1, 4))[1].shape[1])
    everything = policy(batch.obs[:-1], batch.starts, batch.policy_state)  # type: ignore[index]  # one tensor
    for index in ([0, 1, 2], [33, 3, 17, 3], list(range(T * N)), [4]):
        rows = batch.rows(torch.tensor(index, dtype=torch.long))
        assert torch.allclose(law_parameters(policy, batch, rows), everything.flatten(0, 1)[index], rtol=0, atol=1e-12)


def test_divergences_are_those_of_the_laws_after_what_was_seen() -> None:
    before, after, batch = policy_of("gru", SEEN, BOX), policy_of("gru", SEEN, BOX), batch_of(3)
    with torch.no_grad():
        after.network[1].hidden.weight.add_(0.1)  # type: ignore[union-attr, operator]  # a recurrent layer
    laws = [each(batch.obs[:-1], batch.starts, batch.policy_state).flatten(0, 1) for each in (before, after)]  # type: ignore[index]  # one tensor
    expected = before.law.kl(*(each[batch.valid] for each in laws)).mean()
    assert mean_divergence(before, after, batch, batch.valid) == pytest.approx(float(expected.detach()), abs=1e-12)
    assert mean_divergence(before, before, batch, batch.valid) == 0
