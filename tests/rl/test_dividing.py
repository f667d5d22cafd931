"""Processes that divide the gradients of a batch find what one process finds, and all of them the same."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from pgkit.core import division
from pgkit.core.division import Division
from pgkit.core.networks import multilayer_perceptron
from pgkit.critics.fit import DividedLeastSquares, Fitted, LeastSquares
from pgkit.errors import RunFault
from pgkit.rl.dividing import Divided
from pgkit.rl.objective import PolicyObjective
from pgkit.updates.ppo_clip import PPOClip
from pgkit.updates.trust_region import TrustRegion
from tests.policies import test_by_hand
from tests.remembering import collected
from tests.remembering import policy_of as recurrent
from tests.rl import test_recurrent_batches
from tests.side_by_side import together

pytestmark = [pytest.mark.equivalence, pytest.mark.usefixtures("float64")]


@pytest.fixture(autouse=True)
def everything_pays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(division, "ROWS", 1)
    monkeypatch.setattr(division, "WORTH", 1)


def by_hand() -> PolicyObjective:
    policy = test_by_hand.policy_of(test_by_hand.SPACES["box"])
    return test_by_hand.objective_of(policy, test_by_hand.batch(policy, columns=5), entropy=0.1)


def by_autograd() -> PolicyObjective:
    objective = by_hand()
    objective.__dict__["_by_hand"] = None
    return objective


def with_a_memory() -> PolicyObjective:
    policy = recurrent("gru").double()
    batch = collected(policy.actor(), policy.law, collect="steps", batches=2)[1]
    return test_recurrent_batches.objective_of(policy, batch)


OBJECTIVES = {"by_hand": by_hand, "by_autograd": by_autograd, "with_a_memory": with_a_memory}


def rows_of(objective: PolicyObjective) -> Tensor:
    """Returns some rows, a number that no two and no three processes divide evenly."""
    if objective.reads_columns:
        return objective.valid
    shuffled = objective.valid[torch.randperm(len(objective.valid), generator=torch.Generator().manual_seed(1))]
    return shuffled[:13]


def found_by(objective: Any, rows: Tensor) -> dict[str, Tensor]:
    """Returns everything that an objective says of rows, and gradients."""
    scored = objective.scored(rows)
    gradient = scored.gradient(torch.linspace(-1, 2, len(rows)), 0.3)
    ascent = objective.ascent()
    vector = torch.linspace(-1, 1, len(ascent.gradient))
    return {
        "log_prob": scored.log_prob,
        "behavior_log_prob": scored.behavior_log_prob,
        "entropy": scored.entropy,
        "index": scored.index,
        "gradient": gradient,
        "num_samples": torch.tensor(scored.num_samples),
        "ascent": ascent.gradient,
        "figures": torch.tensor([ascent.value, ascent.entropy]),
        "curvature": objective.curvature(rows)(vector),
    }


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("kind", OBJECTIVES)
def test_a_divided_objective_is_the_whole_one(kind: str, size: int) -> None:
    whole = OBJECTIVES[kind]()
    expected = found_by(whole, rows_of(whole))

    def work(mine: Division) -> dict[str, Tensor]:
        objective = copy.deepcopy(whole)
        return found_by(Divided(objective, mine), rows_of(objective))

    members = together(size, work)
    for name, value in expected.items():
        for member in members:
            torch.testing.assert_close(member[name], value, atol=1e-10, rtol=1e-10, msg=name)
            assert torch.equal(member[name], members[0][name]), name


@pytest.mark.parametrize("kind", ["by_hand", "with_a_memory"])
def test_each_process_differentiates_its_rows_alone(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[int]] = []
    plain = PolicyObjective.scored

    def noted(self: PolicyObjective, rows: Tensor) -> Any:
        seen.append(rows.tolist())
        return plain(self, rows)

    monkeypatch.setattr(PolicyObjective, "scored", noted)
    whole = OBJECTIVES[kind]()
    rows = rows_of(whole)
    together(3, lambda mine: Divided(copy.deepcopy(whole), mine).scored(rows))
    assert len(seen) == 3 and sorted(row for each in seen for row in each) == sorted(rows.tolist())
    if whole.reads_columns:
        columns = [{row % whole.trajectories.num_columns for row in each} for each in seen]
        assert sum(map(len, columns)) == len(set().union(*columns)), "no column is unrolled twice"


def stepped(update: str, objective: Any, policy: Any) -> tuple[Tensor, dict[str, Any]]:
    """Returns the parameters after an update, and what it said."""
    optimizer = torch.optim.Adam(policy.parameters(), lr=0.01)
    generator = torch.Generator().manual_seed(0)
    made: Any = (
        PPOClip(optimizer=optimizer, generator=generator, epochs=30, minibatches=2, target_kl=1.0, clip=5.0)
        if update == "ppo_clip"
        else TrustRegion(optimizer=optimizer, max_rows=17)
    )
    said = made.step(objective, progress=0.0)
    return torch.cat([each.detach().reshape(-1) for each in policy.parameters()]), said


@pytest.mark.parametrize("update", ["ppo_clip", "trust_region"])
def test_updates_lead_all_processes_where_they_lead_one(update: str) -> None:
    whole = by_hand()
    # Rows whose behaviour is the policy itself, so that the divergence starts at 0 and reaches its target later.
    with torch.no_grad():
        whole.trajectories.behavior_log_prob.view(-1)[whole.valid] = whole.terms().log_prob
    alone = copy.deepcopy(whole)
    parameters, said = stepped(update, alone, alone.policy)
    if update == "ppo_clip":
        assert 1 < said["update/steps"] < 60, "the target ends the update on the way"

    def work(mine: Division) -> tuple[Tensor, dict[str, Any]]:
        objective = copy.deepcopy(whole)
        return stepped(update, Divided(objective, mine), objective.policy)

    members = together(3, work)
    for found, told in members:
        torch.testing.assert_close(found, parameters, atol=1e-9, rtol=1e-9)
        assert torch.equal(found, members[0][0]) and told == members[0][1]
        assert told == pytest.approx(said, rel=1e-7, abs=1e-9, nan_ok=True)


def test_a_gradient_that_is_not_finite_anywhere_is_refused_by_all() -> None:
    whole = by_hand()
    whole.coefficients[whole.valid[-1]] = float("nan")  # a row of the last process

    def work(mine: Division) -> bool:
        objective = copy.deepcopy(whole)
        before = [each.clone() for each in objective.policy.parameters()]
        with pytest.raises(RunFault, match="gradient/norm"):
            stepped("trust_region", Divided(objective, mine), objective.policy)
        return all(map(torch.equal, before, objective.policy.parameters()))

    assert together(2, work) == [True, True]


@pytest.mark.parametrize("outputs", [1, 3])
@pytest.mark.parametrize("options", ["plain", "weighted", "clipped"])
def test_a_divided_fit_is_the_whole_one(outputs: int, options: str) -> None:
    torch.manual_seed(0)
    network = multilayer_perceptron(3, [6, 5], outputs, activation="tanh", init="orthogonal", output_gain=1.0)
    inputs, goal, before = torch.randn(30, 3), torch.randn(30), torch.randn(30)
    more = {"plain": {}, "weighted": {"weight": torch.rand(30)}, "clipped": {"before": before, "clip": 0.1}}[options]
    rows = Fitted(inputs=inputs, goal=goal, **more)  # type: ignore[arg-type]  # a table of both
    minibatches = torch.randint(30, (6, 11))

    def fitted(mine: Division | None) -> tuple[Tensor, Tensor]:
        own = copy.deepcopy(network)
        plain = LeastSquares(own, torch.optim.Adam(own.parameters(), lr=0.01))
        fit = plain if mine is None else DividedLeastSquares(plain, mine)
        losses = [fit.step(rows, index, lambda found, _: found[:, 0]) for index in minibatches]
        return torch.cat([each.detach().reshape(-1) for each in own.parameters()]), torch.stack(losses)

    expected, members = fitted(None), together(3, fitted)
    for member in members:
        for one, other, first in zip(member, expected, members[0], strict=True):
            torch.testing.assert_close(one, other, atol=1e-10, rtol=1e-10)
            assert torch.equal(one, first)


def test_small_gradients_are_made_everywhere_and_large_ones_divided(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()

    def add(tensor: Tensor) -> None:
        raise AssertionError("a message")

    mine = Division(rank=1, size=3, add=add)
    assert not mine.pays(256, 5708) and not mine.pays(8, 2**26) and mine.pays(256, 2**18) and mine.pays(16384, 5708)
    whole = by_hand()
    assert torch.equal(Divided(whole, mine).ascent().gradient, whole.ascent().gradient)
    assert [Division(rank=rank, size=3, add=add).piece(8) for rank in range(3)] == [
        slice(0, 2), slice(2, 5), slice(5, 8)
    ]  # fmt: skip
    assert mine.piece(2) is None
