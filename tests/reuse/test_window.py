"""The window joins batches without changing any of them, and never asks a policy for what it said before."""

from __future__ import annotations

import copy
from dataclasses import fields, replace
from typing import Any

import pytest
import torch
from gymnasium import spaces

from pgkit.behaviors.changed import Temperature
from pgkit.behaviors.current import Current
from pgkit.experience import Behaviors
from pgkit.policies.by_hand import ByHand
from pgkit.policies.mlp import MLPPolicy
from pgkit.reuse.none import NoReuse
from pgkit.reuse.window import Window
from pgkit.types import Trajectories
from pgkit.weights.mixtures import Balance

pytestmark = [pytest.mark.exact, pytest.mark.usefixtures("float64")]

LENGTHS = ([3, 5, 1, 2], [7, 7, 4, 4], [2, 2, 2, 1], [6, 1, 1, 1], [3, 3, 3, 4])


def policy_of(seed: int = 0, *, normalise: bool = True) -> MLPPolicy:
    torch.manual_seed(seed)
    return MLPPolicy(
        observation_space=spaces.Box(-9, 9, (3,)), action_space=spaces.Discrete(4), hidden_sizes=[5],
        normalise_observations=normalise,
    )  # fmt: skip


def batch_of(policy: Any, lengths: list[int], seed: int) -> Trajectories:
    generator = torch.Generator().manual_seed(seed)
    rows, columns = max(lengths), len(lengths)
    obs = torch.randn(rows + 1, columns, 3, generator=generator)
    actions = torch.randint(4, (rows, columns), generator=generator)
    mask = torch.arange(rows)[:, None] < torch.tensor(lengths)
    with torch.no_grad():
        log_prob = policy.log_prob(obs[:-1], actions)
    starts = torch.zeros_like(mask)
    starts[0] = True
    ends = mask & (torch.arange(rows)[:, None] == torch.tensor(lengths) - 1)
    return Trajectories(
        obs=obs, actions=actions, rewards=torch.randn(rows, columns, generator=generator) * mask,
        behavior_log_prob=log_prob, behavior_id=torch.zeros(columns, dtype=torch.long), terminated=ends,
        truncated=torch.zeros_like(mask), starts=starts, mask=mask, lane=torch.arange(columns), whole_episodes=True,
    )  # fmt: skip


def moved(policy: MLPPolicy, batch: Trajectories) -> None:
    """Moves parameters and preprocessing moments, as an update does."""
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape))
    policy.update(batch.rows())


class Run:
    """A policy that moves after every batch, what it was at each of them, and what a window made of it."""

    def __init__(self, **options: Any) -> None:
        self.policy = policy_of()
        self.behavior = Current(policy=self.policy, num_lanes=4)
        self.window = Window(policy=self.policy, behavior=self.behavior, **options)
        self.past: list[MLPPolicy] = []
        self.batches: list[Trajectories] = []
        self.joined: list[Trajectories] = []

    def go(self, updates: int) -> Run:
        for _ in range(updates):
            number = len(self.batches)
            batch = batch_of(self.policy, LENGTHS[number], seed=number)
            self.batches.append(batch)
            self.past.append(copy.deepcopy(self.policy))
            self.joined.append(self.window.extend(batch, self.behavior.acting()))
            moved(self.policy, batch)
        return self


def test_every_batch_is_in_the_estimate_as_it_was() -> None:
    run = Run(batches=3).go(5)
    for number, joined in enumerate(run.joined):
        used = list(reversed(range(max(0, number - 2), number + 1)))
        assert joined.num_columns == 4 * len(used)
        assert joined.age is not None and joined.age.tolist() == [number - each for each in used for _ in range(4)]
        for place, each in enumerate(used):
            batch, part = run.batches[each], joined.columns(torch.arange(4 * place, 4 * place + 4))
            assert (part.mask.sum(dim=0) == batch.mask.sum(dim=0)).all()
            rows = batch.num_steps
            for name in ("actions", "rewards", "behavior_log_prob", "terminated", "truncated", "starts", "mask"):
                assert torch.equal(getattr(part, name)[:rows], getattr(batch, name)), name
            assert isinstance(part.obs, torch.Tensor) and isinstance(batch.obs, torch.Tensor)
            assert torch.equal(part.obs[: rows + 1], batch.obs)
            assert part.behavior_id.tolist() == [place] * 4
            assert not part.mask[rows:].any()


