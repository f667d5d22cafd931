"""One optimizer step: uphill, clipped as it says, and never on a gradient that is not finite."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from pgkit.errors import RunFault
from pgkit.objectives import Ascent, ObjectiveValue
from pgkit.updates.gradient_step import GradientStep

pytestmark = [pytest.mark.exact, pytest.mark.usefixtures("float64")]


@dataclass
class Hill:
    """−½ |x − top|²."""

    x: nn.Parameter
    top: Tensor

    def __call__(self, rows: Tensor | None = None) -> ObjectiveValue:
        value = -0.5 * (self.x - self.top).square().sum()
        return ObjectiveValue(value=value, entropy=torch.tensor(0.25))

    def ascent(self) -> Ascent:
        gradient = (self.top - self.x).detach()
        return Ascent(gradient=gradient, value=float(self().value.detach()), entropy=0.25)


def hill() -> Hill:
    return Hill(nn.Parameter(torch.zeros(2)), torch.tensor([3.0, 4.0]))


def test_a_step_goes_uphill() -> None:
    objective = hill()
    update = GradientStep(optimizer=torch.optim.SGD([objective.x], lr=0.1))
    metrics = update.step(objective, progress=0.0)
    assert objective.x.tolist() == pytest.approx([0.3, 0.4])
    assert float(objective().value.detach()) > -12.5
    assert metrics == {
        "gradient/norm": pytest.approx(5.0),
        "gradient/norm_clipped": pytest.approx(5.0),
        "update/surrogate": pytest.approx(-12.5),
        "update/learning_rate": 0.1,
        "policy/entropy": pytest.approx(0.25),
    }
    assert tuple(metrics) == update.tags
    update.step(objective, progress=0.0)  # no gradient of the step before is left
    assert objective.x.tolist() == pytest.approx([0.57, 0.76])


@pytest.mark.parametrize("limit", [1.0, 5.5])
def test_clipping_shortens_the_step_and_reports_the_norm_before(limit: float) -> None:
    objective = hill()
    update = GradientStep(optimizer=torch.optim.SGD([objective.x], lr=1.0), max_grad_norm=limit)
    metrics = update.step(objective, progress=0.0)
    length = min(limit, 5.0)
    assert metrics["gradient/norm"] == pytest.approx(5.0)
    assert metrics["gradient/norm_clipped"] == pytest.approx(length)
    assert objective.x.tolist() == pytest.approx([0.6 * length, 0.8 * length], rel=1e-12)


def test_a_linear_schedule_ends_at_nothing_and_starts_again_from_what_was_saved() -> None:
    objective = hill()
    update = GradientStep(optimizer=torch.optim.SGD([objective.x], lr=0.4), schedule="linear")
    rates = [update.step(objective, progress=progress)["update/learning_rate"] for progress in (0.0, 0.25, 1.0, 1.1)]
    assert rates == pytest.approx([0.4, 0.3, 0.0, 0.0])
    resumed = GradientStep(optimizer=torch.optim.SGD([objective.x], lr=123.0), schedule="linear")
    resumed.load_state_dict(update.state_dict())
    assert resumed.step(objective, progress=0.5)["update/learning_rate"] == pytest.approx(0.2)
    constant = GradientStep(optimizer=torch.optim.SGD([objective.x], lr=0.4))
    assert constant.step(objective, progress=0.9)["update/learning_rate"] == 0.4


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("limit", [None, 0.5])
def test_a_gradient_that_is_not_finite_changes_nothing(bad: float, limit: float | None) -> None:
    objective = hill()
    update = GradientStep(optimizer=torch.optim.Adam([objective.x], lr=0.1), max_grad_norm=limit)
    update.step(objective, progress=0.0)
    before, moments = objective.x.detach().clone(), copy.deepcopy(update.optimizer.state_dict()["state"])
    good, objective.top = objective.top, torch.tensor([bad, 0.0])
    with pytest.raises(RunFault, match=r"^gradient/norm: (nan|inf), expected a finite number"):
        update.step(objective, progress=0.0)
    assert torch.equal(objective.x, before)
    after = update.optimizer.state_dict()["state"]
    assert all(torch.equal(after[0][name], moments[0][name]) for name in moments[0])
    objective.top = good
    update.step(objective, progress=0.0)
    assert torch.isfinite(objective.x).all() and not torch.equal(objective.x, before)


@dataclass
class Slope(Hill):
    """The same hill, where the policy diverges as the square of the way."""

    def laws(self) -> Tensor:
        return self.x.detach().clone()

    def divergence(self, before: Tensor) -> Tensor:
        far = (self.x.detach() - before).square().sum()
        return torch.stack([0.5 * far, 1.5 * far])


@pytest.mark.parametrize("limit", [1e-6, 0.01, 0.2, 1e3])
def test_a_step_goes_no_further_than_its_divergence_allows(limit: float) -> None:
    objective, free = Slope(nn.Parameter(torch.zeros(2)), torch.tensor([3.0, 4.0])), hill()
    update = GradientStep(optimizer=torch.optim.SGD([objective.x], lr=0.1), max_trajectory_kl=limit)
    GradientStep(optimizer=torch.optim.SGD([free.x], lr=0.1)).step(free, progress=0.0)
    scale = update.step(objective, progress=0.0)["update/step_scale"]
    assert scale is not None
    torch.testing.assert_close(objective.x.detach(), scale * free.x.detach())
    divergence = float(objective.divergence(torch.zeros(2)).mean())
    assert divergence <= limit
    assert scale == 1.0 if limit > 1 else divergence > 0.85 * limit


def test_a_step_that_cannot_be_made_short_enough_is_not_taken() -> None:
    class Cliff(Slope):
        def divergence(self, before: Tensor) -> Tensor:
            return torch.full((2,), 1.0 if bool((self.x != before).any()) else 0.0)

    objective = Cliff(nn.Parameter(torch.ones(2)), torch.tensor([3.0, 4.0]))
    update = GradientStep(optimizer=torch.optim.SGD([objective.x], lr=0.1), max_trajectory_kl=0.1)
    assert update.step(objective, progress=0.0)["update/step_scale"] == 0.0
    assert objective.x.tolist() == [1.0, 1.0]
