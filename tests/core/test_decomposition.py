"""The parts of a variance, against conditional expectations taken by grouping all trajectories of a small process."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Hashable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from pgkit.core.decomposition import (
    Parts,
    nested_parts,
    regress,
    step_parts,
    trajectory_parts,
)
from pgkit.core.processes import CHAIN, GAMBLE, RING, Process
from tests.problems import Enumeration

pytestmark = [pytest.mark.exact, pytest.mark.usefixtures("float64")]

GAMMA = 0.9
PROCESSES = [CHAIN, GAMBLE, replace(RING, horizon=2)]
Key = Callable[[int, int], Hashable]


class Small:
    """All trajectories of a process: probabilities `[K]`, rewards to go and a wrong baseline `[T, K]`, scores."""

    def __init__(self, process: Process) -> None:
        self.problem = Enumeration(process)
        self.chances = self.problem.probabilities().detach()
        batch = self.problem.trajectories
        self.mask, self.states, self.actions = batch.mask, batch.obs, batch.actions
        rewards = torch.where(self.mask, batch.rewards, 0.0)
        self.to_go = rewards.clone()
        for t in reversed(range(len(rewards) - 1)):
            self.to_go[t] += GAMMA * self.to_go[t + 1]
        self.baseline = torch.sin(1.0 + self.states[:-1].double()) + 0.3 * torch.arange(len(rewards))[:, None]
        self.scores = self.problem.scores  # [T, K, P], 0 on padding
        self.terms = torch.where(self.mask, self.to_go - self.baseline, 0.0)[..., None] * self.scores
        self.rows = self.mask.reshape(-1).nonzero().squeeze(-1)

    def flat(self, x: Tensor) -> Tensor:
        """Returns the valid rows of `[T, K, …]`."""
        return x.flatten(0, 1)[self.rows]

    def weights(self) -> Tensor:
        """Returns the probability of every valid row's trajectory."""
        return self.flat(self.chances.expand(self.mask.shape))

    def one_hot(self, key: Key) -> Tensor:
        """Returns features that tell the valid rows of one key from all others."""
        width = self.mask.shape[1]
        keys = [key(int(row) // width, int(row) % width) for row in self.rows]
        order = {each: index for index, each in enumerate(dict.fromkeys(keys))}
        return torch.eye(len(order))[[order[each] for each in keys]]

    def moment(self, t: int, k: int) -> Hashable:
        return t, int(self.states[t, k])

    def choice(self, t: int, k: int) -> Hashable:
        return *self.moment(t, k), int(self.actions[t, k])

    def prefix(self, t: int, k: int, *, until: str) -> Hashable:
        """Returns what has happened when state t is there, or its action is taken."""
        steps = self.problem.paths[k][1]
        past = tuple(steps[:t])
        if t >= len(steps):
            return past
        return (past, steps[t][0]) if until == "state" else (past, steps[t][0], steps[t][1])


def conditional(chances: Tensor, values: Tensor, keys: list[Hashable]) -> Tensor:
    """Returns E[values | key] `[K, …]` by grouping."""
    result = torch.zeros_like(values)
    for key in set(keys):
        members = torch.tensor([each == key for each in keys])
        share = chances[members] / chances[members].sum()
        result[members] = torch.tensordot(share, values[members], dims=1)
    return result


def trace(chances: Tensor, values: Tensor) -> float:
    """Returns tr Cov of vectors `[R, P]` under chances `[R]`, which need not add up to 1."""
    share = chances / chances.sum()
    return float(share @ values.square().sum(dim=1) - (share @ values).square().sum())


@pytest.mark.parametrize("process", PROCESSES)
def test_the_parts_of_one_term_are_those_of_the_law_of_total_variance(process: Process) -> None:
    small = Small(process)
    weights, terms = small.weights(), small.flat(small.terms)
    states, choices = small.one_hot(small.moment), small.one_hot(small.choice)
    outcomes, squares = small.flat(small.to_go - small.baseline), small.flat(small.scores.square().sum(dim=2))
    moments = (states.T * weights) @ terms
    expected = choices @ regress(choices, outcomes, weights)
    found = step_parts(
        outcomes,
        squares,
        known=(expected, expected),
        features=states,
        moments=(moments, moments),
        halves=(weights, weights),
        weights=weights,
    )
    share = weights / weights.sum()

    def given(features: Tensor, values: Tensor) -> Tensor:
        return features @ ((features.T * weights) @ values) / (features @ (features.T @ weights))[:, None]

    by_choice, by_state = given(choices, terms), given(states, terms)
    assert found.after == pytest.approx(float(share @ (terms - by_choice).square().sum(dim=1)), abs=1e-10)
    assert found.action == pytest.approx(float(share @ (by_choice - by_state).square().sum(dim=1)), abs=1e-10)
    assert found.before == pytest.approx(trace(weights, by_state), abs=1e-10)
    assert found.total == pytest.approx(trace(weights, terms), abs=1e-10)
    # The best baseline of the state, and nothing but the action's part, moves when it is subtracted.
    best = given(states, squares[:, None] * outcomes[:, None]) / given(states, squares[:, None])
    lowest = trace(weights, (outcomes[:, None] - best) * small.flat(small.scores))
    assert found.removable == pytest.approx(found.total - lowest, abs=1e-10)


def enumerated(small: Small) -> Parts:
    """Returns the parts of a trajectory's gradient by grouping trajectories by what has happened so far."""
    gradients, steps, columns = small.terms.sum(dim=0), len(small.terms), range(len(small.chances))
    after = action = 0.0
    for t in range(steps):
        keys = {until: [small.prefix(t, k, until=until) for k in columns] for until in ("state", "action")}
        before = conditional(small.chances, gradients, keys["state"])
        chosen = conditional(small.chances, gradients, keys["action"])
        following = conditional(small.chances, gradients, [_seen(small, t, k) for k in columns])
        action += float(small.chances @ (chosen - before).square().sum(dim=1))
        after += float(small.chances @ (following - chosen).square().sum(dim=1))
    at_start = conditional(small.chances, gradients, [small.prefix(0, k, until="state") for k in columns])
    return Parts(after=after, action=action, before=trace(small.chances, at_start), removable=0.0)


def _seen(small: Small, t: int, k: int) -> Hashable:
    """Returns what has happened when the outcome of step t is there."""
    steps = small.problem.paths[k][1]
    return tuple(steps[: t + 1])


def plugged_in(small: Small) -> tuple[Parts, Tensor]:
    """Returns the parts by features that tell every moment from every other, and the trajectories' gradients."""
    weights = small.weights()
    states, choices = small.one_hot(small.moment), small.one_hot(small.choice)
    gradients = small.terms.sum(dim=0)
    wrong = torch.cos(2.0 + small.states[:-1].double())  # a critic that knows nothing
    error = small.flat(small.to_go - wrong)
    value = wrong + unflat(small, states @ regress(states, error, weights))
    advantage = wrong + unflat(small, choices @ regress(choices, error, weights)) - value
    later = small.terms.flip(0).cumsum(0).flip(0)
    fit = regress(states, small.flat(later), weights)  # E[gradient from here on | state]
    table = torch.cat([unflat(small, states), torch.zeros(1, small.mask.shape[1], states.shape[1])])
    ahead = choices @ regress(choices, small.flat(table[1:]), weights)
    moves = unflat(small, ahead - states).sum(dim=0) @ fit
    told = torch.where(small.mask, advantage, 0.0)
    for t in reversed(range(len(told) - 1)):
        told[t] += GAMMA * told[t + 1]
    known = ((told + value - small.baseline)[..., None] * small.scores).sum(dim=0) + moves + table[0] @ fit
    start = table[0] @ fit
    half = small.chances / 2
    found = trajectory_parts(
        gradients,
        known=(known, known),
        starts=(start, start),
        directions=torch.stack(
            [(unflat(small, states[:, j])[..., None] * small.scores).sum(dim=0) for j in range(states.shape[1])]
        ),
        halves=(half, half),
        freedom=1.0,
    )
    return found, gradients


def unflat(small: Small, rows: Tensor) -> Tensor:
    result = torch.zeros(small.mask.numel(), *rows.shape[1:])
    result[small.rows] = rows
    return result.unflatten(0, tuple(small.mask.shape))


@pytest.mark.parametrize("process", PROCESSES)
def test_the_increments_of_the_martingale_add_up_to_the_covariance_of_the_trajectory(process: Process) -> None:
    small = Small(process)
    exact, (found, gradients) = enumerated(small), plugged_in(small)
    assert exact.total == pytest.approx(trace(small.chances, gradients), abs=1e-10)
    for name in ("after", "action", "before", "total"):
        assert getattr(found, name) == pytest.approx(getattr(exact, name), abs=1e-10), name


@pytest.mark.parametrize("process", PROCESSES)
def test_what_is_removable_from_a_trajectory_goes_when_the_best_reference_is_subtracted(process: Process) -> None:
    small = Small(process)
    found, gradients = plugged_in(small)
    # A quadratic's minimum over references of the state, found by its normal equations.
    states = small.one_hot(small.moment)
    directions = torch.stack(
        [(unflat(small, states[:, j])[..., None] * small.scores).sum(dim=0) for j in range(states.shape[1])]
    )
    centred = gradients - small.chances @ gradients
    gram = torch.einsum("k,ikp,jkp->ij", small.chances, directions, directions)
    gain = torch.einsum("k,ikp,kp->i", small.chances, directions, centred)
    removable = float(gain @ torch.linalg.pinv(gram, hermitian=True, rtol=1e-10) @ gain)
    assert found.removable == pytest.approx(removable, abs=1e-10)


def test_fits_from_the_other_half_keep_noise_from_counting_as_knowledge() -> None:
    # What is known about each column is pure noise, independent of what the other half says: nothing is explained.
    generator = torch.Generator().manual_seed(1)
    gradients, count = torch.randn(4000, 3, generator=generator), 4000
    even = (torch.arange(count) % 2 == 0).double()
    own = (gradients + torch.randn(count, 3, generator=generator), torch.randn(count, 3, generator=generator))
    known = tuple(torch.where(even[:, None] > 0, a, b) for a, b in (own, own[::-1]))
    common = {
        "starts": known,
        "directions": torch.zeros(1, count, 3),
        "halves": (even, 1 - even),
        "freedom": count - 1.0,
    }
    found = trajectory_parts(gradients, known=known, **common)  # type: ignore[arg-type]  # named pairs
    assert abs(found.total - found.after) < 0.2 * found.total
    twin = trajectory_parts(gradients, known=(known[0], known[0]), **common)  # type: ignore[arg-type]
    assert abs(twin.total - twin.after) > 0.2 * twin.total


def test_knowing_half_of_every_gradient_explains_three_quarters_of_the_variance() -> None:
    gradients = torch.randn(10, 3, generator=torch.Generator().manual_seed(2))
    half, zero = torch.full((10,), 0.5), torch.zeros(10, 3)
    found = trajectory_parts(
        gradients,
        known=(gradients / 2, gradients / 2),
        starts=(zero, zero),
        directions=zero[None],
        halves=(half, half),
        freedom=9.0,
    )
    assert found.after == pytest.approx(found.total / 4, abs=1e-10)


def test_continuations_have_parts_without_bias() -> None:
    # All samples of two states, two actions and two outcomes, each drawn from two, averaged.
    generator = torch.Generator().manual_seed(3)
    world = torch.randn(2, 2, 2, generator=generator)  # [state, action, outcome], all equally likely
    scores = torch.randn(2, 2, 3, generator=generator)
    terms = world[..., None] * scores[:, :, None]  # [2, 2, 2, P]
    by_action, by_state = terms.mean(dim=2), terms.mean(dim=(1, 2))
    truth = {
        "after": float((terms - by_action[:, :, None]).square().sum(-1).mean()),
        "action": float((by_action - by_state[:, None]).square().sum(-1).mean()),
        "before": float((by_state - by_state.mean(dim=0)).square().sum(-1).mean()),
    }
    sums = dict.fromkeys(truth, 0.0)
    pairs = list(itertools.product(range(2), repeat=2))
    # An action's two outcomes are drawn anew in each of four cells: 4 · 4 · 4 · 4 of them.
    count = 0
    for states in pairs:
        for actions in itertools.product(pairs, repeat=2):
            for picks in itertools.product(pairs, repeat=4):
                outcomes, seen = torch.zeros(2, 2, 2), torch.zeros(2, 2, 3)
                for i, state in enumerate(states):
                    for j, action in enumerate(actions[i]):
                        outcomes[i, j] = world[state, action, list(picks[2 * i + j])]
                        seen[i, j] = scores[state, action]
                parts = nested_parts(outcomes, seen)
                count += 1
                for name in sums:
                    sums[name] += getattr(parts, name)
    for name, value in truth.items():
        assert sums[name] / count == pytest.approx(value, abs=1e-10), name


def test_removable_by_continuations_is_what_the_best_reference_takes_away_at_every_state() -> None:
    scores = torch.tensor([[[1.0, 0.0], [-1.0, 0.0]], [[0.0, 2.0], [0.0, -2.0]]])
    outcomes = torch.full((2, 2, 2), 3.0)
    assert nested_parts(outcomes, scores).removable == pytest.approx((9 * 1 + 9 * 4) / 2, abs=1e-10)
    assert nested_parts(outcomes * torch.tensor([1.0, -1.0])[None, :, None], scores).removable < 0


def test_a_fit_is_exact_where_features_say_it_all_even_twice() -> None:
    features = torch.eye(3)[[0, 1, 2, 0, 1]]
    targets = torch.tensor([1.0, 2.0, 3.0, 3.0, 2.0])
    twice = torch.cat([features, torch.ones(5, 1)], dim=1)
    found = twice @ regress(twice, targets, torch.tensor([3.0, 1.0, 1.0, 1.0, 1.0]))
    torch.testing.assert_close(found, torch.tensor([1.5, 2.0, 3.0, 1.5, 2.0]), rtol=0, atol=1e-10)
