"""What the table of an off-policy evaluation says, held against the formulas and the truth."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from pgkit.core.off_policy_value import MissingMass, per_decision_terms, trajectory_terms
from pgkit.errors import UsageError
from pgkit.offline.advice import conclusion, doubts, verdict
from pgkit.offline.bounds import bounds
from pgkit.offline.estimates import BIAS, Estimate, Health, Question, chosen, estimates, health_of
from tests.off_policy import BEHAVIOR, GAMMA, Paths, drawn, saved, table_policy, true_value

COVERED = MissingMass(mass=0.0, standard_error=0.01)


def question(paths: Paths, log_ratio: torch.Tensor | None = None, **changes: Any) -> Question:
    known = {"gamma": GAMMA, "confidence": 0.95, "resamples": 200, "folds": 4, "fit_steps": 15, "seed": 0}
    return Question(
        saved=saved(paths),
        log_ratio=paths.log_ratio() if log_ratio is None else log_ratio,
        policy=table_policy(),
        **{**known, **changes},
    )


def test_every_estimator_has_its_line_and_holds_the_truth() -> None:
    lines = estimates(question(drawn(2000, seed=0)), list(BIAS))
    assert [line.name for line in lines] == list(BIAS)
    for line in lines:
        assert line.value is not None and not line.why_not
        assert abs(line.value - true_value()) < 0.25, line
        if line.name == "direct_method":
            assert line.low is None and line.interval == "none"
            continue
        assert line.low is not None and line.high is not None and line.low < line.value < line.high
        assert line.low < true_value() < line.high and line.high - line.low < 0.6
    assert {line.interval for line in lines} == {"BCa bootstrap", "percentile bootstrap", "none"}


def test_lines_are_the_formulas() -> None:
    paths = drawn(30, seed=1)
    by_name = {
        line.name: line.value for line in estimates(question(paths), ["trajectory", "self_normalised_per_decision"])
    }
    of = (paths.rewards, paths.log_ratio(), paths.mask)
    assert by_name["trajectory"] == trajectory_terms(*of, gamma=GAMMA, normalise=False).value()
    assert by_name["self_normalised_per_decision"] == per_decision_terms(*of, gamma=GAMMA, normalise=True).value()


def test_what_else_is_asked_changes_no_number() -> None:
    paths = drawn(40, seed=2)
    alone, *_ = estimates(question(paths), ["doubly_robust"])
    together = {line.name: line for line in estimates(question(paths), list(BIAS))}["doubly_robust"]
    assert alone == together
    assert alone != estimates(question(paths, seed=1), ["doubly_robust"])[0]


@pytest.mark.statistical
def test_cross_fitting_leaves_doubly_robust_unbiased() -> None:
    """300 data sets of 12 episodes: a false alarm at 4 standard errors comes once in 16,000 times."""
    values = [estimates(question(drawn(12, s), folds=3), ["doubly_robust"])[0].value or 0.0 for s in range(300)]
    error = float(np.std(values)) / math.sqrt(300)
    assert abs(float(np.mean(values)) - true_value()) < 4 * error
    # The biased twin: the same data without weights, as if the target itself had acted.
    plain = torch.zeros(3, 12, dtype=torch.float64)
    twins = [estimates(question(drawn(12, s), plain), ["per_decision"])[0].value or 0.0 for s in range(300)]
    assert abs(float(np.mean(twins)) - true_value()) > 4 * float(np.std(twins)) / math.sqrt(300)


def test_names_stand_for_what_applies() -> None:
    assert chosen("all", tabular=False) == [name for name in BIAS if name != "marginal"]
    assert chosen(["direct_method", "trajectory"], tabular=True) == ["trajectory", "direct_method"]
    remembered = chosen("all", tabular=True, memory=True)
    assert remembered == ["trajectory", "per_decision", "self_normalised", "self_normalised_per_decision"]
    with pytest.raises(UsageError, match="estimators: direct_method for a policy that has a memory"):
        chosen(["direct_method"], tabular=True, memory=True)
    with pytest.raises(UsageError, match=r"estimators: marginal, expected Discrete observations and actions"):
        chosen(["marginal"], tabular=False)
    with pytest.raises(UsageError, match=r"estimators: trajectry, expected all or .*did you mean trajectory\?"):
        chosen(["trajectry"], tabular=False)
    with pytest.raises(UsageError, match="estimators: none"):
        chosen([], tabular=False)


def test_weights_that_are_all_zero_leave_a_line_that_says_so() -> None:
    paths = drawn(30, seed=3)
    nowhere = torch.where(paths.mask, -torch.inf, 0.0).double()
    lines = {line.name: line for line in estimates(question(paths, nowhere), list(BIAS))}
    assert lines["trajectory"].value == 0
    for name in ("self_normalised", "self_normalised_per_decision", "weighted_doubly_robust"):
        assert lines[name].value is None and lines[name].why_not.startswith("weights: all 0 at step 0")
    for name in ("trajectory", "per_decision", "doubly_robust"):
        health = lines[name].health
        assert health is not None and health.effective_sample_size == 0
        assert verdict(lines[name], COVERED).startswith("do not trust: 0.0 episodes in effect")


def test_ratios_of_a_thousand_nats_leave_lines_that_say_so() -> None:
    paths = drawn(30, seed=4)
    huge = torch.where(paths.mask, 1000.0, 0.0).double()
    lines = {line.name: line for line in estimates(question(paths, huge), list(BIAS))}
    for name in ("trajectory", "per_decision", "doubly_robust", "marginal"):
        assert lines[name].value is None and "overflows" in lines[name].why_not
    for name in ("self_normalised", "self_normalised_per_decision", "weighted_doubly_robust"):
        assert math.isfinite(lines[name].value or math.nan)
    assert bounds(question(paths, huge), return_range=None, weight_limit=None) == []


def test_health_is_that_of_the_weights() -> None:
    even = health_of(torch.zeros(3, 100).double())
    assert even == Health(effective_sample_size=pytest.approx(100), largest_share=pytest.approx(0.01), pareto_k=None)
    one = torch.zeros(1, 100).double()
    one[0, 0] = 50
    assert health_of(one).effective_sample_size == pytest.approx(1) and health_of(one).largest_share > 0.99
    heavy = torch.from_numpy(np.log(np.random.default_rng(0).pareto(0.8, size=(2, 2000)) + 1))
    assert (health_of(heavy).pareto_k or 0) > 0.9


def line(**changes: Any) -> Estimate:
    fine = Health(effective_sample_size=80.0, largest_share=0.03, pareto_k=0.2)
    known = {
        "name": "self_normalised_per_decision",
        "bias": "1/N",
        "value": 3.0,
        "low": 2.0,
        "high": 4.0,
        "health": fine,
    }
    return Estimate(**{**known, **changes})


def test_an_estimate_is_trusted_until_something_speaks_against_it() -> None:
    assert verdict(line(), COVERED) == "trust"
    few = Health(effective_sample_size=4.0, largest_share=0.4, pareto_k=0.9)
    assert doubts(line(health=few), COVERED) == [
        "4.0 episodes in effect, fewer than 20",
        "Pareto k 0.90 is above 0.7: the largest weights decide",
    ]
    assert doubts(line(low=None), COVERED) == ["no interval: too few episodes have any weight"]
    assert "never takes" in doubts(line(), MissingMass(mass=0.2, standard_error=0.01))[0]
    assert "bias is that of the fitted model" in doubts(line(name="direct_method"), COVERED)[0]


def test_the_conclusion_names_what_to_use_or_says_that_there_is_nothing() -> None:
    robust = line(name="weighted_doubly_robust", value=3.1)
    assert conclusion([line(), robust], COVERED, fitted=False) == ["Use weighted_doubly_robust: 3.1 [2, 4]."]
    doubtful = replace(robust, low=None)
    assert conclusion([line(), doubtful], COVERED, fitted=False)[0].startswith("Use self_normalised_per_decision")
    assert conclusion([doubtful], COVERED, fitted=False)[0].startswith("Trust none of these: no interval")
    missing, fitted = conclusion([line()], MissingMass(mass=0.25, standard_error=0.01), fitted=True)[1:]
    assert missing.startswith("Support mismatch: at the states logged the target puts 0.25 ± 0.01")
    assert "fitted model, not logged" in fitted


def test_bounds_hold_the_truth_and_say_what_they_assume() -> None:
    asked = question(drawn(500, seed=5))
    limit = (0.8 / 0.5) * (0.7 / 0.4) ** 2
    found = bounds(asked, return_range=[-3.0, 12.0], weight_limit=limit)
    assert [bound.name for bound in found] == ["hoeffding", "empirical_bernstein", "truncated_bernstein"]
    for bound in found:
        assert bound.low < true_value() < bound.high and "not known" not in bound.assumes
        assert bound.low >= -3 and bound.high <= 12
        assert not bound.low < true_value(target=BEHAVIOR) - 3 < bound.high or bound.name == "hoeffding"
    assumed = {bound.name: bound.assumes for bound in bounds(asked, return_range=None, weight_limit=None)}
    assert assumed["hoeffding"].count("as seen, not known") == 2
    assert assumed["truncated_bernstein"].count("as seen, not known") == 1


def test_no_limit_is_guessed_from_weights_that_say_nothing_of_others() -> None:
    paths = drawn(50, seed=6)
    ratio = paths.log_ratio()
    ratio[0] -= 30  # as where the episodes that matter are missing
    ratio[0, 0] += 10
    names = [bound.name for bound in bounds(question(paths, ratio), return_range=None, weight_limit=None)]
    assert names == ["truncated_bernstein"]
    known = bounds(question(paths, ratio), return_range=None, weight_limit=5.0)
    assert [bound.name for bound in known] == ["hoeffding", "empirical_bernstein", "truncated_bernstein"]


def test_ranges_that_do_not_hold_the_data_are_named() -> None:
    asked = question(drawn(50, seed=6))
    with pytest.raises(UsageError, match=r"return_range: \[0,1\], expected one that holds the returns of the data"):
        bounds(asked, return_range=[0.0, 1.0], weight_limit=None)
    with pytest.raises(UsageError, match=r"weight_limit: 1, expected at least the largest weight"):
        bounds(asked, return_range=None, weight_limit=1.0)
