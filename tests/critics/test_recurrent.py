"""A critic with a memory is a loop over the rows of episodes, whatever slabs they are cut into."""

from __future__ import annotations

import copy
import itertools
import math
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from gymnasium import spaces
from torch import Tensor, nn

from pgkit.core.unrolling import values_of
from pgkit.critics.recurrent import RecurrentValueCritic
from pgkit.critics.value import ValueCritic
from pgkit.policies.mlp import MLPPolicy
from pgkit.types import Trajectories
from tests.remembering import ACTIONS, KINDS, SEEN, Collect, collected

pytestmark = [pytest.mark.exact, pytest.mark.usefixtures("float64")]

SMALL: dict[str, Any] = {"hidden_sizes": [5], "memory_size": 3}


def critic_of(kind: str = "gru", space: spaces.Space[Any] = SEEN, **options: Any) -> RecurrentValueCritic:
    """Returns a critic whose parameters are all of the order of 1, so that what it remembers matters."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        critic = RecurrentValueCritic(
            observation_space=space, generator=torch.Generator().manual_seed(0), memory=kind,  # type: ignore[arg-type]  # one of them
            **{**SMALL, **options},
        )  # fmt: skip
        with torch.no_grad():
            for parameter in critic.network.parameters():
                parameter.copy_(0.8 * torch.randn(parameter.shape))
    critic.network.absorb(torch.tensor([3.0, 7.0]))
    return critic


def batches_of(collect: Collect, *, batches: int = 3, steps: int = 17) -> list[Trajectories]:
    policy = MLPPolicy(observation_space=SEEN, action_space=ACTIONS, hidden_sizes=[4])
    return collected(policy.actor(), policy.law, collect=collect, batches=batches, steps=steps)


def by_a_loop(critic: RecurrentValueCritic, batch: Trajectories, state: Tensor | None) -> tuple[Tensor, Tensor]:
    """Returns values `[T+1, N]` and the state before the last row, by torch's cell, one row of a column at a time."""
    network = critic._layers
    size, is_gru = network.memory.size, network.memory.num_parts == 1
    reads = network.gates[-1]
    cell: Any = (nn.GRUCell if is_gru else nn.LSTMCell)(reads.in_features, size)
    named = {"weight_ih": reads.weight, "bias_ih": reads.bias} | {
        f"{name}_hh": each for name, each in network.memory.hidden.named_parameters()
    }
    with torch.no_grad():
        for name, parameter in named.items():
            getattr(cell, name).copy_(parameter)
        values, states = [], []
        for n in range(batch.num_columns):
            parts = torch.zeros(network.memory.state_size) if state is None else state[n]
            column = []
            for t in range(batch.num_steps + 1):
                if t < batch.num_steps and batch.starts[t, n]:
                    parts = torch.zeros_like(parts)
                before = parts
                seen = network.gates[:-1](critic.network.encoder(batch.obs[t, n]))  # type: ignore[index]  # one tensor
                split = parts.split(size)
                parts = cell(seen, split[0]) if is_gru else torch.cat(cell(seen, split))
                column.append(7.0 - 2.0 + 2.0 * network.head(parts[:size]).squeeze())
            values.append(torch.stack(column))
            states.append(before)
    return torch.stack(values, dim=1), torch.stack(states)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("collect", ["steps", "episodes"])
def test_values_are_those_of_a_loop_and_slabs_go_on_where_the_one_before_ended(kind: str, collect: Collect) -> None:
    critic, state = critic_of(kind), None
    went_on = False
    for batch in batches_of(collect):
        expected, after = by_a_loop(critic, batch, state)
        found = values_of(critic, batch)
        assert found is not None and not found.requires_grad
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)
        assert torch.equal(values_of(critic, batch), found)  # type: ignore[arg-type]  # reading changes nothing
        went_on |= state is not None and bool((~batch.starts[0]).any())
        # Where nothing counts nothing is learnt, and the memory goes on.
        assert critic.update(batch, found[:-1], torch.zeros_like(batch.mask)) == {"critic/loss": None}
        if collect == "steps":
            state = after
            assert critic.state is not None
            torch.testing.assert_close(critic.state, state, rtol=0, atol=1e-10)
        else:
            assert critic.state is None
    assert went_on == (collect == "steps")


