"""Weights at their extremes: finite, or a fault with a name."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from pgkit.core import trajectory_weights
from pgkit.core.recursions import lambda_return
from pgkit.core.score import scale
from pgkit.errors import RunFault, UsageError
from pgkit.types import Trajectories
from pgkit.weights.base import EpisodeWeights
from pgkit.weights.mixtures import Balance, ConstantMixture, PowerHeuristic
from pgkit.weights.ratios import OneStep, PerDecision, Trajectory

pytestmark = pytest.mark.exact

INF = math.inf
EVERY: dict[str, Any] = {
    "trajectory": Trajectory(),
    "per_decision": PerDecision(),
    "balance": Balance(),
    "balance per_decision": Balance(per_decision=True, defensive=0.5),
    "power_heuristic": PowerHeuristic(),
    "constant_mixture": ConstantMixture(decay=0.5),
    "one_step": OneStep(),
}
"""With their defaults, in single precision as training has it."""


class Says:
    """A policy that says what a test wants it to."""

    def __init__(self, log_prob: Tensor) -> None:
        self.table = log_prob

    def log_prob(self, obs: Tensor, actions: Tensor) -> Tensor:
        return self.table.flatten()[actions]


def batch(log_target: Any, log_behavior: Any, others: Any = None, ids: Any = None) -> tuple[Any, Trajectories]:
    """Returns a policy and a batch `[T, N]` of these log-probabilities; `others` `[K, T, N]` are those of all."""
    target, behavior = torch.as_tensor(log_target), torch.as_tensor(log_behavior)
    steps, columns = behavior.shape
    never = torch.zeros(steps, columns, dtype=torch.bool)
    trajectories = Trajectories(
        obs=torch.zeros(steps + 1, columns), actions=torch.arange(steps * columns).reshape(steps, columns),
        rewards=torch.ones(steps, columns), behavior_log_prob=behavior, terminated=never, truncated=never, starts=never,
        behavior_id=torch.zeros(columns, dtype=torch.long) if ids is None else torch.tensor(ids),
        mask=torch.ones(steps, columns, dtype=torch.bool), lane=torch.zeros(columns, dtype=torch.long),
        whole_episodes=True, log_densities=None if others is None else torch.as_tensor(others),
    )  # fmt: skip
    return Says(target), trajectories


def used(log_weight: Tensor, trajectories: Trajectories) -> Tensor:
    """Returns what an update would multiply scores by, without a baseline: weights times weighted returns."""
    ends = {"terminated": trajectories.terminated, "truncated": trajectories.truncated, "mask": trajectories.mask}
    zeros = torch.zeros(len(log_weight) + 1, log_weight.shape[1])
    signal = lambda_return(trajectories.rewards, zeros, log_weight, **ends, gamma=1.0, lam=1.0)
    return scale(log_weight, trajectories.mask) * signal


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("size", [1000.0, -1000.0, 1e30])
def test_ratios_beyond_all_numbers_are_clamped_and_counted(name: str, size: float) -> None:
    policy, trajectories = batch([[size, 0.0], [0.0, 0.0]], torch.zeros(2, 2))
    found = EVERY[name].log_weight(policy, trajectories)
    assert found.dtype == torch.float32 and used(found, trajectories).isfinite().all()
    assert float(found[0, 0]) == math.copysign(trajectory_weights.LIMIT, size) and not found[:, 1].any()
    rows = 1 if name == "one_step" else 2
    assert int(trajectory_weights.at_the_bound(found).sum()) == rows


def test_opposite_extremes_cancel_before_anything_is_clamped() -> None:
    policy, trajectories = batch([[1000.0], [-999.0]], torch.zeros(2, 1))
    assert Trajectory().log_weight(policy, trajectories).flatten().tolist() == [1.0, 1.0]
    assert PerDecision().log_weight(policy, trajectories).flatten().tolist() == [30.0, 1.0]


@pytest.mark.parametrize("name", EVERY)
def test_five_hundred_steps_of_minus_1_2_nats_are_finite(name: str) -> None:
    policy, trajectories = batch(torch.full((500, 3), -1.2), torch.zeros(500, 3))
    found = EVERY[name].log_weight(policy, trajectories)
    assert used(found, trajectories).isfinite().all() and float(found[0, 0]) <= -1.2 + 1e-6


def test_what_goes_far_and_comes_back_adds_up_in_double_precision() -> None:
    target = torch.cat([torch.full((250, 1), 99.7), torch.full((250, 1), -99.6)])
    policy, trajectories = batch(target, torch.zeros(500, 1))
    expected = float(target.double().sum())
    for weights in (Trajectory(), PerDecision(), Balance()):
        assert float(weights.log_weight(policy, trajectories)[-1, 0]) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("name", EVERY)
def test_an_action_that_its_policy_cannot_take_is_impossible_data(name: str) -> None:
    policy, trajectories = batch(torch.zeros(2, 2), [[0.0, 0.0], [-INF, 0.0]])
    with pytest.raises(RunFault, match=r"^behavior_log_prob: -inf for an action that was taken, expected"):
        EVERY[name].log_weight(policy, trajectories)


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("wrong", [INF, math.nan])
@pytest.mark.parametrize("whose", ["log_prob", "behavior_log_prob"])
def test_what_is_no_probability_is_a_named_fault(name: str, wrong: float, whose: str) -> None:
    tables = {"log_prob": torch.zeros(2, 2), "behavior_log_prob": torch.zeros(2, 2)}
    tables[whose][1, 1] = wrong
    policy, trajectories = batch(tables["log_prob"], tables["behavior_log_prob"])
    with pytest.raises(RunFault, match=rf"^{whose}: {wrong} for an action that was taken"):
        EVERY[name].log_weight(policy, trajectories)


@pytest.mark.parametrize("name", EVERY)
def test_outside_the_mask_anything_may_stand(name: str) -> None:
    policy, trajectories = batch([[0.5, 0.1], [math.nan, -INF]], [[0.0, 0.0], [-INF, INF]])
    mask = torch.tensor([[True, True], [False, False]])
    found = EVERY[name].log_weight(policy, replace(trajectories, mask=mask))
    torch.testing.assert_close(found[0], torch.tensor([0.5, 0.1]))
    assert found.isfinite().all()


@pytest.mark.parametrize("name", EVERY)
def test_weights_that_are_all_zero_leave_no_gradient(name: str) -> None:
    policy, trajectories = batch(torch.full((2, 3), -INF), torch.zeros(2, 3))
    found = EVERY[name].log_weight(policy, trajectories)
    assert float(used(found, trajectories).abs().max()) < 1e-12


@pytest.mark.parametrize("weights", [Trajectory(self_normalise=True), PerDecision(self_normalise=True)])
def test_weights_that_are_all_zero_cannot_be_normalised(weights: EpisodeWeights) -> None:
    policy, trajectories = batch(torch.full((2, 3), -INF), torch.zeros(2, 3))
    with pytest.raises(RunFault, match=r"^weights: all 0, .*weights.self_normalise=false"):
        weights.log_weight(policy, trajectories)
    policy, trajectories = batch([[-INF, -INF, 0.0]], torch.zeros(1, 3))
    found = weights.log_weight(policy, trajectories).exp()
    torch.testing.assert_close(found, torch.tensor([[0.0, 0.0, 3.0]]), rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("weights", [Balance(), Balance(per_decision=True), PowerHeuristic()])
def test_a_policy_that_cannot_take_an_action_adds_nothing_to_the_mixture(weights: Any) -> None:
    """Two columns, one of each policy; policy 1 could not have taken the first column's action."""
    others = [[[-1.0, -3.0]], [[-INF, -2.0]]]
    policy, trajectories = batch([[-1.5, -2.5]], [[-1.0, -2.0]], others, (0, 1))
    found = weights.log_weight(policy, trajectories).exp()[0]
    first, third = math.exp(-1.5), math.exp(-2.5)
    shares = [math.exp(-3), math.exp(-2)]
    power = 2.0 if isinstance(weights, PowerHeuristic) else 1.0
    heuristic = shares[1] ** power / (shares[0] ** power + shares[1] ** power)
    expected = [first / (0.5 * math.exp(-1)), heuristic * third / (0.5 * shares[1])]
    torch.testing.assert_close(found, torch.tensor(expected), rtol=1e-6, atol=0)


