"""Masks of actions on their way from an environment to a batch."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from pgkit.assemble import assemble
from pgkit.errors import EnvironmentFault, RunFault, UsageError
from pgkit.rl.lanes import Lanes
from pgkit.train import learn
from pgkit.types import Trajectories
from tests.end_to_end.runs import configuration, train_briefly

PERMITS = ("env=gym", "env.id=tests.rl.mask_envs:Permits-v0", "env.num_envs=4", "diagnostics=none")
WRAPPED = "env.wrappers=[action_mask]"


def lanes(**kwargs: Any) -> Lanes:
    return Lanes(id="tests.rl.mask_envs:Permits-v0", num_envs=2, kwargs=kwargs, wrappers=["action_mask"])


def batch_of(*overrides: str) -> Trajectories:
    """Returns a slab of twelve steps, in which every lane ends twice."""
    config = configuration(*PERMITS, "collect=steps", "collect.steps=12", "returns.cut=zero", *overrides)
    parts = assemble(config)
    parts.collector.start([1, 2, 3, 4])
    try:
        return parts.collector.collect(parts.policy.actor(), parts.policy.law, parts.streams.policy).trajectories
    finally:
        parts.lanes.close()


@pytest.mark.parametrize("action", ["discrete", "several", "bits"])
@pytest.mark.parametrize("where", ["info", "observation"])
def test_masks_reach_the_batch_and_no_other_action_the_environment(action: str, where: str) -> None:
    # The environment raises for an action that it did not allow.
    batch = batch_of(f"env.kwargs={{action:{action},where:{where}}}", *([WRAPPED] if where == "info" else []))
    assert isinstance(batch.obs, dict) and batch.action_mask is not None
    told = batch.obs["action_mask"][:-1][batch.mask].bool()
    assert torch.equal(batch.action_mask[batch.mask], told)
    assert not told.all() and batch.behavior_log_prob[batch.mask].isfinite().all()
    assert int(batch.terminated.sum()) == 8


def test_a_mask_joins_the_entries_that_are_there() -> None:
    made = lanes(plain=False)
    assert list(made.observation_space) == ["action_mask", "seen"]  # type: ignore[call-overload]  # a Dict
    obs = made.reset([1, 2])
    made.close()
    assert isinstance(obs, dict) and obs["action_mask"].shape == (2, 4) and obs["seen"].shape == (2, 2)


def test_taxi_says_in_info_what_is_allowed() -> None:
    made = Lanes(id="Taxi-v4", num_envs=3, wrappers=["action_mask"])
    obs = made.reset([1, 2, 3])
    made.close()
    assert isinstance(obs, dict) and obs["observation"].shape == (3,)
    assert 0 < obs["action_mask"].sum() < obs["action_mask"].size


def test_a_blocked_state_and_a_missing_mask_are_named_with_lane_and_step() -> None:
    for kwargs, said in (
        ({"blocks": 2}, 'info["action_mask"] allows no action, expected at least one'),
        ({"forgets": 2}, 'info has no "action_mask", expected 4 numbers, 0 where an action is not allowed'),
    ):
        made = lanes(**kwargs)
        obs = made.reset([1, 2])
        with pytest.raises(EnvironmentFault) as caught:
            for _ in range(3):
                assert isinstance(obs, dict)
                obs = made.step(2 + obs["action_mask"].argmax(axis=1))[0]
        made.close()
        assert str(caught.value).startswith("lane 0, seed 1, step 2 ") and str(caught.value).endswith(said)


def test_a_blocked_state_in_the_observation_ends_the_run_by_name() -> None:
    with pytest.raises(
        RunFault, match=r"^policy: the action mask allows no action in some state, expected at least one"
    ):
        batch_of("env.kwargs={where:observation,blocks:2}")


def test_masks_of_continuous_actions_are_refused() -> None:
    with pytest.raises(UsageError, match=r"^env\.wrappers: action_mask, expected one .*masks are of Discrete, Multi"):
        lanes(action="box")
    with pytest.raises(
        UsageError, match=r"^env\.wrappers: action_mask, .*the observation has an entry action_mask as it"
    ):
        lanes(where="observation")


@pytest.mark.parametrize("agent", ["reinforce", "vpg", "ppo"])
def test_agents_learn_what_is_best_of_the_allowed(agent: str) -> None:
    # Pays for the last allowed action: 1 is the best, under random play about half of the steps pay.
    slab = ("collect.episodes=16",) if agent == "reinforce" else ("collect.steps=32", "critic.steps=5")
    steps = ("total_steps=6000", "optimizer.lr=0.1", "policy.hidden_sizes=[]")
    _, journal = train_briefly(*PERMITS, WRAPPED, f"agent={agent}", *slab, *steps)
    assert journal.record.return_mean_100 > 4.5


def test_masks_stay_beside_their_actions_in_batches_that_are_used_again() -> None:
    seen: list[Trajectories] = []

    def watch(parts: Any, *rest: Any, **keywords: Any) -> None:
        extend = parts.reuse.extend
        parts.reuse.extend = lambda *given: seen.append(extend(*given)) or seen[-1]
        learn(parts, *rest, **keywords)

    reused = ("agent=off_policy_reinforce", "collect.episodes=8", "reuse.batches=3", "behavior=epsilon")
    train_briefly(*PERMITS, WRAPPED, *reused, "total_steps=200", through=watch)
    last = seen[-1]
    assert isinstance(last.obs, dict) and last.action_mask is not None and last.num_columns == 24
    assert torch.equal(last.action_mask[last.mask], last.obs["action_mask"][:-1][last.mask].bool())
    taken = last.action_mask.gather(2, last.actions[..., None]).squeeze(-1)
    assert taken[last.mask].all()
