"""Estimates that are carried from step to step: right in expectation, and quieter the shorter the step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from pgkit.errors import RunFault
from pgkit.updates.variance_reduced import PAGE, SRVR, STORM, SVRPG, VarianceReduced
from tests.problems import Enumeration
from tests.updates.batches import chain, drawn, objective_of, parameters_of, put, sgd

pytestmark = [pytest.mark.exact, pytest.mark.usefixtures("float64")]

Maker = Callable[[Any], VarianceReduced]
MAKERS: dict[str, Maker] = {
    "svrpg": lambda optimizer: SVRPG(optimizer=optimizer, snapshot_batches=1, period=100),
    "srvr": lambda optimizer: SRVR(optimizer=optimizer, snapshot_batches=1, period=100),
    "storm": lambda optimizer: STORM(optimizer=optimizer, forget=0.3),
    "page": lambda optimizer: PAGE(
        optimizer=optimizer, generator=torch.Generator().manual_seed(0), snapshot_batches=1, probability=1e-9
    ),
}  # fmt: skip
GAMMA = 0.9


def of_one_column(column: int, make: Maker, size: float) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the step that one episode makes of an exact old gradient, its plain gradient, and the true gradient.

    The policy has moved by `size` since the old gradient was taken, and the episode is one of the new policy.
    """
    problem = chain(seed=1)
    here = parameters_of(problem)
    way = torch.randn(here.shape, generator=torch.Generator().manual_seed(4))
    update = make(sgd(problem, lr=1.0))
    put(problem, here - size * way)
    old, anchor = problem.exact_gradient(GAMMA), [each.detach().clone() for each in problem.policy.parameters()]
    put(problem, here)
    update.load_state_dict({**update.state_dict(), "estimate": old, "anchor": anchor})
    objective = objective_of(problem, torch.tensor([column]), gamma=GAMMA)
    # Rewards-to-go of the discounted objective carry γ^t.
    time = torch.arange(len(objective.factors.signal))[:, None]
    objective.coefficients = (objective.coefficients.reshape(-1, 1) * GAMMA**time).reshape(-1)
    plain = problem.gradient(objective().value)
    update.step(objective, progress=0.0)
    return parameters_of(problem) - here, plain, chain(seed=1).exact_gradient(GAMMA)


def moments(make: Maker, size: float) -> tuple[Tensor, Tensor, float, float]:
    """Returns (expectation, truth, variance, variance of the plain gradient) over all episodes."""
    chances = chain(seed=1).probabilities().detach()
    found = [of_one_column(column, make, size) for column in range(len(chances))]
    carried, plain = (torch.stack([each[i] for each in found]) for i in (0, 1))
    means = [chances @ each for each in (carried, plain)]
    spread = [float(chances @ (x - m).square().sum(dim=1)) for x, m in zip((carried, plain), means, strict=True)]
    return means[0], found[0][2], spread[0], spread[1]


@pytest.mark.parametrize("size", [0.05, 0.5])
@pytest.mark.parametrize("name", MAKERS)
def test_the_recursion_expects_the_true_gradient(name: str, size: float) -> None:
    mean, truth, *_ = moments(MAKERS[name], size)
    torch.testing.assert_close(mean, truth, rtol=0, atol=1e-10)


def test_without_its_weights_it_would_not() -> None:
    """The check above can fail: the correction's size is far from rounding."""
    problem, other = chain(seed=1), chain(seed=1)
    here = parameters_of(problem)
    way = torch.randn(here.shape, generator=torch.Generator().manual_seed(4))
    put(other, here - 0.5 * way)
    # Gradients of the old policy on the new policy's episodes, unweighted.
    chances, old = problem.probabilities().detach(), torch.zeros_like(here)
    for column, chance in enumerate(chances):
        old = old + chance * other.gradient(objective_of(other, torch.tensor([column]))().value)
    assert (old - other.exact_gradient(1.0)).norm() > 0.05


@pytest.mark.parametrize("name", ["svrpg", "srvr", "page"])
def test_the_variance_falls_with_the_square_of_the_step(name: str) -> None:
    spread = {size: moments(MAKERS[name], size)[2] for size in (0.02, 0.04)}
    plain = moments(MAKERS[name], 0.02)[3]
    assert spread[0.04] / spread[0.02] == pytest.approx(4.0, rel=0.2)
    assert spread[0.04] < 0.02 * plain