def test_a_target_that_cannot_either_is_a_weight_of_zero_whatever_else_happened() -> None:
    others = [[[0.0, 0.0], [-1.0, -1.0]], [[-INF, 0.0], [-1.0, -1.0]]]
    policy, trajectories = batch([[0.0, -1.0], [-INF, -1.0]], [[0.0, 0.0], [-1.0, -1.0]], others, (0, 1))
    for weights in (Balance(), PowerHeuristic(), ConstantMixture()):
        found = weights.log_weight(policy, trajectories)
        assert found[:, 0].tolist() == [-30.0, -30.0] and found.isfinite().all()


def test_a_target_of_zero_outdoes_a_behavior_of_zero_from_there_on() -> None:
    ratio = torch.tensor([[INF], [-INF], [0.0]])
    assert trajectory_weights.cumulated(ratio, per_decision=False).tolist() == [[-INF]]
    assert trajectory_weights.cumulated(ratio, per_decision=True).flatten().tolist() == [INF, -INF, -INF]


def test_a_mixture_bounds_weights_by_the_share_of_the_policy_that_learns() -> None:
    others = [[[-500.0, 0.0, -600.0]], [[0.0, -700.0, 0.0]]]
    policy, trajectories = batch([[-500.0, 0.0, -600.0]], [[-500.0, 0.0, 0.0]], others, (0, 0, 1))
    assert float(Balance().log_weight(policy, trajectories).exp().max()) <= 1.5 + 1e-6


