"""A penalty instead of a clip: exact divergences, and a weight that follows them."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from pgkit.errors import RunFault
from pgkit.rl.objective import PolicyObjective
from pgkit.updates.ppo_kl import PPOPenalty
from tests.problems import Enumeration
from tests.updates.batches import chain, drawn, objective_of, parameters_of, sgd

pytestmark = [pytest.mark.exact, pytest.mark.usefixtures("float64")]
PLAIN: dict[str, Any] = {
    "average": "columns", "epochs": 1, "minibatches": 1, "normalise_advantages": "none", "max_grad_norm": None,
}  # fmt: skip


def made(**options: Any) -> tuple[Enumeration, PolicyObjective, PPOPenalty]:
    problem = chain()
    average = options.get("average", "columns")
    objective = objective_of(problem, drawn(problem, 40), baseline=0.5, average=average)
    update = PPOPenalty(optimizer=sgd(problem), generator=torch.Generator().manual_seed(1), **{**PLAIN, **options})
    return problem, objective, update


@pytest.mark.parametrize("average", ["columns", "steps"])
@pytest.mark.parametrize("entropy", [0.0, 0.3])
def test_its_first_step_is_that_of_the_plain_gradient(average: Any, entropy: float) -> None:
    """There the divergence is 0 and so is its slope."""
    problem, _, update = made(average=average, entropy_coefficient=entropy, penalty=100.0)
    objective = objective_of(problem, drawn(problem, 40), average=average, entropy=entropy)
    expected, before = 0.1 * problem.gradient(objective().value), parameters_of(problem)
    metrics = update.step(objective, progress=0.0)
    torch.testing.assert_close(parameters_of(problem) - before, expected, rtol=0, atol=1e-12)
    assert metrics["update/first_ratio_deviation"] < 1e-10
    assert tuple(metrics) == update.tags


def reference(objective: PolicyObjective, problem: Enumeration, before: Tensor, penalty: float) -> Tensor:
    """Returns the penalised surrogate row by row, from the table of probabilities."""
    table, batch = problem.table(), objective.trajectories
    total = torch.zeros(())
    for t, n in batch.mask.nonzero().tolist():
        s, a = int(batch.obs[t, n]), int(batch.actions[t, n])
        divergence = (before[s] * (before[s] / table[s]).log()).sum()
        coefficient = objective.coefficients.reshape(batch.mask.shape)[t, n]
        total = total + table[s, a] / before[s, a] * coefficient - penalty * divergence
    return total / batch.num_columns


@pytest.mark.parametrize("penalty", [0.5, 20.0])
def test_a_second_epoch_is_held_back_by_the_divergence_from_the_policy_before(penalty: float) -> None:
    problem, objective, update = made(epochs=2, penalty=penalty)
    before = problem.table().detach()
    one = made(penalty=penalty)
    one[2].step(one[1], progress=0.0)
    middle = parameters_of(one[0])
    expected = middle + 0.1 * one[0].gradient(reference(one[1], one[0], before, penalty))
    metrics = update.step(objective, progress=0.0)
    torch.testing.assert_close(parameters_of(problem), expected, rtol=0, atol=1e-12)
    rows = problem.table().detach()
    states = objective.trajectories.obs[:-1][objective.trajectories.mask]
    reached = float((before * (before / rows).log()).sum(dim=1)[states].mean())
    assert metrics["update/kl"] == pytest.approx(reached, abs=1e-12) and metrics["update/penalty"] == penalty


def test_minibatches_meet_the_law_of_their_own_rows() -> None:
    moved = []
    for pieces in (1, 7):
        problem, objective, update = made(minibatches=pieces)
        laws = objective.laws()
        with torch.no_grad():
            for parameter in problem.policy.parameters():
                parameter.add_(0.3)
        objective.laws = lambda laws=laws: laws  # type: ignore[method-assign]  # an old policy that is another one
        gradients: list[Tensor] = []
        update._climber.step = lambda found=gradients, p=problem: (
            found.append(  # type: ignore[method-assign,assign]
                torch.cat([each.grad.reshape(-1).clone() for each in p.policy.parameters()])
            )
            or 0.0
        )
        update.step(objective, progress=0.0)
        sizes = [len(each) for each in objective.valid.tensor_split(pieces)]
        weights = torch.tensor(sizes, dtype=torch.float64) / sum(sizes)
        moved.append((weights[:, None] * torch.stack(gradients)).sum(dim=0))
    torch.testing.assert_close(moved[0], moved[1], rtol=0, atol=1e-12)


@pytest.mark.parametrize(("target", "expected"), [(1e-9, 2.0), (1e9, 0.5), (None, 1.0)])
def test_the_penalty_doubles_beyond_its_target_halves_below_and_else_stays(
    target: float | None, expected: float
) -> None:
    if target is None:
        _, objective, update = made(epochs=3)
        target = float(update.step(objective, progress=0.0)["update/kl"])
    _, objective, update = made(epochs=3, target_kl=target)
    assert update.step(objective, progress=0.0)["update/penalty"] == 1.0
    assert update.penalty == expected
    assert update.step(objective, progress=0.0)["update/penalty"] == expected


def test_it_keeps_the_divergence_near_its_target() -> None:
    """Without the adaptation, the twin, the same steps go far beyond it."""
    reached = {}
    for adapts in (True, False):
        problem, _, update = made(epochs=10, target_kl=1e-4, penalty=1.0)
        if not adapts:
            update._adapt = lambda divergence: None  # type: ignore[method-assign]
        found = []
        for seed in range(16):
            problem.trajectories = problem._trajectories()  # those of the policy as it is now
            objective = objective_of(problem, drawn(problem, 40, seed), baseline=0.5)
            found.append(float(update.step(objective, progress=0.0)["update/kl"]))
        reached[adapts] = sum(found[-6:]) / 6
    assert 0.5e-4 < reached[True] < 3e-4 and reached[False] > 2e-3, reached


def test_a_gradient_that_is_none_changes_nothing() -> None:
    problem, objective, update = made()
    before = parameters_of(problem)
    objective.coefficients = objective.coefficients * math.nan
    with pytest.raises(RunFault, match=r"^gradient/norm: nan"):
        update.step(objective, progress=0.0)
    assert torch.equal(parameters_of(problem), before) and update.penalty == 1.0


def test_it_goes_on_from_its_state_as_it_would_have() -> None:
    runs, sizes = [], {"minibatches": 6, "epochs": 2, "target_kl": 1e-9}
    for resumed in (False, True):
        problem, objective, update = made(**sizes)
        update.step(objective, progress=0.0)
        if resumed:
            again = PPOPenalty(optimizer=sgd(problem, lr=9.0), generator=torch.Generator(), **{**PLAIN, **sizes})
            again.load_state_dict(update.state_dict())
            update = again
        assert update.penalty == 2.0
        update.step(objective, progress=0.0)
        runs.append(parameters_of(problem))
    assert torch.equal(*runs)