@pytest.mark.parametrize("kind", KINDS)
def test_one_slab_is_worth_what_several_say_and_bootstraps_are_the_values_of_the_next(kind: str) -> None:
    first, *rest = batches = batches_of("steps", steps=17)
    whole = replace(
        first,
        obs=torch.cat([first.obs, *(each.obs[1:] for each in rest)]),  # type: ignore[index, list-item]  # tensors
        **{name: torch.cat([getattr(each, name) for each in batches]) for name in ("actions", "rewards", "mask")},
        **{name: torch.cat([getattr(each, name) for each in batches]) for name in ("terminated", "truncated")},
        **{name: torch.cat([getattr(each, name) for each in batches]) for name in ("behavior_log_prob", "starts")},
    )
    assert int(whole.starts[1:].sum()) > 2
    expected = values_of(critic_of(kind), whole)
    assert expected is not None
    critic, forgetful = critic_of(kind), critic_of(kind)
    forgot = 0.0
    for number, batch in enumerate(batches):
        place = slice(17 * number, 17 * (number + 1))
        found, begun = values_of(critic, batch), values_of(forgetful, batch)
        assert found is not None and begun is not None
        torch.testing.assert_close(found[:-1], expected[place], rtol=0, atol=1e-10)
        forgot = max(forgot, float((begun[:-1] - expected[place]).abs().max()))
        goes_on = ~whole.starts[17 * (number + 1)] if number < 2 else torch.ones_like(whole.starts[0])
        torch.testing.assert_close(found[-1][goes_on], expected[place.stop][goes_on], rtol=0, atol=1e-10)
        critic.update(batch, batch.rewards, torch.zeros_like(batch.mask))
    # Its twin, which begins every slab with an empty memory, says something else.
    assert forgot > 1e-2


def test_after_learning_the_memory_is_that_of_the_parameters_that_read_the_next_slab() -> None:
    critic = critic_of(steps=5, learning_rate=1e-2, normalise_observations=True)
    first, second, _ = batches_of("steps")
    critic.update(first, first.rewards, first.mask)
    assert critic.state is not None
    before = critic.state.clone()
    network = copy.deepcopy(critic)
    critic.update(second, second.rewards.cumsum(dim=0), second.mask)
    obs: Any = second.obs

    def after(with_: RecurrentValueCritic, state: Tensor) -> Tensor:
        with torch.no_grad():
            return with_._layers(with_.network.encoder(obs[:-1]), second.starts, state)[1]

    torch.testing.assert_close(critic.state, after(critic, before), rtol=0, atol=1e-12)
    assert (critic.state - after(network, before)).abs().max() > 1e-3


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("collect", ["steps", "episodes"])
@pytest.mark.parametrize("weighted", [False, True])
def test_minibatches_of_columns_make_up_the_mean_over_rows(kind: str, collect: Collect, weighted: bool) -> None:
    batch = batches_of(collect)[0]
    mask = batch.mask.clone()
    mask[3:5, 0] = False
    mask[:, 1] = False
    targets = torch.where(mask, batch.rewards.cumsum(dim=0), 1e9)
    weight = 0.5 + torch.rand(mask.shape, generator=torch.Generator().manual_seed(0)) if weighted else None

    def loss(minibatch_size: int, seed: int) -> float:
        critic = critic_of(kind, steps=1, minibatch_size=minibatch_size)
        critic.generator.manual_seed(seed)
        found = critic.update(batch, targets, mask, weight)["critic/loss"]
        assert found is not None
        return float(found)

    critic = critic_of(kind)
    critic.network.absorb(targets[mask])
    values = values_of(critic, batch)
    assert values is not None
    counts = torch.ones_like(targets) if weight is None else weight / weight[mask].mean()
    exact = float((counts * (values[:-1] - targets).square())[mask].mean())
    assert loss(10_000, 0) == pytest.approx(exact, rel=1e-10)
    # One column a step: as many different losses as there are columns to be learnt from, whose mean is that of all.
    each = {round(loss(1, seed), 9) for seed in range(40)}
    assert len(each) == int(mask.any(dim=0).sum()) == batch.num_columns - 1
    assert math.fsum(each) / len(each) == pytest.approx(exact, rel=1e-7)