def test_the_current_batch_alone_is_handed_on_at_first() -> None:
    run = Run(batches=4).go(1)
    assert run.joined[0].num_columns == 4
    assert run.joined[0].log_densities is not None and run.joined[0].log_densities.shape[0] == 1


def test_densities_are_those_of_the_policies_as_they_acted() -> None:
    """Parameters and normaliser moved since; what counts is what the policy of that batch would have said."""
    run = Run(batches=3).go(5)
    joined = run.joined[-1]
    assert joined.log_densities is not None and isinstance(joined.obs, torch.Tensor)
    for place, policy in enumerate(reversed(run.past[-3:])):
        with torch.no_grad():
            said = policy.log_prob(joined.obs[:-1], joined.actions)
        assert torch.allclose(joined.log_densities[place][joined.mask], said[joined.mask], atol=1e-12)
    own = joined.log_densities.gather(0, joined.behavior_id.expand(1, *joined.mask.shape))[0]
    assert torch.allclose(own[joined.mask], joined.behavior_log_prob[joined.mask], atol=1e-12)
    now = run.policy.log_prob(joined.obs[:-1], joined.actions)
    assert not torch.allclose(joined.log_densities[0][joined.mask], now[joined.mask], atol=1e-3)


def test_policies_are_asked_about_new_pairs_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(batches=3).go(3)
    asked: list[int] = []
    original = ByHand.log_prob
    monkeypatch.setattr(ByHand, "log_prob", lambda self, *rest: (asked.append(1), original(self, *rest))[1])
    batch = batch_of(run.policy, LENGTHS[3], seed=3)
    asked.clear()
    run.window.extend(batch, run.behavior.acting())
    # The new policy about the two batches that stay, at once, and their policies about the new batch.
    assert len(asked) == 1 + 2


