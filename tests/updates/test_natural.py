"""Natural steps against dense solves, and trust regions that hold."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from pgkit.core.natural import solve_dense
from pgkit.core.processes import CHAIN
from pgkit.estimators.score_function import ScoreFunction
from pgkit.objectives import Objective
from pgkit.returns.discounted import RewardToGo
from pgkit.rl.objective import PolicyObjective
from pgkit.updates.natural import NaturalStep, thinned
from pgkit.updates.trust_region import TrustRegion
from tests.problems import Enumeration, columns_of

pytestmark = [pytest.mark.equivalence, pytest.mark.usefixtures("float64")]

ENTROPY = 0.02


def objective_of(problem: Enumeration, *, scale: float = 1.0, columns: Tensor | None = None) -> PolicyObjective:
    columns = torch.arange(problem.trajectories.num_columns) if columns is None else columns
    factors = columns_of(problem.factors(RewardToGo(gamma=1.0)), columns)
    coefficients = scale * ScoreFunction(gamma=1.0).coefficients(factors, torch.ones_like(factors.signal))
    return PolicyObjective(
        policy=problem.policy,
        trajectories=problem.trajectories.columns(columns),
        factors=factors,
        coefficients=coefficients,
        average="steps",
        entropy_coefficient=ENTROPY,
    )


def position(problem: Enumeration) -> Tensor:
    return torch.cat([parameter.detach().reshape(-1) for parameter in problem.policy.parameters()])


def stepped(update: Any, problem: Enumeration, objective: Objective) -> tuple[Tensor, dict[str, Any]]:
    """Returns the step `[P]` and what was reported."""
    before = position(problem)
    metrics = update.step(objective, progress=0.0)
    assert set(metrics) == set(update.tags)
    return position(problem) - before, metrics


def optimizer_of(problem: Enumeration) -> torch.optim.Optimizer:
    return torch.optim.SGD(problem.policy.parameters(), lr=1.0)


def natural(problem: Enumeration, **options: Any) -> NaturalStep:
    settings = {"max_kl": 1e-3, "damping": 0.05, "max_rows": 10_000, "entropy_coefficient": ENTROPY, **options}
    return NaturalStep(optimizer=optimizer_of(problem), average="steps", **settings)


def gradient_of(problem: Enumeration, objective: PolicyObjective) -> Tensor:
    return problem.gradient(objective().value)


def exact_fisher(problem: Enumeration, objective: PolicyObjective) -> Tensor:
    """Returns Σ_a π(a|s) s sᵀ averaged over the rows, from the definition."""
    rows = problem.trajectories.rows(objective.valid)
    table = problem.table()
    total = torch.zeros(len(position(problem)), len(position(problem)))
    for state in rows.obs.tolist():  # type: ignore[union-attr]  # one number a state
        for action in range(problem.process.num_actions):
            score = problem.gradient(table[state, action].log())
            total += float(table[state, action].detach()) * torch.outer(score, score)
    return total / len(rows.index)


def empirical_fisher(problem: Enumeration, objective: PolicyObjective) -> Tensor:
    scores = problem.scores.flatten(0, 1)[objective.valid]
    return scores.T @ scores / len(scores)


@pytest.mark.parametrize("solve", ["samples", "conjugate_gradient"])
def test_the_direction_is_that_of_a_dense_solve(solve: Any) -> None:
    problem = Enumeration(CHAIN, seed=2)
    objective = objective_of(problem)
    gradient = gradient_of(problem, objective)
    empirical = empirical_fisher(problem, objective)
    fisher = empirical if solve == "samples" else exact_fisher(problem, objective)
    damping = 0.05 * float(empirical.diagonal().sum()) + 1e-6
    step, metrics = stepped(natural(problem, solve=solve, iterations=100), problem, objective)
    expected = solve_dense(fisher, gradient, damping=damping)
    assert metrics["update/damping"] == pytest.approx(damping, abs=1e-12)
    assert torch.allclose(step / step.norm(), expected / expected.norm(), atol=1e-8)
    assert metrics["update/curvature"] == pytest.approx(float(expected @ fisher @ expected), rel=1e-6)
    assert ("update/cg_residual" in metrics) == (solve != "samples")


@pytest.mark.parametrize("solve", ["samples", "conjugate_gradient", "diagonal", "kronecker"])
@pytest.mark.parametrize("max_kl", [1e-6, 1e-2, 1.0])
def test_a_step_goes_as_far_as_it_may_and_no_further(solve: Any, max_kl: float) -> None:
    problem = Enumeration(CHAIN, seed=2)
    objective = objective_of(problem)
    before = objective.laws()
    step, metrics = stepped(natural(problem, solve=solve, max_kl=max_kl), problem, objective)
    measured = float(objective.divergence(before).sum()) / len(objective.valid)
    assert metrics["update/kl"] == pytest.approx(measured, abs=1e-12)
    assert metrics["update/step_norm"] == pytest.approx(float(step.norm()), rel=1e-9)
    assert measured <= max_kl
    if max_kl < 1e-3 and solve == "conjugate_gradient":  # here the quadratic model is the divergence
        assert measured == pytest.approx(max_kl, rel=1e-2)


@pytest.mark.parametrize("solve", ["samples", "conjugate_gradient"])
def test_a_step_of_few_rows_that_understate_the_curvature_is_shortened_until_it_holds(solve: Any) -> None:
    """Three rows know of few directions; the first try goes beyond the bound."""
    problem = Enumeration(CHAIN, seed=2)
    objective = objective_of(problem, scale=100.0)
    before, lengths = objective.laws(), []
    for check in (False, True):
        twin = Enumeration(CHAIN, seed=2)
        update = natural(twin, solve=solve, max_rows=3, max_kl=1e-2, damping=0.05)
        if not check:
            free = objective_of(twin, scale=100.0)
            free.divergence = lambda before: torch.zeros(1)  # type: ignore[method-assign]
            step, _ = stepped(update, twin, free)
        else:
            step, metrics = stepped(update, twin, objective_of(twin, scale=100.0))
            assert metrics["update/kl"] <= 1e-2
        moved = position(twin)
        torch.nn.utils.vector_to_parameters(moved.clone(), problem.policy.parameters())
        lengths.append((float(step.norm()), float(objective.divergence(before).sum()) / len(objective.valid)))
    assert lengths[0][1] > 1.2e-2 and 0.5e-2 < lengths[1][1] <= 1e-2 and lengths[1][0] < lengths[0][0], lengths


@pytest.mark.parametrize("solve", ["samples", "conjugate_gradient", "diagonal", "kronecker"])
def test_a_step_climbs(solve: Any) -> None:
    problem = Enumeration(CHAIN, seed=2)
    objective = objective_of(problem)
    gradient = gradient_of(problem, objective)
    step, metrics = stepped(natural(problem, solve=solve), problem, objective)
    assert float(gradient @ step) > 0 and metrics["update/natural_cosine"] > 0


def test_the_limit_follows_its_schedule() -> None:
    lengths = []
    for progress in (0.0, 0.75, 1.0):
        problem = Enumeration(CHAIN, seed=2)
        update = natural(problem, schedule="linear", solve="conjugate_gradient", max_kl=1e-6)
        lengths.append(update.step(objective_of(problem), progress=progress)["update/step_norm"])
    assert lengths[1] == pytest.approx(0.5 * lengths[0], rel=1e-3) and lengths[2] == 0


@pytest.mark.parametrize("make", [natural, lambda problem: TrustRegion(optimizer=optimizer_of(problem))])
def test_a_gradient_of_nothing_moves_nothing(make: Any) -> None:
    problem = Enumeration(CHAIN, seed=2)
    objective = objective_of(problem, scale=0.0)
    objective.entropy_coefficient = 0.0
    step, metrics = stepped(make(problem), problem, objective)
    assert not step.any() and metrics["update/kl"] == 0


@pytest.mark.parametrize("solve", ["samples", "conjugate_gradient", "diagonal", "kronecker"])
def test_a_settled_policy_is_left_alone(solve: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where every score is 0 the Fisher matrix is too, and its relative damping with it."""
    problem = Enumeration(CHAIN, seed=2)
    with torch.no_grad():
        problem.policy.network[0].bias.copy_(torch.tensor([2000.0, -2000.0]))
    batch = problem.trajectories
    taken = (torch.where(batch.mask, batch.actions, 0) == 0).all(dim=0).nonzero().squeeze(-1)
    objective = objective_of(problem, columns=taken)
    update = natural(problem, solve=solve)
    monkeypatch.setattr(update._climber, "gradient_of", lambda _: (torch.ones(6), 6**0.5, 0.0, 0.0))
    step, metrics = stepped(update, problem, objective)
    assert not step.any() and metrics["update/curvature"] == 0


