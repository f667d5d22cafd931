"""The bound by its definition, its gradient by differences and in closed form, and steps that never lower it."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from pgkit.core.lower_bound import per_decision_bound, trajectory_bound
from pgkit.core.processes import BANDIT
from pgkit.errors import UsageError
from pgkit.updates.pois import POIS
from tests.problems import Enumeration
from tests.updates.batches import chain, drawn, objective_of, parameters_of, put, sgd

pytestmark = [pytest.mark.exact, pytest.mark.usefixtures("float64")]

GAMMA = 0.9
FORMS = [{"form": form, "self_normalise": yes} for form in ("trajectory", "per_decision") for yes in (False, True)]


def update_of(problem: Enumeration, **options: Any) -> POIS:
    return POIS(optimizer=sgd(problem, options.pop("lr", 0.5)), gamma=GAMMA, **options)


def moved(problem: Enumeration, size: float = 0.4) -> None:
    """Takes the policy away from the one that sampled."""
    generator = torch.Generator().manual_seed(5)
    here = parameters_of(problem)
    put(problem, here + size * torch.randn(here.shape, generator=generator))


@pytest.mark.parametrize("self_normalise", [False, True])
def test_the_bounds_are_their_definitions(self_normalise: bool) -> None:
    generator = np.random.default_rng(0)
    log_ratio, rewards = generator.normal(size=(2, 4, 6))
    log_weight, delta = log_ratio.cumsum(axis=0), 0.3
    estimate = penalty = 0.0
    for t in range(4):
        weight = np.exp(log_weight[t])
        weight = weight / weight.mean() if self_normalise else weight
        estimate += (weight * rewards[t]).mean()
        second = max(1.0, (weight**2).mean())
        penalty += abs(rewards[t]).max() * math.sqrt((1 - delta) / delta * second / 6)
    tensors = torch.from_numpy(log_weight), torch.from_numpy(rewards)
    found = per_decision_bound(*tensors, delta=delta, self_normalise=self_normalise)
    assert float(found.estimate) == pytest.approx(estimate, abs=1e-12)
    assert float(found.penalty) == pytest.approx(penalty, abs=1e-12)
    assert float(found.value) == pytest.approx(estimate - penalty, abs=1e-12)
    whole = trajectory_bound(tensors[0][-1], tensors[1][-1], delta=delta, self_normalise=self_normalise)
    only = per_decision_bound(tensors[0][-1:], tensors[1][-1:], delta=delta, self_normalise=self_normalise)
    assert float(whole.value) == pytest.approx(float(only.value), abs=1e-12)
    given = trajectory_bound(tensors[0][-1], tensors[1][-1], delta=delta, self_normalise=self_normalise, largest=7.0)
    ratio = 7.0 / float(tensors[1][-1].abs().max())
    assert float(given.penalty) == pytest.approx(ratio * float(whole.penalty))


@pytest.mark.parametrize("options", FORMS, ids=str)
def test_its_gradient_is_that_of_differences(options: dict[str, Any]) -> None:
    problem = chain()
    objective, update = objective_of(problem, drawn(problem, 30), gamma=GAMMA), update_of(problem, **options)
    moved(problem)
    start = parameters_of(problem)
    bound = update.bound(objective)
    assert float(bound.renyi.detach()) > 1.01
    found = problem.gradient(bound.value)
    for index in range(len(start)):
        values = []
        for sign in (1, -1):
            point = start.clone()
            point[index] += sign * 1e-5
            put(problem, point)
            values.append(float(update.bound(objective).value.detach()))
        assert float(found[index]) == pytest.approx((values[0] - values[1]) / 2e-5, rel=1e-6, abs=1e-8)


@pytest.mark.parametrize("options", FORMS, ids=str)
def test_where_it_begins_the_estimate_is_the_mean_discounted_return(options: dict[str, Any]) -> None:
    problem = chain()
    columns = drawn(problem, 30)
    bound = update_of(problem, **options).bound(objective_of(problem, columns, gamma=1.0))
    assert float(bound.estimate.detach()) == pytest.approx(float(problem.returns(GAMMA)[columns].mean()), abs=1e-12)
    assert float(bound.renyi.detach()) == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize("options", FORMS, ids=str)
def test_on_a_bandit_it_is_the_closed_form(options: dict[str, Any]) -> None:
    problem = Enumeration(BANDIT)
    arms = problem.process.num_actions
    behavior = torch.full((1, arms), 1.0 / arms)
    with torch.no_grad():
        problem.policy.network[0].weight.zero_()
        problem.policy.network[0].bias.zero_()
    # A batch in which every arm has its share exactly, so that sums over it are expectations.
    objective = objective_of(problem, torch.arange(len(problem.paths)), gamma=GAMMA)
    uniform = torch.full_like(objective.trajectories.rewards, -math.log(arms))
    objective.trajectories = replace(objective.trajectories, behavior_log_prob=uniform)
    update = update_of(problem, delta=0.2, **options)
    moved(problem)
    assert len(problem.paths) == arms, "one outcome an arm"
    chances = problem.table()[0]
    assert [steps[0][1] for _, steps in problem.paths] == list(range(arms))
    rewards = torch.tensor([steps[0][2] for _, steps in problem.paths])
    renyi = (chances.square() / behavior[0]).sum()
    expected = (chances * rewards).sum() - rewards.abs().max() * (0.8 / (0.2 * arms) * renyi).sqrt()
    found = update.bound(objective)
    torch.testing.assert_close(found.value, expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(problem.gradient(found.value), problem.gradient(expected), rtol=0, atol=1e-12)


@pytest.mark.parametrize("options", FORMS, ids=str)
@pytest.mark.parametrize("lr", [1e-3, 0.5, 500.0])
def test_no_step_lowers_the_bound(options: dict[str, Any], lr: float) -> None:
    problem = chain()
    objective, update = objective_of(problem, drawn(problem, 30), gamma=GAMMA), update_of(problem, lr=lr, **options)
    start = float(update.bound(objective).value.detach())
    metrics = update.step(objective, progress=0.0)
    reached = float(update.bound(objective).value.detach())
    assert reached == pytest.approx(metrics["update/bound"])
    assert metrics["update/bound_gain"] == pytest.approx(reached - start) and reached > start
    assert 1 <= metrics["update/iterations"] <= 10
    assert 0 < metrics["update/effective_share"] <= 1 <= metrics["update/renyi"]
    assert tuple(metrics) == update.tags


def test_where_nothing_is_better_it_stays() -> None:
    problem = chain()
    objective, update = (
        objective_of(problem, drawn(problem, 30), gamma=GAMMA),
        update_of(problem, lr=1e9, line_search=2),
    )
    before = parameters_of(problem)
    metrics = update.step(objective, progress=0.0)
    assert metrics["update/line_search_failed"] == 1.0 and metrics["update/bound_gain"] == 0.0
    assert torch.equal(parameters_of(problem), before)


def test_a_smaller_risk_means_a_shorter_way() -> None:
    shares = []
    for delta in (0.05, 0.4, 0.99):
        problem = chain()
        objective, update = objective_of(problem, drawn(problem, 30), gamma=GAMMA), update_of(problem, delta=delta)
        shares.append(update.step(objective, progress=0.0)["update/effective_share"])
    assert shares[0] > shares[1] > shares[2]


def test_slabs_are_refused() -> None:
    problem = chain()
    objective, update = objective_of(problem, drawn(problem, 30), gamma=GAMMA), update_of(problem)
    objective.factors = replace(objective.factors, time=None)
    with pytest.raises(UsageError, match=r"^collect: slabs of steps, expected collect=episodes"):
        update.step(objective, progress=0.0)
