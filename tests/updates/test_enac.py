"""The regression of returns on score sums is the natural gradient."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from pgkit.core.natural import regress_on_scores, solve_dense
from pgkit.core.processes import CHAIN
from pgkit.errors import RunFault, UsageError
from pgkit.updates.enac import EpisodicNatural
from tests.problems import Enumeration
from tests.updates.batches import chain, drawn, objective_of, parameters_of, sgd

pytestmark = [pytest.mark.exact, pytest.mark.usefixtures("float64")]


def update_of(problem: Enumeration, **options: Any) -> EpisodicNatural:
    return EpisodicNatural(optimizer=sgd(problem), **{"gamma": 0.9, "max_kl": 1e-3, "damping": 0.1, **options})


def sums_of(problem: Enumeration, columns: Tensor) -> Tensor:
    return problem.scores.sum(dim=0)[columns]


@pytest.mark.parametrize("weighted", [False, True])
def test_the_regression_solves_its_normal_equations(weighted: bool) -> None:
    """Against the dense system of slopes and intercept, without centring anything."""
    generator = torch.Generator().manual_seed(0)
    for number, size in ((12, 5), (4, 9)):
        scores, returns = torch.randn(number, size, generator=generator) + 0.3, torch.randn(number, generator=generator)
        weights = torch.rand(number, generator=generator) if weighted else None
        shares = torch.full((number,), 1 / number) if weights is None else weights / weights.sum()
        design = torch.cat([scores, torch.ones(number, 1)], dim=1)
        penalty = torch.diag(torch.cat([torch.full((size,), 0.2), torch.zeros(1)]))
        dense = torch.linalg.solve(design.T @ (shares[:, None] * design) + penalty, design.T @ (shares * returns))
        found = regress_on_scores(scores, returns, damping=0.2, weights=weights)
        torch.testing.assert_close(found.slope, dense[:-1], rtol=0, atol=1e-10)
        assert found.intercept == pytest.approx(float(dense[-1]), abs=1e-10)
        left = shares @ (returns - design @ dense).square()
        assert found.explained == pytest.approx(1 - float(left / (shares @ (returns - shares @ returns).square())))


def test_over_all_trajectories_it_is_the_natural_gradient_of_the_performance() -> None:
    """Weighted by their probabilities, episodes are the expectation itself: w = (F + λI)⁻¹ ∇J."""
    problem = Enumeration(CHAIN, seed=2)
    chances = problem.probabilities().detach()
    scores = sums_of(problem, torch.arange(len(chances)))
    fisher = scores.T @ (chances[:, None] * scores)
    natural = solve_dense(fisher, problem.exact_gradient(0.9), damping=1e-3)
    found = regress_on_scores(scores, problem.returns(0.9), damping=1e-3, weights=chances)
    torch.testing.assert_close(found.slope, natural, rtol=0, atol=1e-10)
    # Scores are 0 on average, so that the intercept is the mean return.
    assert found.intercept == pytest.approx(float(chances @ problem.returns(0.9)), abs=1e-10)


@pytest.mark.parametrize("size", [3, 40])
def test_a_step_is_along_the_dense_solve(size: int) -> None:
    problem = chain(seed=2)
    columns = drawn(problem, size)
    objective = objective_of(problem, columns)
    scores, returns = sums_of(problem, columns), problem.returns(0.9)[columns]
    centred = scores - scores.mean(dim=0)
    fisher, gradient = centred.T @ centred / size, centred.T @ (returns - returns.mean()) / size
    damping = 0.1 * float(fisher.diagonal().sum()) + 1e-6
    expected = solve_dense(fisher, gradient, damping=damping)
    before = parameters_of(problem)
    update = update_of(problem)
    metrics = update.step(objective, progress=0.0)
    step = parameters_of(problem) - before
    torch.testing.assert_close(step / step.norm(), expected / expected.norm(), rtol=0, atol=1e-8)
    assert metrics["update/damping"] == pytest.approx(damping, abs=1e-12)
    assert metrics["gradient/norm"] == pytest.approx(float(gradient.norm()), abs=1e-12)
    rows = len(objective.valid) / size
    assert metrics["update/curvature"] == pytest.approx(float(expected @ fisher @ expected) / rows, rel=1e-8)
    assert set(metrics) == set(update.tags)


@pytest.mark.parametrize("max_kl", [1e-8, 1e-3, 0.5])
@pytest.mark.parametrize("seed", range(3))
def test_no_step_goes_beyond_the_bound(max_kl: float, seed: int) -> None:
    problem = chain(seed=seed)
    objective = objective_of(problem, drawn(problem, 12, seed))
    before = objective.laws()
    metrics = update_of(problem, max_kl=max_kl).step(objective, progress=0.0)
    measured = float(objective.divergence(before).sum()) / len(objective.valid)
    assert metrics["update/kl"] == pytest.approx(measured, abs=1e-15) and 0 < measured <= max_kl


def test_weights_count_as_repetition_does() -> None:
    moved = []
    for columns, weights in (([0, 5, 5, 9, 14], [1, 1, 1, 1, 1]), ([0, 5, 9, 14], [1, 2, 1, 1])):
        problem = chain(seed=2)
        objective = objective_of(problem, torch.tensor(columns))
        log_weight = torch.tensor(weights, dtype=torch.float64).log().expand_as(objective.factors.log_weight)
        objective.factors = replace(objective.factors, log_weight=log_weight)
        update = update_of(problem, max_kl=1e-6)
        before = parameters_of(problem)
        update.step(objective, progress=0.0)
        step = parameters_of(problem) - before
        moved.append(step / step.norm())
    torch.testing.assert_close(*moved, rtol=0, atol=1e-8)


def test_equal_returns_and_slabs_and_numbers_that_are_none() -> None:
    problem = chain()
    objective = objective_of(problem, drawn(problem, 10))
    before = parameters_of(problem)
    factors = objective.factors
    objective.factors = replace(factors, rewards=torch.zeros_like(factors.signal))
    metrics = update_of(problem).step(objective, progress=0.0)
    assert torch.equal(parameters_of(problem), before) and metrics["update/kl"] == 0
    objective.factors = replace(factors, rewards=torch.full_like(factors.signal, torch.nan))
    with pytest.raises(RunFault, match=r"^gradient/norm: nan"):
        update_of(problem).step(objective, progress=0.0)
    assert torch.equal(parameters_of(problem), before)
    objective.factors = replace(factors, time=None)
    with pytest.raises(UsageError, match=r"^collect: slabs"):
        update_of(problem).step(objective, progress=0.0)


def test_the_limit_follows_its_schedule() -> None:
    lengths = []
    for progress in (0.0, 0.75, 1.0):
        problem = chain(seed=2)
        update = update_of(problem, schedule="linear", max_kl=1e-6)
        lengths.append(update.step(objective_of(problem, drawn(problem, 20)), progress=progress)["update/kl"])
    assert lengths[1] == pytest.approx(0.25 * lengths[0], rel=0.1) and lengths[2] == 0