@pytest.mark.parametrize("max_kl", [1e-8, 1e-3, 0.1, 3.0])
@pytest.mark.parametrize("seed", range(4))
def test_a_trust_region_holds(max_kl: float, seed: int) -> None:
    problem = Enumeration(CHAIN, seed=seed)
    objective = objective_of(problem)
    before, first = objective.laws(), float(objective().value.detach())
    update = TrustRegion(optimizer=optimizer_of(problem), max_kl=max_kl, entropy_coefficient=ENTROPY, damping=1e-3)
    step, metrics = stepped(update, problem, objective)
    divergence = float(objective.divergence(before).sum()) / len(objective.valid)
    assert divergence <= max_kl
    assert metrics["update/surrogate"] == pytest.approx(first, abs=1e-12)
    if metrics["update/rejected"]:
        assert not step.any() and metrics["update/gain"] == 0
    else:
        assert step.any() and metrics["update/gain"] > 0
        assert metrics["update/kl"] == pytest.approx(divergence, abs=1e-12)


def test_a_step_that_cannot_gain_is_rejected_and_leaves_no_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = Enumeration(CHAIN, seed=2)
    update = TrustRegion(optimizer=optimizer_of(problem), max_backtracks=3)
    monkeypatch.setattr(TrustRegion, "_surrogate", lambda *_: 0.0)
    step, metrics = stepped(update, problem, objective_of(problem))
    assert not step.any()
    assert (metrics["update/rejected"], metrics["update/backtracks"]) == (1.0, 3.0)


