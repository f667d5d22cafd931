"""What a policy with a memory did is what it is learnt from: in whole episodes, and in slabs that go on with them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import pytest
import torch
from torch import Tensor

from pgkit.behaviors.changed import Temperature
from pgkit.behaviors.checkpoint import Checkpoint
from pgkit.behaviors.current import Current
from pgkit.core.densities import log_prob_of_rows
from pgkit.core.unrolling import law_parameters
from pgkit.critics.none import NoCritic
from pgkit.estimators.score_function import ScoreFunction
from pgkit.policies.mlp import MLPPolicy
from pgkit.policies.recurrent import RecurrentPolicy
from pgkit.returns.discounted import RewardToGo
from pgkit.reuse.none import NoReuse
from pgkit.reuse.window import Window
from pgkit.rl.factors import factors_of
from pgkit.rl.logged import log_prob_of_logged
from pgkit.rl.objective import PolicyObjective
from pgkit.types import Trajectories
from pgkit.updates.ppo_clip import PPOClip
from pgkit.weights.on_policy import OnPolicy
from pgkit.weights.ratios import PerDecision
from tests.remembering import ACTIONS, KINDS, SEEN, collected, policy_of

pytestmark = pytest.mark.equivalence

Collect = Literal["steps", "episodes"]


def objective_of(policy: RecurrentPolicy, batch: Trajectories, *, average: Any = "columns") -> PolicyObjective:
    """Returns the objective of rewards-to-go, with an entropy bonus."""
    factors = factors_of(
        batch, policy=policy, critic=NoCritic(observation_space=SEEN, generator=torch.Generator()), weights=OnPolicy(),
        returns=RewardToGo(gamma=0.9, cut="zero"), estimator=ScoreFunction(gamma=0.9),
    )  # fmt: skip
    coefficients = ScoreFunction(gamma=0.9).coefficients(factors, torch.full_like(factors.signal, 3.0))
    return PolicyObjective(
        policy=policy, trajectories=batch, factors=factors, coefficients=coefficients, average=average,
        entropy_coefficient=0.01,
    )  # fmt: skip


def gradient_of(policy: RecurrentPolicy, value: Tensor) -> Tensor:
    return torch.cat([each.reshape(-1) for each in torch.autograd.grad(value, list(policy.parameters()))])


def by_a_naive_loop(policy: RecurrentPolicy, batch: Trajectories) -> Tensor:
    """Returns log π `[T, N]`, one row of one column at a time."""
    columns = []
    for n in range(batch.num_columns):
        state = None if batch.policy_state is None else batch.policy_state[n : n + 1]
        rows = []
        for t in range(batch.num_steps):
            state = None if batch.starts[t, n] else state
            parameters, state = policy.unrolled(batch.obs[t : t + 1, n : n + 1], None, state)  # type: ignore[index]  # one tensor
            rows.append(policy.law.log_prob(parameters[0, 0], batch.actions[t, n]))
        columns.append(torch.stack(rows))
    return torch.stack(columns, dim=1)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("collect", ["steps", "episodes"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-10)])
def test_actions_are_as_likely_when_they_are_learnt_from_as_when_they_were_drawn(
    kind: str, collect: Collect, dtype: torch.dtype, tolerance: float
) -> None:
    policy = policy_of(kind).to(dtype)
    batches = collected(policy.actor(), policy.law, collect=collect, batches=3)
    for batch in batches:
        assert batch.behavior_log_prob.dtype == dtype
        learnt = log_prob_of_rows(policy, batch)
        assert torch.allclose(learnt[batch.mask], batch.behavior_log_prob[batch.mask], rtol=0, atol=tolerance)
        rows = batch.rows()
        flat = policy.law.log_prob(law_parameters(policy, batch, rows), rows.actions)
        assert torch.allclose(flat, batch.behavior_log_prob.reshape(-1)[batch.valid], rtol=0, atol=tolerance)
        logged = log_prob_of_logged(policy, batch)
        assert torch.allclose(logged[batch.mask], learnt[batch.mask].double(), rtol=0, atol=tolerance)
    states = torch.stack([batch.policy_state.abs().sum(dim=1) for batch in batches])  # type: ignore[union-attr]  # there is one
    starts = torch.stack([batch.starts[0] for batch in batches])
    if collect == "steps":
        # Episodes end inside the slabs and at none of their borders; where one begins at row 0 nothing is remembered.
        assert all(bool(batch.starts[1:].any()) for batch in batches)
        assert bool((states[starts] == 0).all()) and bool((states[1:] > 0).any())
    else:
        assert not states.any()


def test_a_forgotten_state_would_show() -> None:
    policy = policy_of("gru").double()
    batch = collected(policy.actor(), policy.law, collect="steps", batches=2, steps=5)[1]
    learnt = policy.log_prob(batch.obs[:-1], batch.actions, batch.starts, None)  # type: ignore[index]  # one tensor
    assert float((learnt - batch.behavior_log_prob)[batch.mask].detach().abs().max()) > 1e-3


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("collect", ["steps", "episodes"])
def test_gradients_are_those_of_a_naive_loop(kind: str, collect: Collect) -> None:
    policy = policy_of(kind).double()
    batch = collected(policy.actor(), policy.law, collect=collect, batches=2, steps=25)[1]
    objective = objective_of(policy, batch)
    plain = PolicyObjective(
        policy=policy, trajectories=batch, factors=objective.factors, average="columns", entropy_coefficient=0.0,
        coefficients=objective.coefficients.unflatten(0, batch.mask.shape),
    )  # fmt: skip
    weighted = torch.where(batch.mask, by_a_naive_loop(policy, batch), 0.0).reshape(-1) * objective.coefficients
    expected = gradient_of(policy, weighted.sum() / batch.num_columns)
    assert torch.allclose(gradient_of(policy, plain().value), expected, rtol=0, atol=1e-10)
    scores = objective.factors.scores
    assert scores is not None
    per_sample = scores.per_sample(objective.coefficients.unflatten(0, batch.mask.shape))
    assert torch.allclose(per_sample.mean(dim=0), expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("average", ["columns", "steps"])
@pytest.mark.parametrize("collect", ["steps", "episodes"])
def test_parts_and_minibatches_of_columns_add_up(
    collect: Collect, average: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pgkit.rl.objective.COLUMNS_OF", 1)
    policy = policy_of("gru").double()
    batch = collected(policy.actor(), policy.law, collect=collect, steps=12)[0]
    objective = objective_of(policy, batch, average=average)
    whole, parts = objective(), list(objective.parts())
    assert len(parts) == batch.num_columns
    assert float(sum(each.value for each in parts).detach()) == pytest.approx(float(whole.value.detach()), abs=1e-10)  # type: ignore[union-attr]  # tensors
    assert float(sum(each.entropy for each in parts).detach()) == pytest.approx(float(whole.entropy.detach()))  # type: ignore[union-attr]  # tensors
    expected = gradient_of(policy, whole.value)
    total = sum(gradient_of(policy, each.value) for each in objective.parts())
    assert torch.allclose(total, expected, rtol=0, atol=1e-10)  # type: ignore[arg-type]  # a tensor
    product, vector = objective.curvature(), torch.randn(len(expected))
    assert torch.isfinite(product(vector.double())).all() and float(vector.double() @ product(vector.double())) >= 0
    assert torch.equal(objective.divergence(objective.laws()), torch.zeros(batch.num_columns).double())


def test_the_first_ratio_of_a_clipped_update_is_one_on_a_slab_that_goes_on() -> None:
    policy = policy_of("gru")
    act, optimizer = policy.actor(), torch.optim.Adam(policy.parameters(), lr=1e-2)
    update = PPOClip(optimizer=optimizer, generator=torch.Generator().manual_seed(0), minibatches=3)
    batches = collected(act, policy.law, collect="steps", batches=2)
    objective = objective_of(policy, batches[1], average="steps")
    assert batches[1].policy_state is not None and batches[1].policy_state.any()
    assert objective.reads_columns
    metrics = update.step(objective, progress=0.0)
    assert metrics["update/first_ratio_deviation"] == pytest.approx(0, abs=1e-5)
    assert metrics["update/steps"] == 12
    # It moved: a second look at the same slab is another.
    assert (update.step(objective, progress=0.0)["update/first_ratio_deviation"] or 0) > 1e-3


def test_minibatches_hold_whole_columns_where_the_policy_has_a_memory() -> None:
    policy = policy_of("gru")
    batch = collected(policy.actor(), policy.law, collect="episodes")[0]
    objective = objective_of(policy, batch)
    update = PPOClip(
        optimizer=torch.optim.SGD(policy.parameters()), generator=torch.Generator(), minibatches=3, epochs=1
    )
    pieces = list(update._minibatches.walk(objective))
    assert sorted(torch.cat(pieces).tolist()) == batch.valid.tolist()
    columns = [set((piece % batch.num_columns).tolist()) for piece in pieces]
    assert sum(map(len, columns)) == batch.num_columns == 6
    # A column in which nothing counts is in none of them.
    mask = batch.mask.clone()
    mask[:, [0, 2]] = False
    rest = objective_of(policy, replace(batch, mask=mask))
    update._minibatches.number = 6
    pieces = list(update._minibatches.walk(rest))
    assert len(pieces) == 4 and sorted(torch.cat(pieces).tolist()) == rest.valid.tolist()


@pytest.mark.parametrize("other", ["tempered", "plain", "larger"])
@pytest.mark.parametrize("lanes", [None, 2])
def test_other_policies_act_beside_it(other: str, lanes: int | None) -> None:
    policy = policy_of("gru").double()
    if other == "tempered":
        behavior: Any = Temperature(policy=policy, num_lanes=3, temperature=2.0, lanes=lanes)
    else:
        plain = MLPPolicy(observation_space=SEEN, action_space=ACTIONS, hidden_sizes=[4], init="default").double()
        theirs = plain if other == "plain" else policy_of("lstm", memory_size=7).double()
        behavior = Checkpoint(policy=policy, num_lanes=3, load_policy=lambda _: theirs, run="there", lanes=lanes)
    for batch in collected(behavior.actor(), policy.law, collect="episodes", batches=2):
        batch = NoReuse().extend(batch, behavior.acting())
        if lanes is None:
            said = log_prob_of_rows(behavior.other, batch)
        else:
            assert batch.log_densities is not None
            own = batch.behavior_id.expand_as(batch.behavior_log_prob)
            said = batch.log_densities.gather(0, own[None])[0]
        assert torch.allclose(said[batch.mask], batch.behavior_log_prob[batch.mask], rtol=0, atol=1e-10)
        weights = PerDecision().log_weight(policy, batch)
        ratio = torch.where(batch.mask, log_prob_of_rows(policy, batch) - batch.behavior_log_prob, 0.0).cumsum(dim=0)
        assert torch.allclose(weights[batch.mask], ratio[batch.mask], rtol=0, atol=1e-10)
        assert float(weights.abs().max()) > 0.1


def test_past_batches_are_asked_about_by_their_whole_columns() -> None:
    policy = policy_of("gru").double()
    behavior = Current(policy=policy, num_lanes=3)
    window = Window(policy=policy, behavior=behavior, batches=2)
    window.extend(collected(policy.actor(), policy.law, collect="episodes")[0], behavior.acting())
    before = [parameter.clone() for parameter in policy.parameters()]
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.mul_(1.2)
    joined = window.extend(collected(policy.actor(), policy.law, collect="episodes")[0], behavior.acting())
    assert joined.log_densities is not None
    now = log_prob_of_rows(policy, joined)
    with torch.no_grad():
        for parameter, old in zip(policy.parameters(), before, strict=True):
            parameter.copy_(old)
    then = log_prob_of_rows(policy, joined)
    number = int(joined.behavior_id[0])
    said = joined.log_densities[:, joined.mask]
    assert torch.allclose(said[number], now[joined.mask], rtol=0, atol=1e-10)
    assert torch.allclose(said[1 - number], then[joined.mask], rtol=0, atol=1e-10)
    assert float((now - then).abs().max()) > 0.1
