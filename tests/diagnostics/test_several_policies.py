"""What instruments say of batches that several policies drew, against the definition and by enumeration."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

from pgkit.baselines.batch import LeaveOneOut
from pgkit.baselines.constant import Zero
from pgkit.core.strata import share_of_each
from pgkit.core.trajectory_weights import mixture_shares
from pgkit.diagnostics.candidates import candidate
from pgkit.diagnostics.comparison import Comparison, findings
from pgkit.diagnostics.dial import Dial
from pgkit.diagnostics.variance import GradientVariance
from pgkit.diagnostics.weight_dial import WeightDial
from pgkit.errors import UsageError
from pgkit.protocols import Baseline
from pgkit.snapshot import Facts, Snapshot
from pgkit.types import Coupling, Metrics, WeightKind
from pgkit.weights.mixtures import Balance, ConstantMixture
from pgkit.weights.ratios import PerDecision
from tests.weights import batches
from tests.weights.batches import ESTIMATOR, GAMMA, TREE, Pool
from tests.weights.test_exact import FORMS, truncated

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
    batch = pool.trajectories(drawn, ids)
    return Snapshot(
        trajectories=batch,
        factors=factors,
        baseline=reference,
        coefficients=ESTIMATOR.coefficients(factors, reference),
        estimator=ESTIMATOR,
        coupling=coupling,
        before=pool.target.policy,
        policy=pool.target.policy,
        scores=factors.scores,
        reweighted=lambda columns: weights.log_weight(pool.target.policy, batch.columns(columns)),
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


def facts(batches: int = 2, kind: WeightKind | None = "prefix") -> Facts:
    return Facts(env="Toy", columns=2, whole_episodes=True, has_values=False, layout={}, batches=batches, weights=kind)


def weight_dial(batches: int = 2, windows: Sequence[int] | None = None) -> WeightDial:
    return WeightDial(facts=facts(batches), clips=[1.1], windows=windows, pooled=20, max_columns=None)


@pytest.mark.parametrize("seeds", [(4, 5), (5, 6)])
@pytest.mark.parametrize("name", ["balance", "constant decay", "balance truncate", "trajectory"])
def test_squared_bias_and_variance_of_clips_and_windows_are_those_of_their_estimates(
    name: str, seeds: tuple[int, ...]
) -> None:
    """The mean over every batch, before anything is cut at 0, is |E ĝ − ∇J|² and tr Cov ĝ by the definition."""
    pool, (make, form) = Pool(TREE, seeds), FORMS[name]
    weights = make()
    names = ("clip_current", "clip_1.1", "window_1", "window_2")
    mean, square = dict.fromkeys(names, np.zeros(())), dict.fromkeys(names, 0.0)
    bias, variance = dict.fromkeys(names, 0.0), dict.fromkeys(names, 0.0)
    for drawn, chance in pool.batches(TWO):
        measured, found = weight_dial().settings(snapshot(pool, drawn, TWO, weights=weights))
        assert measured == 4 and set(found) == set(names)
        whole = pool.defined(drawn, TWO, form, batches.zero)
        estimates = {
            "clip_current": whole, "window_2": whole,
            "clip_1.1": pool.defined(drawn, TWO, truncated(form, 1.1), batches.zero),
            "window_1": pool.defined(drawn[:2], TWO[:2], form, batches.zero),
        }  # fmt: skip
        for each, estimate in estimates.items():
            mean[each] = mean[each] + chance * estimate
            square[each] += chance * float(estimate @ estimate)
            bias[each] += chance * found[each].bias_squared
            variance[each] += chance * found[each].variance_of_mean
    for each in names:
        distance = mean[each] - pool.gradient().numpy()
        assert bias[each] == pytest.approx(float(distance @ distance), abs=1e-10), each
        assert variance[each] == pytest.approx(square[each] - float(mean[each] @ mean[each]), abs=1e-10), each


def test_the_window_of_all_batches_is_the_weights_in_use_and_a_policy_outside_has_no_share() -> None:
    seen = snapshot(three(), DRAWN, MANY)
    _, found = weight_dial(3).settings(seen)
    assert found["window_3"].variance_of_mean == pytest.approx(found["clip_current"].variance_of_mean, rel=1e-12)
    assert seen.reweighted is not None
    young = torch.arange(8)
    by_two = Balance().log_weight(three().target.policy, Pool(TREE, (4, 5)).trajectories(DRAWN[:8], MANY[:8]))
    torch.testing.assert_close(seen.reweighted(young), by_two, rtol=0, atol=1e-12)
    defensive = mixture_shares(torch.tensor([1, 1, 2]), 4, defensive=0.5)
    torch.testing.assert_close(defensive, torch.tensor([0, 2 / 3, 1 / 3, 0]))


def test_clip_and_window_of_least_error_are_named_once_enough_is_pooled() -> None:
    dial = Dial(facts=facts(3), gamma=GAMMA, clips=[1.0, 5.0])
    seen = snapshot(three(), DRAWN, MANY)
    found: Metrics = {}
    for _ in range(7):
        assert found.get("dial/best_clip") is None
        found = dial.measure(seen)
    assert set(found) == set(dial.tags)
    for knob, names in (("clip", ("current", "1", "5")), ("window", ("1", "2", "3"))):
        errors = [found[f"dial/{knob}_{name}/mean_squared_error"] or 0.0 for name in names]
        best = names[errors.index(min(errors))]
        assert found[f"dial/best_{knob}"] == (0.0 if best == "current" else float(best))
    assert found["dial/clip_5/mean_squared_error"] == found["dial/clip_current/mean_squared_error"]  # at most 2 here


def test_of_a_large_batch_the_dial_measures_the_columns_that_the_variance_does() -> None:
    seen = snapshot(three(), DRAWN, MANY)
    dial = WeightDial(facts=facts(3), clips=[1.1], windows=None, pooled=20, max_columns=8)
    measured, found = dial.settings(seen)
    variance = GradientVariance(max_columns=8).measure(seen)["gradient/variance_of_mean"]
    assert measured == 8 and found["clip_current"].variance_of_mean == pytest.approx(variance, rel=1e-10)


def test_on_policy_there_are_no_clips_and_no_windows() -> None:
    assert all("lambda" in tag for tag in Dial(facts=facts(1, None), gamma=GAMMA).tags)
    behavior = Dial(facts=facts(1), gamma=GAMMA).tags
    assert "dial/best_clip" in behavior and not any("window" in tag for tag in behavior)


def test_windows_of_more_batches_than_are_kept_are_refused() -> None:
    with pytest.raises(UsageError, match=r"^diagnostics.dial.windows: 5, expected at most the 4 of reuse.batches$"):
        weight_dial(4, [1, 5])


@pytest.mark.parametrize(
    ("seen", "word"),
    [
        (lambda: snapshot(three(), DRAWN, MANY, weights=PerDecision()), "whole trajectories"),
        (lambda: snapshot(three(), DRAWN[:5], (0, 0, 1, 1, 2)), "single column"),
        (lambda: snapshot(three(), DRAWN, MANY, coupling="batch"), "statistic of the whole batch"),
    ],
)
def test_what_cannot_be_judged_is_null_with_one_reason(
    seen: Callable[[], Snapshot], word: str, caplog: pytest.LogCaptureFixture
) -> None:
    dial = weight_dial(3)
    with caplog.at_level(logging.WARNING, logger="pgkit"):
        assert [dial.measure(seen()) for _ in range(2)] == 2 * [dict.fromkeys(dial.tags)]
    (message,) = [record.getMessage() for record in caplog.records]
    assert word in message