def test_a_clip_bounds_how_far_one_batch_pulls() -> None:
    batch = batches_of("steps")[0]
    values = values_of(critic_of(), batch)
    assert values is not None
    goal = values[:-1] + 4.0
    moved = []
    for clip in (None, 0.1):
        critic = critic_of(steps=200, clip=clip)
        critic.update(batch, goal, batch.mask)
        moved.append((values_of(critic, batch) - values)[:-1][batch.mask].mean() / critic.network.spread)  # type: ignore[operator]  # there are values
    # In the unit of the network it is bounded, about: the gradient ends at the bound, Adam's pace does not.
    assert moved[0] > 0.5 and 0.05 < moved[1] < 0.3


def test_a_restored_critic_goes_on_bit_for_bit() -> None:
    first, second, third = batches_of("steps")
    one = critic_of(normalise_observations=True, minibatch_size=20)
    one.update(first, first.rewards, first.mask)
    other = critic_of(normalise_observations=True, minibatch_size=20)
    other.generator.manual_seed(99)
    other.load_state_dict(copy.deepcopy(one.state_dict()))
    for each in (one, other):
        each.update(second, second.rewards + 1, second.mask)
    assert torch.equal(values_of(one, third), values_of(other, third))  # type: ignore[arg-type]  # there are values


# A task whose state nobody sees: it is 1 or 0 with equal chances, turns over at every step with chance TURNS, pays what
# it is, and shows it rightly with chance SHOWN. Nothing an agent does matters, so that values are expectations alone.
LENGTH, TURNS, SHOWN, DISCOUNT = 4, 0.15, 0.75, 0.9
PAIR = spaces.Discrete(2)


@dataclass(frozen=True, kw_only=True)
class Enumerated:
    """Every course of observations `[T, N]`, its chance `[N]`, the mean reward of each step given all of it `[T, N]`,
    and the value of each history: V(o_0 … o_t) `[T, N]`."""

    seen: Tensor
    chance: Tensor
    rewards: Tensor
    values: Tensor


def enumerated() -> Enumerated:
    """Returns all of it from the definition: sums over every course of the state and of what is seen."""
    courses = list(itertools.product((0, 1), repeat=LENGTH))

    def chance(states: tuple[int, ...], seen: tuple[int, ...]) -> float:
        moves = math.prod(TURNS if a != b else 1 - TURNS for a, b in itertools.pairwise(states))
        return 0.5 * moves * math.prod(SHOWN if a == b else 1 - SHOWN for a, b in zip(states, seen, strict=True))

    joint = torch.tensor([[chance(states, seen) for seen in courses] for states in courses])
    states, total = torch.tensor(courses, dtype=joint.dtype), joint.sum(dim=0)
    rewards = (states.T @ joint) / total
    # Backwards over histories: what a history pays next is a mean over all courses that begin with it.
    values, following = torch.zeros(LENGTH, len(courses)), torch.zeros(len(courses))
    for t in reversed(range(LENGTH)):
        outcome = rewards[t] + DISCOUNT * following
        for n, seen in enumerate(courses):
            alike = torch.tensor([other[: t + 1] == seen[: t + 1] for other in courses])
            values[t, n] = (total * outcome)[alike].sum() / total[alike].sum()
        following = values[t]
    return Enumerated(seen=torch.tensor(courses).T, chance=total, rewards=rewards, values=values)