@pytest.mark.parametrize("weights", [Balance(), PowerHeuristic()])
def test_a_mixture_of_several_policies_needs_what_each_says(weights: Any) -> None:
    policy, trajectories = batch(torch.zeros(1, 2), torch.zeros(1, 2), None, (0, 1))
    with pytest.raises(UsageError, match=r"^reuse.keep: log_probabilities, expected parameters"):
        weights.log_weight(policy, trajectories)
    assert not ConstantMixture().log_weight(policy, trajectories).any()


@pytest.mark.parametrize("name", [name for name in EVERY if name != "one_step"])
def test_slabs_are_refused(name: str) -> None:
    policy, trajectories = batch(torch.zeros(1, 2), torch.zeros(1, 2))
    with pytest.raises(UsageError, match=r"^weights: .* slabs of steps, expected collect=episodes"):
        EVERY[name].log_weight(policy, replace(trajectories, whole_episodes=False))


@pytest.mark.parametrize("key", ["truncate", "power_mean"])
def test_prefixes_that_shrink_later_rewards_are_refused_by_name(key: str) -> None:
    options: dict[str, Any] = {key: 0.5}
    for kind in (Balance, PowerHeuristic, ConstantMixture):
        with pytest.raises(UsageError, match=rf"^weights.{key}: 0.5 with weights.per_decision=true, expected null"):
            kind(per_decision=True, **options)


def test_a_truncated_prefix_would_have_a_mean_that_falls() -> None:
    """E min(w_t, c) over steps of ratio 2 or 1/2, with E w_t = 1 at each: what the refusal is about."""
    means, law = [], {1.0: 1.0}
    for _ in range(6):
        law_next: dict[float, float] = {}
        for weight, chance in law.items():
            for ratio, likely in ((2.0, 1 / 3), (0.5, 2 / 3)):
                law_next[weight * ratio] = law_next.get(weight * ratio, 0.0) + chance * likely
        law = law_next
        assert sum(weight * chance for weight, chance in law.items()) == pytest.approx(1.0)
        means.append(sum(min(weight, 2.0) * chance for weight, chance in law.items()))
    assert means == sorted(means, reverse=True) and means[-1] < 0.8


def test_shares_sum_to_one_whatever_their_options() -> None:
    ids = torch.tensor([0, 0, 1, 2, 2, 2])
    for defensive in (None, 0.2):
        for discount in (None, torch.tensor([1.0, 1.0, 0.5, 0.25, 0.25, 0.25])):
            found = trajectory_weights.mixture_shares(ids, 3, discount=discount, defensive=defensive)
            assert float(found.sum()) == pytest.approx(1.0) and (defensive is None or float(found[0]) == 0.2)
    assert trajectory_weights.mixture_shares(ids[:2], 1, discount=None, defensive=0.2).tolist() == [1.0]