def test_a_step_that_is_too_long_is_shortened_until_it_holds() -> None:
    """The quadratic model is wrong far out: the first try exceeds the bound."""
    problem = Enumeration(CHAIN, seed=2)
    objective = objective_of(problem, scale=50.0)
    update = TrustRegion(optimizer=optimizer_of(problem), max_kl=0.5, damping=1e-6)
    _, metrics = stepped(update, problem, objective)
    assert metrics["update/backtracks"] > 0 and metrics["update/kl"] <= 0.5 and not metrics["update/rejected"]


@pytest.mark.parametrize("num_columns", [1, 4, 16])
@pytest.mark.parametrize("max_rows", [5, 16, 100, 128])
def test_rows_are_thinned_evenly_along_every_column(num_columns: int, max_rows: int) -> None:
    """With 16 columns a stride of 8 along flat rows would see two of them."""
    valid = torch.arange(128)
    found = thinned(valid, max_rows, num_columns)
    assert max_rows / 2 <= len(found) <= max_rows and len(found.unique()) == len(found)
    seen = torch.bincount(found % num_columns, minlength=num_columns)
    assert int(seen.max() - seen.min()) <= 1
    steps = (found[found % num_columns == 0] // num_columns).diff()
    assert len(steps) == 0 or int(steps.min()) == int(steps.max())
    assert thinned(valid[:0], 5, num_columns).tolist() == []


@pytest.mark.parametrize("solve", ["samples", "conjugate_gradient", "diagonal", "kronecker"])
def test_damping_is_a_share_of_the_trace_however_many_rows_there_are(solve: Any) -> None:
    """A unit that counted rows or parameters would turn 1e-3 of the trace into a thousandth of that."""
    problem = Enumeration(CHAIN, seed=2)
    objective = objective_of(problem)
    for max_rows in (3, 10_000):
        index = thinned(objective.valid, max_rows, objective.trajectories.num_columns)
        squares = problem.scores.flatten(0, 1)[index].square().sum(dim=1)
        update = natural(Enumeration(CHAIN, seed=2), solve=solve, max_rows=max_rows, damping=0.05)
        _, metrics = stepped(update, problem, objective_of(problem))
        assert metrics["update/damping"] == pytest.approx(0.05 * float(squares.mean()) + 1e-6, rel=1e-12)