def test_what_the_policy_that_learns_says_is_known_where_it_acted(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(batches=3).go(2)
    batch = batch_of(run.policy, LENGTHS[2], seed=2)
    joined = run.window.extend(batch, run.behavior.acting())
    with torch.no_grad():
        said = run.policy.log_prob(joined.obs[:-1], joined.actions)
    assert joined.target_log_prob is not None
    assert torch.allclose(joined.target_log_prob[joined.mask], said[joined.mask], atol=1e-12)
    asked: list[int] = []
    original = ByHand.log_prob
    monkeypatch.setattr(ByHand, "log_prob", lambda self, *rest: (asked.append(1), original(self, *rest))[1])
    weighed = Balance().log_weight(run.policy, joined)
    assert not asked
    unknown = Balance().log_weight(run.policy, replace(joined, target_log_prob=None))
    assert asked and torch.allclose(weighed, unknown, atol=1e-12)


@pytest.mark.parametrize("lanes", [None, 2])
def test_the_policy_that_learns_is_asked_where_another_acted(lanes: int | None) -> None:
    policy = policy_of()
    behavior = Temperature(policy=policy, num_lanes=4, lanes=lanes, temperature=2.0)
    window = Window(policy=policy, behavior=behavior, batches=3)
    for number in range(3):
        joined = window.extend(batch_of(policy, LENGTHS[number], seed=number), behavior.acting())
        moved(policy, batch_of(policy, LENGTHS[number], seed=number))
    assert (joined.target_log_prob is None) == (lanes is None)


def test_log_probabilities_alone_leave_no_mixture_and_keep_no_policy() -> None:
    run = Run(batches=3, keep="log_probabilities").go(4)
    assert run.joined[-1].log_densities is None
    assert run.joined[-1].behavior_id.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert all(not entry["copies"] for entry in run.window.state_dict()["kept"])


def test_batches_that_are_hardly_possible_any_more_are_dropped() -> None:
    run = Run(batches=4, min_ess=0.9).go(2)
    with torch.no_grad():
        for parameter in run.policy.parameters():
            parameter.mul_(4)
    run.go(1)
    assert run.joined[-1].num_columns == 4
    assert run.window.metrics() == {"reuse/batches": 1.0, "reuse/columns": 4.0, "reuse/dropped": 2.0}
    assert not run.window.unbiased and Run(batches=4).window.unbiased


def test_a_batch_that_goes_from_the_middle_takes_its_policy_along() -> None:
    run, other = Run(batches=4, min_ess=0.5), Run(batches=4)
    far = copy.deepcopy(run.policy)
    with torch.no_grad():
        for parameter in far.parameters():
            parameter.mul_(400)
    for number, acted in enumerate((run.policy, far, run.policy)):
        batch, behaviors = batch_of(acted, LENGTHS[number], seed=number), Behaviors.single(acted, 4)
        found = run.window.extend(batch, behaviors)
        if acted is run.policy:
            expected = other.window.extend(batch, behaviors)
    assert run.window.metrics() == {"reuse/batches": 2.0, "reuse/columns": 8.0, "reuse/dropped": 1.0}
    assert found.num_steps == max(*LENGTHS[0], *LENGTHS[2]) and expected.age is not None
    # The first batch has seen one update more, and the policy of this window acted in both.
    expected = replace(expected, age=2 * expected.age, target_log_prob=found.target_log_prob)
    for field in fields(Trajectories):
        mine, its = getattr(found, field.name), getattr(expected, field.name)
        assert torch.equal(mine, its) if isinstance(mine, torch.Tensor) else mine == its, field.name


def test_batches_of_the_policy_as_it_is_are_kept() -> None:
    policy = policy_of(normalise=False)
    behavior = Current(policy=policy, num_lanes=4)
    window = Window(policy=policy, behavior=behavior, batches=3, min_ess=1.0 - 1e-9)
    for number in range(3):
        joined = window.extend(batch_of(policy, LENGTHS[number], seed=number), behavior.acting())
    assert joined.num_columns == 12 and window.metrics()["reuse/dropped"] == 0


def test_a_window_goes_on_where_its_state_was_taken() -> None:
    run = Run(batches=3).go(3)
    other = Window(policy=run.policy, behavior=run.behavior, batches=3)
    other.load_state_dict(copy.deepcopy(run.window.state_dict()))
    batch = batch_of(run.policy, LENGTHS[3], seed=3)
    going, resumed = (window.extend(batch, run.behavior.acting()) for window in (run.window, other))
    for field in fields(Trajectories):
        mine, its = getattr(going, field.name), getattr(resumed, field.name)
        assert torch.equal(mine, its) if isinstance(mine, torch.Tensor) else mine == its, field.name


def test_several_policies_of_one_batch_are_told_apart() -> None:
    one, other = policy_of(0), policy_of(1)
    lanes = torch.tensor([0, 1, 1, 0])
    batch = batch_of(one, LENGTHS[0], seed=0)
    found = NoReuse().extend(batch, Behaviors(policies=(one, other), lanes=lanes))
    assert torch.equal(found.behavior_id, lanes) and found.log_densities is not None
    assert isinstance(batch.obs, torch.Tensor)
    for place, policy in enumerate((one, other)):
        with torch.no_grad():
            said = policy.log_prob(batch.obs[:-1], batch.actions)
        assert torch.allclose(found.log_densities[place][batch.mask], said[batch.mask], atol=1e-12)
    assert (found.log_densities[:, ~batch.mask] == 0).all()


def test_one_policy_is_no_mixture() -> None:
    policy = policy_of()
    batch = batch_of(policy, LENGTHS[0], seed=0)
    assert NoReuse().extend(batch, Behaviors.single(policy, 4)) is batch