def episodes_of(task: Enumerated) -> Trajectories:
    """Returns every course as one whole episode."""
    zeros = torch.zeros_like(task.rewards)
    starts, terminated = zeros.bool(), zeros.bool()
    starts[0] = terminated[-1] = True
    return Trajectories(
        obs=torch.cat([task.seen, task.seen[-1:]]), actions=zeros.long(), rewards=task.rewards,
        behavior_log_prob=zeros, behavior_id=zeros[0].long(), terminated=terminated, truncated=zeros.bool(),
        starts=starts, mask=~zeros.bool(), lane=torch.arange(zeros.shape[1]), whole_episodes=True,
    )  # fmt: skip


def test_values_of_histories_are_those_of_a_filter() -> None:
    task = enumerated()
    for n, seen in enumerate(task.seen.T.tolist()):
        belief, beliefs = 0.5, []
        for shown in seen:
            right = SHOWN if shown else 1 - SHOWN
            belief = belief * right / (belief * right + (1 - belief) * (1 - right))
            beliefs.append(belief)
            belief = belief * (1 - TURNS) + (1 - belief) * TURNS
        for t, now in enumerate(beliefs):
            # The chance of 1 after k more steps is a half and what is left of the difference to it.
            ahead = [DISCOUNT**k * (0.5 + (now - 0.5) * (1 - 2 * TURNS) ** k) for k in range(LENGTH - t)]
            assert float(task.values[t, n]) == pytest.approx(math.fsum(ahead), abs=1e-12)


@pytest.mark.parametrize(("kind", "targets"), [("gru", "returns"), ("gru", "bootstrapped"), ("lstm", "bootstrapped")])
def test_a_memory_learns_values_of_histories_and_nothing_else_can(kind: str, targets: str) -> None:
    task = enumerated()
    batch = episodes_of(task)
    weight = task.chance.expand_as(task.rewards)

    def mean(x: Tensor) -> float:
        return float((weight * x).sum() / weight.sum())

    # What one observation says: the best values without a memory are means over all histories that end in it.
    best = torch.empty_like(task.values)
    for shown in range(2):
        here = task.seen == shown
        best[here] = (weight * task.values)[here].sum() / weight[here].sum()
    floor = mean((best - task.values).square())
    assert floor > 0.15
    shared: dict[str, Any] = {"observation_space": PAIR, "steps": 50, "minibatch_size": 10_000, "learning_rate": 1e-2}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        remembers = RecurrentValueCritic(
            generator=torch.Generator(), memory=kind, memory_size=16, hidden_sizes=[], **shared  # type: ignore[arg-type]  # one of them
        )  # fmt: skip
        forgets = ValueCritic(generator=torch.Generator(), hidden_sizes=[16], **shared)
    errors = []
    for critic in (remembers, forgets):
        for turn in range(30):
            for group in critic.optimizer.param_groups:
                group["lr"] = 1e-2 * 0.88**turn
            values = values_of(critic, batch)
            assert values is not None
            values[-1] = 0
            following, goal = torch.zeros_like(values[0]), torch.empty_like(task.rewards)
            for t in reversed(range(LENGTH)):
                goal[t] = task.rewards[t] + DISCOUNT * (values[t + 1] if targets == "bootstrapped" else following)
                following = goal[t]
            critic.update(batch, goal, batch.mask, weight)
        values = values_of(critic, batch)
        assert values is not None
        errors.append(values[:-1] - task.values)
    assert errors[0].abs().max() < 0.03
    # The twin without a memory is at its best as far off as it must be.
    assert mean(errors[1].square()) > floor - 1e-12
    assert mean(errors[0].square()) < 1e-3 * floor
