"""What a trust region says where there is no step to take."""

from __future__ import annotations

import pytest
import torch

from pgkit.core.processes import CHAIN
from pgkit.updates.trust_region import STEP, TrustRegion
from tests.problems import Enumeration
from tests.updates.test_natural import objective_of, optimizer_of, position

pytestmark = [pytest.mark.exact, pytest.mark.usefixtures("float64")]


@pytest.mark.parametrize("progress", [0.5, 1.0])
def test_a_bound_that_fell_to_nothing_rejects_no_step(progress: float) -> None:
    problem = Enumeration(CHAIN, seed=2)
    update, before = TrustRegion(optimizer=optimizer_of(problem), schedule="linear"), position(problem)
    metrics = update.step(objective_of(problem), progress=progress)
    assert torch.equal(position(problem), before) == (progress == 1.0)
    assert all(metrics[tag] == 0 for tag in STEP) == (progress == 1.0)
    assert metrics["update/curvature"] is not None and metrics["update/rejected"] == 0


def test_no_gradient_is_no_rejected_step(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = Enumeration(CHAIN, seed=2)
    update = TrustRegion(optimizer=optimizer_of(problem))
    monkeypatch.setattr(update._climber, "gradient_of", lambda _: (torch.zeros(6), 0.0, 0.0, 0.0))
    metrics = update.step(objective_of(problem), progress=0.0)
    assert all(metrics[tag] == 0 for tag in STEP)
