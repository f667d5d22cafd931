"""The objective of a batch: its gradient is the estimate, its parts add up, its scale is the one it is named for."""

from __future__ import annotations

from typing import Literal

import pytest
import torch
from torch import Tensor

from pgkit.baselines.batch import LeaveOneOut
from pgkit.core.processes import CHAIN
from pgkit.estimators.score_function import ScoreFunction
from pgkit.objectives import ObjectiveValue
from pgkit.returns.discounted import RewardToGo
from pgkit.rl import objective as objective_module
from pgkit.rl.objective import PolicyObjective
from pgkit.types import Factors
from tests.problems import Enumeration

pytestmark = [pytest.mark.exact, pytest.mark.usefixtures("float64")]

COLUMNS = torch.tensor([0, 5, 11, 17, 5])


def made(
    average: Literal["columns", "steps"] = "columns", entropy: float = 0.0, *, drop: bool = False
) -> tuple[Enumeration, PolicyObjective, Tensor]:
    """Returns a problem, the objective of one batch of it and the gradient that this should have without entropy."""
    problem = Enumeration(CHAIN)
    batch = problem.trajectories.columns(COLUMNS)
    mask = batch.mask.clone() if drop else batch.mask
    if drop:
        mask[:, 1] = False
    signal, _ = RewardToGo(gamma=1.0).signal(batch, None, torch.zeros_like(batch.rewards))
    coefficients = torch.where(mask, signal - 0.5, 0.0)
    factors = Factors(signal=signal, log_weight=torch.zeros_like(signal), mask=mask)
    objective = PolicyObjective(
        policy=problem.policy, trajectories=batch, factors=factors, coefficients=coefficients, average=average,
        entropy_coefficient=entropy,
    )  # fmt: skip
    expected = torch.einsum("tn,tnp->p", coefficients, problem.scores[:, COLUMNS])
    return problem, objective, expected / (5 if average == "columns" else int(mask.sum()))


@pytest.mark.parametrize("drop", [False, True])
@pytest.mark.parametrize("average", ["columns", "steps"])
def test_its_gradient_is_the_sum_of_coefficients_times_scores_on_the_scale_it_names(
    average: Literal["columns", "steps"], drop: bool
) -> None:
    problem, objective, expected = made(average, drop=drop)
    torch.testing.assert_close(problem.gradient(objective().value), expected, rtol=0, atol=1e-12)


def test_its_gradient_is_the_estimate_of_the_same_batch() -> None:
    problem = Enumeration(CHAIN)
    factors, baseline, estimator = problem.factors(RewardToGo(gamma=1.0)), LeaveOneOut(), ScoreFunction(gamma=1.0)
    expected = problem.estimate(torch.arange(24), factors, baseline, estimator)
    objective = PolicyObjective(
        policy=problem.policy,
        trajectories=problem.trajectories,
        coefficients=estimator.coefficients(factors, baseline.value(factors)),
        factors=factors,
        average="columns",
        entropy_coefficient=0.0,
    )
    torch.testing.assert_close(problem.gradient(objective().value), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("average", ["columns", "steps"])
def test_the_entropy_bonus_has_the_gradient_of_the_entropy(average: Literal["columns", "steps"]) -> None:
    problem, objective, expected = made(average, entropy=0.3)
    batch = objective.trajectories
    table = problem.table()
    per_state = -(table * table.log()).sum(dim=1)
    visited = per_state[batch.obs[:-1][batch.mask]]
    scale = 5 if average == "columns" else len(visited)
    bonus = problem.gradient(0.3 * visited.sum() / scale)
    assert bonus.norm() > 0.01
    value = objective()
    torch.testing.assert_close(problem.gradient(value.value), expected + bonus, rtol=0, atol=1e-12)
    assert float(value.entropy.detach()) == pytest.approx(float(visited.mean().detach()), abs=1e-12)


@pytest.mark.parametrize("block", [1, 4, 1000])
@pytest.mark.parametrize("drop", [False, True])
@pytest.mark.parametrize("entropy", [0.0, 0.3])
@pytest.mark.parametrize("average", ["columns", "steps"])
def test_its_parts_add_up(
    average: Literal["columns", "steps"], entropy: float, drop: bool, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(objective_module, "BLOCK", block)
    problem, objective, _ = made(average, entropy, drop=drop)
    whole, parts = objective(), list(objective.parts())
    assert len(parts) == -(-len(objective.valid) // block)

    def summed(values: list[ObjectiveValue]) -> tuple[Tensor, Tensor, Tensor]:
        value = sum(each.value for each in values)
        return value.detach(), sum(each.entropy for each in values).detach(), problem.gradient(value)

    for found, expected in zip(summed(parts), summed([whole]), strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("average", ["columns", "steps"])
def test_a_random_half_of_the_rows_estimates_the_whole_without_bias(average: Literal["columns", "steps"]) -> None:
    problem, objective, _ = made(average, entropy=0.1)
    whole = problem.gradient(objective().value)
    halves = [objective(objective.valid[start::2]) for start in (0, 1)]
    # The two halves are not equally long, and weigh by their length.
    lengths = [len(objective.valid[start::2]) for start in (0, 1)]
    mean = sum(problem.gradient(half.value) * n for half, n in zip(halves, lengths, strict=True)) / sum(lengths)
    torch.testing.assert_close(mean, whole, rtol=0, atol=1e-12)


@pytest.mark.parametrize("average", ["columns", "steps"])
def test_its_rows_one_by_one_make_the_same_gradient(average: Literal["columns", "steps"]) -> None:
    problem, objective, expected = made(average, drop=True)
    rows = objective.terms()
    surrogate = (rows.log_prob * rows.coefficients).sum() / rows.num_samples
    torch.testing.assert_close(problem.gradient(surrogate), expected, rtol=0, atol=1e-12)
    assert torch.equal(rows.index, objective.valid)
    torch.testing.assert_close(rows.log_prob.detach(), rows.behavior_log_prob, rtol=0, atol=1e-12)
    half = objective.terms(objective.valid[::2])
    assert half.num_samples == pytest.approx(rows.num_samples * len(half.index) / len(rows.index))


def test_rows_of_several_terms_are_no_single_rows() -> None:
    _, objective, _ = made()
    objective.correction = torch.zeros(3)
    with pytest.raises(ValueError, match=r"^terms: "):
        objective.terms()


def test_its_divergence_is_summed_over_the_rows_of_each_column() -> None:
    problem, objective, _ = made(drop=True)
    before = objective.laws()
    assert objective.divergence(before).abs().max() == 0
    old = problem.table().detach()
    with torch.no_grad():
        problem.policy.network[0].bias.add_(torch.tensor([0.4, -0.1]))
    per_state = (old * (old / problem.table().detach()).log()).sum(dim=1)
    batch, mask = objective.trajectories, objective.factors.mask
    expected = torch.where(mask, per_state[batch.obs[:-1]], 0.0).sum(dim=0)
    assert expected[1] == 0 and expected[0] > 0.01
    torch.testing.assert_close(objective.divergence(before), expected, rtol=0, atol=1e-12)
