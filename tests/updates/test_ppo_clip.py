"""Clipped epochs: the first step is the plain gradient's, later ones stop pulling at the clip."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pgkit.errors import RunFault
from pgkit.rl.objective import PolicyObjective
from pgkit.updates.ppo_clip import PPOClip, approximate_kl
from tests.end_to_end.runs import train
from tests.problems import Enumeration
from tests.updates.batches import chain, drawn, objective_of, parameters_of, sgd

pytestmark = [pytest.mark.exact]
exact = pytest.mark.usefixtures("float64")
PLAIN: dict[str, Any] = {
    "average": "columns", "epochs": 1, "minibatches": 1, "normalise_advantages": "none", "max_grad_norm": None,
}  # fmt: skip


def made(**options: Any) -> tuple[Enumeration, PolicyObjective, PPOClip]:
    problem = chain()
    objective = objective_of(
        problem, drawn(problem, 40), baseline=0.5, entropy=0.0, average=options.get("average", "columns")
    )
    update = PPOClip(optimizer=sgd(problem), generator=torch.Generator().manual_seed(1), **{**PLAIN, **options})
    return problem, objective, update


@exact
@pytest.mark.parametrize("average", ["columns", "steps"])
@pytest.mark.parametrize("entropy", [0.0, 0.3])
def test_its_first_step_is_that_of_the_plain_gradient(average: Any, entropy: float) -> None:
    problem, _, update = made(average=average, entropy_coefficient=entropy)
    objective = objective_of(problem, drawn(problem, 40), average=average, entropy=entropy)
    expected, before = 0.1 * problem.gradient(objective().value), parameters_of(problem)
    metrics = update.step(objective, progress=0.0)
    torch.testing.assert_close(parameters_of(problem) - before, expected, rtol=0, atol=1e-12)
    assert metrics["update/first_ratio_deviation"] < 1e-10
    assert metrics["update/clip_fraction"] == 0 and abs(metrics["update/approximate_kl"]) < 1e-10
    assert tuple(metrics) == update.tags


def reference(objective: PolicyObjective, problem: Enumeration, before: Tensor, clip: float) -> Tensor:
    """Returns the clipped surrogate row by row, from the table of probabilities."""
    table, batch = problem.table(), objective.trajectories
    total = torch.zeros(())
    for t, n in batch.mask.nonzero().tolist():
        s, a = int(batch.obs[t, n]), int(batch.actions[t, n])
        ratio = table[s, a] / before[s, a]
        coefficient = objective.coefficients.reshape(batch.mask.shape)[t, n]
        clipped = min(max(float(ratio.detach()), 1 - clip), 1 + clip)
        total = total + (ratio * coefficient if float((ratio * coefficient).detach()) <= clipped * coefficient else 0.0)
    return total / batch.num_columns


@exact
def test_a_second_epoch_pulls_on_the_rows_inside_the_clip_alone() -> None:
    problem, objective, update = made(epochs=2, clip=0.02)
    before = problem.table().detach()
    one = made(clip=0.02)
    one[2].step(one[1], progress=0.0)
    middle = parameters_of(one[0])
    expected = middle + 0.1 * one[0].gradient(reference(one[1], one[0], before, 0.02))
    metrics = update.step(objective, progress=0.0)
    torch.testing.assert_close(parameters_of(problem), expected, rtol=0, atol=1e-12)
    assert 0 < metrics["update/clip_fraction"] < 1
    assert metrics["update/epochs"] == 2 and metrics["update/steps"] == 2


@exact
@pytest.mark.parametrize("of", ["steps", "columns"])
@pytest.mark.parametrize("wanted", [1, 7, 30, 10_000])
def test_every_row_is_in_one_minibatch_of_an_epoch_and_they_are_of_equal_size(wanted: int, of: Any) -> None:
    _, objective, update = made(minibatches=wanted, minibatch_of=of, epochs=3)
    pieces = update._minibatches.pieces(objective)
    found = list(update._minibatches.walk(objective))
    assert pieces == min(wanted, 40 if of == "columns" else len(objective.valid))
    assert len(found) == 3 * pieces
    for epoch in range(3):
        rows = found[epoch * pieces : (epoch + 1) * pieces]
        assert torch.equal(torch.cat(rows).sort().values, objective.valid)
        if of == "steps":
            assert max(map(len, rows)) - min(map(len, rows)) <= 1
        else:
            assert sum(len(set((each % 40).tolist())) for each in rows) == 40
    assert pieces == 1 or not torch.equal(found[0], found[pieces])


@exact
def test_it_stops_where_the_divergence_is_beyond_its_target() -> None:
    _, objective, update = made(epochs=50, target_kl=1e-3)
    metrics = update.step(objective, progress=0.0)
    assert 1 < metrics["update/epochs"] < 50
    assert 0 < metrics["update/approximate_kl"] <= 1e-3
    free = made(epochs=50)
    assert free[2].step(free[1], progress=0.0)["update/epochs"] == 50
    # A batch that is further from the policy than the target from the start moves nothing.
    problem, objective, update = made(target_kl=1e-3)
    before = parameters_of(problem)
    objective.trajectories = replace(
        objective.trajectories, behavior_log_prob=objective.trajectories.behavior_log_prob - 1
    )
    metrics = update.step(objective, progress=0.0)
    assert metrics["update/steps"] == 0 and metrics["gradient/norm"] is None
    assert metrics["update/approximate_kl"] == pytest.approx(math.e - 2)
    assert torch.equal(parameters_of(problem), before)


@exact
@pytest.mark.parametrize("kind", ["batch", "minibatch"])
def test_normalised_advantages_have_no_scale(kind: Any) -> None:
    moved = []
    for factor in (1.0, 1000.0):
        problem, objective, update = made(normalise_advantages=kind, epochs=2, minibatches=4)
        objective.coefficients = factor * objective.coefficients + (factor - 1)
        update.step(objective, progress=0.0)
        moved.append(parameters_of(problem))
    torch.testing.assert_close(moved[0], moved[1], rtol=1e-9, atol=1e-12)


@exact
def test_equal_advantages_move_nothing_once_normalised() -> None:
    problem, objective, update = made(normalise_advantages="minibatch")
    objective.coefficients, before = torch.full_like(objective.coefficients, 3.3), parameters_of(problem)
    update.step(objective, progress=0.0)
    assert torch.equal(parameters_of(problem), before)


@exact
def test_weights_of_single_rows_are_not_counted_twice() -> None:
    problem, objective, update = made()
    weight = 0.5 + torch.rand(objective.factors.signal.shape, generator=torch.Generator().manual_seed(2))
    moved = []
    for log_weight in (None, weight.log()):
        problem, objective, update = made()
        if log_weight is not None:
            objective.coefficients = objective.coefficients * weight.reshape(-1)
            objective.factors = replace(objective.factors, log_weight=log_weight)
        update.step(objective, progress=0.0)
        moved.append(parameters_of(problem))
    torch.testing.assert_close(moved[0], moved[1], rtol=0, atol=1e-12)


@exact
def test_schedules_lead_to_nothing() -> None:
    problem, objective, update = made(schedule="linear", clip_schedule="linear", clip=0.4)
    metrics = update.step(objective, progress=0.25)
    assert metrics["update/clip"] == pytest.approx(0.3) and metrics["update/learning_rate"] == pytest.approx(0.075)
    before = parameters_of(problem)
    assert update.step(objective, progress=1.0)["update/clip"] == 0
    assert torch.equal(parameters_of(problem), before)


@exact
def test_wild_ratios_are_numbers_and_a_gradient_that_is_none_changes_nothing() -> None:
    problem, objective, update = made()
    wild = torch.tensor([1000.0, -1000.0]).repeat(20).expand(objective.trajectories.rewards.shape)
    objective.trajectories = replace(
        objective.trajectories, behavior_log_prob=objective.trajectories.behavior_log_prob + wild
    )
    metrics = update.step(objective, progress=0.0)
    assert all(value is None or math.isfinite(value) for value in metrics.values())
    problem, objective, update = made()
    before = parameters_of(problem)
    objective.coefficients = objective.coefficients * math.nan
    with pytest.raises(RunFault, match=r"^gradient/norm: nan"):
        update.step(objective, progress=0.0)
    assert torch.equal(parameters_of(problem), before)


@exact
def test_it_goes_on_from_its_state_as_it_would_have() -> None:
    runs, sizes = [], {"minibatches": 6, "epochs": 2}
    for resumed in (False, True):
        problem, objective, update = made(**sizes)
        update.step(objective, progress=0.0)
        if resumed:
            again = PPOClip(optimizer=sgd(problem, lr=9.0), generator=torch.Generator(), **{**PLAIN, **sizes})
            again.load_state_dict(update.state_dict())
            update = again
        update.step(objective, progress=0.0)
        runs.append(parameters_of(problem))
    assert torch.equal(*runs)


@pytest.mark.parametrize("agent", ["ppo", "ppo_kl", "awr", "reps"])
def test_a_slab_of_nothing_but_reset_rows_is_not_learnt_from(tmp_path: Path, agent: str) -> None:
    slab = ("env=CartPole", "env.num_envs=1", "collect.steps=1", "update.minibatches=1", "total_steps=80")
    run = train(tmp_path / agent, f"agent={agent}", *slab)
    assert run.summary["episodes"] > 0 and run.summary["updates"] > run.summary["env_steps"]


def test_what_acted_is_what_learns_to_single_precision(tmp_path: Path) -> None:
    overrides = ("env=CartPole", "agent=ppo", "total_steps=3000", "evaluation.episodes=0", "collect.steps=64")
    run = train(tmp_path, *overrides)
    found = [float(line["update/first_ratio_deviation"]) for line in run.metrics]
    assert len(found) >= 5 and max(found) < 1e-4


@pytest.mark.parametrize("size", [1e-8, 1e-7, 1e-6, 1e-3])
def test_the_estimate_of_the_divergence_is_never_negative(size: float) -> None:
    log_ratio = size * torch.randn(1000, generator=torch.Generator().manual_seed(0))
    expected = float(approximate_kl(log_ratio.double()))
    found = float(approximate_kl(log_ratio))
    assert found >= 0 and abs(found - expected) <= 1e-3 * expected + 1e-15