def test_corrected_momentum_forgets_the_share_it_says() -> None:
    # At no distance at all ω is 1 and g is the old gradient: what is left is the share of the new one.
    _, _, spread, plain = moments(MAKERS["storm"], 0.0)
    assert spread == pytest.approx(0.3**2 * plain, rel=1e-9)


def batches(problem: Enumeration, update: VarianceReduced, count: int) -> list[dict[str, float | None]]:
    """Returns what the update reported of some batches of the policy as it moved."""
    found = []
    for seed in range(count):
        fresh = Enumeration(problem.process)
        put(fresh, parameters_of(problem))
        columns = drawn(fresh, 6, seed)
        objective = objective_of(problem, columns)
        objective.trajectories = fresh.trajectories.columns(columns)
        found.append(dict(update.step(objective, progress=0.0)))
    return found


def test_a_snapshot_is_the_mean_of_its_batches_and_the_policy_waits() -> None:
    problem = chain()
    here = parameters_of(problem)
    update = SRVR(optimizer=sgd(problem, lr=0.01), snapshot_batches=3, period=2)
    expected = sum(problem.gradient(objective_of(problem, drawn(problem, 6, seed))().value) for seed in range(3)) / 3
    first = batches(problem, update, 2)
    assert torch.equal(parameters_of(problem), here)
    assert [each["gradient/norm"] for each in first] == [None, None]
    update.step(objective_of(problem, drawn(problem, 6, 2)), progress=0.0)
    torch.testing.assert_close(parameters_of(problem) - here, 0.01 * expected, rtol=0, atol=1e-12)
    later = batches(problem, update, 6)
    assert [each["update/snapshot"] for each in later] == [0, 1, 1, 1, 0, 1]
    assert all((each["update/effective_share"] is None) == (each["update/snapshot"] == 1) for each in later)
    assert tuple(later[0]) == update.tags


@pytest.mark.parametrize("name", MAKERS)
def test_it_goes_on_from_its_state_as_it_would_have(name: str) -> None:
    ends = []
    for resumed in (False, True):
        problem = chain()
        update = MAKERS[name](sgd(problem, lr=0.05))
        batches(problem, update, 3)
        if resumed:
            state, update = update.state_dict(), MAKERS[name](sgd(problem, lr=3.0))
            update.load_state_dict(state)
        batches(problem, update, 3)
        ends.append(parameters_of(problem))
    assert torch.equal(*ends) and not torch.equal(ends[0], parameters_of(chain()))


def test_chance_decides_how_often_page_looks_anew() -> None:
    problem = chain()
    update = PAGE(
        optimizer=sgd(problem, lr=1e-3), generator=torch.Generator().manual_seed(0), snapshot_batches=1, probability=0.3
    )
    assert sum(each["update/snapshot"] or 0 for each in batches(problem, update, 100)) == pytest.approx(31, abs=12)


def test_a_gradient_that_is_no_number_leaves_the_policy_where_it_was() -> None:
    problem = chain()
    update = MAKERS["storm"](sgd(problem))
    batches(problem, update, 2)
    before, objective = parameters_of(problem), objective_of(problem, drawn(problem, 6))
    objective.coefficients = objective.coefficients * float("nan")
    with pytest.raises(RunFault, match=r"^gradient/norm: nan"):
        update.step(objective, progress=0.0)
    assert torch.equal(parameters_of(problem), before)


@pytest.mark.parametrize(("name", "stays"), [("svrpg", True), ("srvr", False), ("storm", False)])
def test_the_estimate_stays_with_its_snapshot_or_moves_along(name: str, stays: bool) -> None:
    problem = chain()
    update = MAKERS[name](sgd(problem, lr=0.05))
    batches(problem, update, 1)
    snapshot, here = update.state_dict(), parameters_of(problem)
    batches(problem, update, 1)
    later = update.state_dict()
    anchor = torch.cat([each.reshape(-1) for each in later["anchor"]])
    if stays:
        assert all(torch.equal(*pair) for pair in zip(snapshot["anchor"], later["anchor"], strict=True))
        assert torch.equal(snapshot["estimate"], later["estimate"])
    else:
        assert torch.equal(anchor, here) and not torch.equal(snapshot["estimate"], later["estimate"])
