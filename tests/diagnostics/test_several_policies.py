"""What instruments say of batches that several policies drew, against the definition and by enumeration."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import pytest
import torch

from pgkit.baselines.batch import LeaveOneOut
from pgkit.baselines.constant import Zero
from pgkit.diagnostics.candidates import candidate
from pgkit.diagnostics.comparison import Comparison, findings
from pgkit.protocols import Baseline
from pgkit.snapshot import Snapshot
from pgkit.types import Coupling
from pgkit.weights.mixtures import Balance
from tests.weights.batches import ESTIMATOR, GAMMA, TREE, Pool

pytestmark = [pytest.mark.exact, pytest.mark.usefixtures("float64")]

TWO = (0, 0, 1, 1)
MANY = (0, 0, 0, 0, 0, 1, 1, 1, 2, 2)
"""Policies of ten columns, the newest first."""
DRAWN = (0, 2, 1, 2, 0, 1, 2, 0, 2, 1)


@cache
def three() -> Pool:
    """Returns the policy that learns, and two others."""
    return Pool(TREE, (4, 5, 6))


def snapshot(
    pool: Pool, drawn: Sequence[int], ids: Sequence[int], *, baseline: Baseline | None = None, weights: Any = None,
    coupling: Coupling = "independent",
) -> Snapshot:  # fmt: skip
    """Returns what an instrument sees of a batch that these policies drew."""
    weights = weights or Balance()
    factors = pool.factors(drawn, ids, weights)
    reference = (baseline or Zero()).value(factors)
    assert factors.scores is not None
    return Snapshot(
        trajectories=pool.trajectories(drawn, ids),
        factors=factors,
        baseline=reference,
        coefficients=ESTIMATOR.coefficients(factors, reference),
        estimator=ESTIMATOR,
        coupling=coupling,
        before=pool.target.policy,
        policy=pool.target.policy,
        scores=factors.scores,
    )


def test_leave_one_out_of_the_panel_is_that_of_a_run_under_balance_weights() -> None:
    seen = snapshot(three(), DRAWN, MANY, baseline=LeaveOneOut(), coupling="cross_fitted")
    other = candidate("leave_one_out")
    comparison = Comparison(seen, [other], gamma=GAMMA, max_columns=None)
    torch.testing.assert_close(comparison.gradients(other), comparison.current(), rtol=0, atol=1e-12)
    found = findings(comparison, group=8)
    torch.testing.assert_close(found["leave_one_out"].spread.variance, found["current"].spread.variance)
