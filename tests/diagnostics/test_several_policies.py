"""What instruments say of batches that several policies drew, against the definition and by enumeration."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import pytest
import torch

from pgkit.baselines.batch import LeaveOneOut
from pgkit.baselines.constant import Zero
from pgkit.core.strata import share_of_each
from pgkit.diagnostics.candidates import candidate
from pgkit.diagnostics.comparison import Comparison, findings
from pgkit.diagnostics.variance import GradientVariance
from pgkit.protocols import Baseline
from pgkit.snapshot import Snapshot
from pgkit.types import Coupling
from pgkit.weights.mixtures import Balance, ConstantMixture
from tests.weights.batches import ESTIMATOR, GAMMA, TREE, Pool

pytestmark = [pytest.mark.exact, pytest.mark.usefixtures("float64")]

TWO = (0, 0, 1, 1)
UNEVEN = (0, 0, 0, 1, 1)
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


@pytest.mark.parametrize("weights", [Balance(), ConstantMixture(decay=0.4), Balance(truncate=1.1)])
def test_the_variance_of_the_mean_is_that_inside_the_policies_columns(weights: Any) -> None:
    pool = Pool(TREE, (4, 6))
    mean, square, said, ratio = torch.zeros(()), 0.0, 0.0, 0.0
    for drawn, chance in pool.batches(UNEVEN):
        seen = snapshot(pool, drawn, UNEVEN, weights=weights)
        found = GradientVariance().measure(seen)
        whole = seen.scores.per_sample(seen.coefficients).mean(dim=0)
        mean, square = mean + chance * whole, square + chance * float(whole.square().sum())
        variance, per_sample = found["gradient/variance_of_mean"], found["gradient/per_sample_variance"]
        assert variance is not None and per_sample is not None
        said, ratio = said + chance * variance, ratio + chance * per_sample
    length = float(mean.square().sum())
    assert said == pytest.approx(square - length, abs=1e-12)
    gradients = [
        (pool.chances[k][m] / 5, snapshot(pool, [m] * 5, UNEVEN, weights=weights)) for k in UNEVEN for m in range(3)
    ]
    places = [place for place in range(5) for _ in range(3)]
    second = sum(
        p * float(seen.scores.per_sample(seen.coefficients)[n].square().sum())
        for n, (p, seen) in zip(places, gradients, strict=True)
    )
    assert ratio == pytest.approx(second - length, abs=1e-12)


def test_of_a_large_batch_the_first_columns_of_every_policy_are_measured() -> None:
    stratum = torch.tensor([0, 0, 0, 0, 0, 1, 0, 1, 1, 1])
    assert share_of_each(stratum, 5).tolist() == [0, 1, 2, 5, 7]
    assert share_of_each(stratum, 3).tolist() == [0, 1, 5, 7] and len(share_of_each(stratum, 10)) == 10
    seen = snapshot(three(), DRAWN, MANY)
    found = GradientVariance(max_columns=8).measure(seen)
    gradients = seen.scores.per_sample(seen.coefficients)
    parts = [gradients[:4], gradients[5:7], gradients[8:10]]
    expected = sum(n * float(part.var(dim=0).sum()) / 100 for n, part in zip((5, 3, 2), parts, strict=True))
    assert found["gradient/variance_of_mean"] == pytest.approx(expected, rel=1e-10)


def test_a_policy_with_a_single_column_leaves_the_sample_formula() -> None:
    seen = snapshot(three(), DRAWN[:5], (0, 0, 1, 1, 2))
    found = GradientVariance().measure(seen)
    gradients = seen.scores.per_sample(seen.coefficients)
    assert found["gradient/variance_of_mean"] == pytest.approx(float(gradients.var(dim=0).sum()) / 5, rel=1e-10)
