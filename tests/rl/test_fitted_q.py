"""Fitted values come near the truth, and no episode is read by a fit that has seen it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from gymnasium import spaces

from pgkit.core.processes import CHAIN
from pgkit.policies.mlp import MLPPolicy
from pgkit.rl.fitted_q import FittedQ
from pgkit.rl.logged import fit_behavior, log_prob_of_logged
from pgkit.types import Trajectories
from tests.off_policy import BEHAVIOR, GAMMA, TARGET, drawn, saved, table_policy, true_value

ONE_HOT = spaces.Box(0.0, 1.0, (2,))


def as_vectors(batch: Trajectories) -> Trajectories:
    """Returns the batch with its states as vectors, which a network has to read."""
    assert isinstance(batch.obs, torch.Tensor)
    return replace(batch, obs=torch.nn.functional.one_hot(batch.obs, 2).float())


def vector_policy() -> MLPPolicy:
    policy = MLPPolicy(observation_space=ONE_HOT, action_space=spaces.Discrete(2), hidden_sizes=[])
    policy.load_state_dict({**policy.state_dict(), "network.0.weight": TARGET.log().T.float()})
    return policy


def fitted(size: int, *, network: bool, steps: int = 600, batch: Trajectories | None = None) -> FittedQ:
    paths = drawn(size, seed=0)
    episodes = saved(paths).trajectories if batch is None else batch
    return FittedQ(
        as_vectors(episodes) if network else episodes,
        paths.log_ratio(),
        vector_policy() if network else table_policy(),
        observation_space=ONE_HOT if network else spaces.Discrete(2),
        action_space=spaces.Discrete(2),
        gamma=GAMMA,
        steps=steps,
    )


@pytest.mark.parametrize("network", [False, True])
def test_the_fit_comes_near_dynamic_programming(network: bool) -> None:
    owner = fitted(2000, network=network)
    found = owner.cross_fitted(folds=2, generator=np.random.default_rng(0))
    value, quality = CHAIN.values(TARGET, GAMMA)
    paths = drawn(2000, seed=0)
    steps = torch.arange(3)[:, None].expand_as(paths.states)
    for mine, exact in (
        (found.values, value[steps, paths.states]),
        (found.chosen, quality[steps, paths.states, paths.actions]),
    ):
        gap = (mine - exact)[paths.mask]
        assert float(gap.square().mean().sqrt()) < 0.25 and abs(float(gap.mean())) < 0.12
    assert abs(float(found.values[0].mean()) - true_value()) < 0.15
    assert abs(true_value(target=BEHAVIOR) - true_value()) > 0.25, "the behaviour's value would be found out"
    assert not found.values[~paths.mask].any() or not network


def test_a_network_without_training_is_nowhere_near() -> None:
    found = fitted(2000, network=True, steps=1).cross_fitted(folds=2, generator=np.random.default_rng(0))
    _, quality = CHAIN.values(TARGET, GAMMA)
    paths = drawn(2000, seed=0)
    steps = torch.arange(3)[:, None].expand_as(paths.states)
    gap = (found.chosen - quality[steps, paths.states, paths.actions])[paths.mask]
    assert float(gap.square().mean().sqrt()) > 0.5


@pytest.mark.parametrize("network", [False, True])
def test_what_an_episode_earned_changes_nothing_in_its_own_values(network: bool) -> None:
    plain = saved(drawn(12, seed=0)).trajectories
    rewards = plain.rewards.clone()
    rewards[0, 4] += 100
    both = [
        fitted(12, network=network, steps=30, batch=batch).cross_fitted(folds=3, generator=np.random.default_rng(0))
        for batch in (plain, replace(plain, rewards=rewards))
    ]
    assert torch.equal(both[0].values[:, 4], both[1].values[:, 4])
    assert torch.equal(both[0].chosen[:, 4], both[1].chosen[:, 4])
    others = [index for index in range(12) if index != 4]
    assert not torch.equal(both[0].values[:, others], both[1].values[:, others])


def test_actions_that_cannot_be_summed_over_are_sampled() -> None:
    """One step, reward −(a − 1)², a target of mean 0.5 and deviation 0.5: its value is −0.5."""
    generator = np.random.default_rng(0)
    count, space = 3000, spaces.Box(-np.inf, np.inf, (1,), np.float32)
    actions = torch.from_numpy(generator.normal(size=(1, count, 1)).astype(np.float32))
    policy = MLPPolicy(
        observation_space=ONE_HOT, action_space=space, hidden_sizes=[], initial_log_std=float(np.log(0.5))
    )
    policy.load_state_dict(
        {**policy.state_dict(), "network.0.weight": torch.zeros(1, 2), "network.0.bias": torch.tensor([0.5])}
    )
    yes = torch.ones(1, count, dtype=torch.bool)
    batch = Trajectories(
        obs=torch.ones(2, count, 2), actions=actions, rewards=-(actions[..., 0] - 1).square(),
        behavior_log_prob=torch.zeros(1, count), behavior_id=torch.zeros(count, dtype=torch.long),
        terminated=yes, truncated=~yes, starts=yes, mask=yes, lane=torch.zeros(count, dtype=torch.long),
        whole_episodes=True,
    )  # fmt: skip
    owner = FittedQ(
        batch, torch.zeros(1, count).double(), policy, observation_space=ONE_HOT, action_space=space, gamma=1.0
    )
    found = owner.cross_fitted(folds=2, generator=generator)
    assert abs(float(found.values.mean()) + 0.5) < 0.12
    assert float((found.chosen - batch.rewards).abs().mean()) < 0.15


def test_a_behaviour_model_finds_the_behaviour() -> None:
    batch, model = saved(drawn(4000, seed=0), None).trajectories, table_policy(torch.full((2, 2), 0.5))
    reached = fit_behavior(model, batch, generator=np.random.default_rng(0), steps=600)
    with torch.no_grad():
        found = model(torch.arange(2)).softmax(dim=1)
    assert float((found - BEHAVIOR).abs().max()) < 0.04
    assert float(found[0, 1]) > 0.55, "not the even chances that it started from"
    entropy = -float(log_prob_of_logged(table_policy(BEHAVIOR), batch).sum() / batch.mask.sum())
    assert reached == pytest.approx(-entropy, abs=0.03)
