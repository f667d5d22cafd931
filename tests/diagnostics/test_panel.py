"""The estimator panel, the dial and the critic's lag: every number against what the batch or its enumeration says."""

from __future__ import annotations

import logging
import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from pgkit.baselines.batch import LeaveOneOut, Mean
from pgkit.baselines.constant import Zero
from pgkit.baselines.optimal import Optimal, OptimalTime
from pgkit.baselines.value import Value
from pgkit.core.jackknife import spread
from pgkit.core.moments import independent_moments
from pgkit.core.processes import BANDIT, CHAIN
from pgkit.diagnostics.candidates import candidate, chosen
from pgkit.diagnostics.comparison import Comparison, findings
from pgkit.diagnostics.critic_lag import CriticLag
from pgkit.diagnostics.dial import Dial
from pgkit.diagnostics.panel import EstimatorPanel
from pgkit.diagnostics.variance import GradientVariance
from pgkit.errors import UsageError
from pgkit.estimators.score_function import ScoreFunction
from pgkit.protocols import Baseline, Returns
from pgkit.returns.bootstrapped import LambdaReturn, NStep
from pgkit.returns.discounted import RewardToGo, Total
from pgkit.snapshot import Facts, Snapshot
from tests.problems import Enumeration, columns_of

pytestmark = [pytest.mark.exact, pytest.mark.usefixtures("float64")]

GAMMA = 0.9
FACTS = Facts(env="Toy", columns=8, whole_episodes=True, has_values=True, layout={})
COLUMNS = torch.tensor([0, 3, 3, 7, 9, 12, 17, 20, 22])


def snapshot(
    problem: Enumeration, columns: Tensor, baseline: Baseline, returns: Returns, *, error: float = 0.3
) -> Snapshot:
    """Returns what an instrument sees of a batch with a critic that is somewhat wrong."""
    estimator = ScoreFunction(gamma=GAMMA)
    factors = problem.factors(returns, problem.critic(GAMMA, error=error), estimator)
    factors = columns_of(factors, columns)
    reference = baseline.value(factors)
    assert factors.scores is not None
    return Snapshot(
        trajectories=problem.trajectories.columns(columns),
        factors=factors,
        baseline=reference,
        coefficients=estimator.coefficients(factors, reference),
        estimator=estimator,
        coupling=baseline.coupling,
        before=problem.policy,
        policy=problem.policy,
        scores=factors.scores,
    )


@pytest.mark.parametrize(
    ("name", "returns", "baseline"),
    [
        ("zero", RewardToGo(gamma=GAMMA), Zero()),
        ("mean", RewardToGo(gamma=GAMMA), Mean()),
        ("optimal", RewardToGo(gamma=GAMMA), Optimal()),
        ("optimal_time", RewardToGo(gamma=GAMMA), OptimalTime()),
        ("total_optimal", Total(gamma=GAMMA), Optimal()),
        ("leave_one_out", RewardToGo(gamma=GAMMA), LeaveOneOut()),
        ("value", RewardToGo(gamma=GAMMA), Value()),
        ("total", Total(gamma=GAMMA), Zero()),
        ("total_leave_one_out", Total(gamma=GAMMA), LeaveOneOut()),
        ("gae_0.7", LambdaReturn(gamma=GAMMA, lam=0.7), Value()),
        ("gae_0.7_zero", LambdaReturn(gamma=GAMMA, lam=0.7), Zero()),
        ("n_step_2", NStep(gamma=GAMMA, n=2), Value()),
    ],
)
def test_a_candidates_gradients_are_those_of_the_parts_it_is_named_after(
    name: str, returns: Returns, baseline: Baseline
) -> None:
    problem = Enumeration(CHAIN)
    seen = snapshot(problem, COLUMNS, Zero(), RewardToGo(gamma=GAMMA))
    used = snapshot(problem, COLUMNS, baseline, returns)
    found = Comparison(seen, [candidate(name)], gamma=GAMMA, max_columns=None).gradients(candidate(name))
    torch.testing.assert_close(found, used.scores.per_sample(used.coefficients), rtol=0, atol=1e-12)


def fitted(gradients: Tensor, features: list[Tensor]) -> Tensor:
    """Returns gradients less the least-squares combination of features, fitted to the other samples, one by one."""
    result = gradients.clone()
    for i in range(len(gradients)):
        others = [j for j in range(len(gradients)) if j != i]
        matrix = torch.stack([feature[others].flatten() for feature in features], dim=1)
        weights = torch.linalg.lstsq(matrix, gradients[others].flatten()[:, None]).solution[:, 0]
        result[i] -= sum(w * feature[i] for w, feature in zip(weights, features, strict=True))
    return result


@pytest.mark.parametrize("name", ["optimal", "gls", "gae_0.7_gls", "total_optimal", "optimal_layer"])
def test_fitted_candidates_leave_each_sample_out_of_its_own_regression(name: str) -> None:
    problem = Enumeration(CHAIN)
    seen = snapshot(problem, COLUMNS, Zero(), RewardToGo(gamma=GAMMA))
    each, factors = candidate(name), seen.factors
    comparison = Comparison(seen, [each], gamma=GAMMA, max_columns=None)
    assert factors.values is not None
    mask = factors.mask.to(factors.signal.dtype)
    ones, values = (seen.scores.per_sample(c) for c in (mask, factors.values[:-1] * mask))
    base = seen.scores.per_sample(comparison.signal(each))
    if name == "optimal_layer":  # this policy is one layer
        expected = fitted(base, [ones])
    else:
        expected = fitted(base, [ones, values] if each.reference == "gls" else [ones])
    # The ridge of the normal equations is 1e-6 of their diagonal.
    torch.testing.assert_close(comparison.gradients(each), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("baseline", [Zero(), LeaveOneOut()])
def test_what_it_says_of_the_estimator_in_use_is_what_the_variance_instrument_says(baseline: Baseline) -> None:
    seen = snapshot(Enumeration(CHAIN), COLUMNS, baseline, RewardToGo(gamma=GAMMA))
    panel = EstimatorPanel(facts=FACTS, gamma=GAMMA).measure(seen)
    variance = GradientVariance().measure(seen)
    for tag in ("variance_of_mean", "per_sample_variance", "snr"):
        assert panel[f"panel/current/{tag}"] == pytest.approx(variance[f"gradient/{tag}"], abs=1e-10)
    same = "zero" if isinstance(baseline, Zero) else "leave_one_out"
    assert panel[f"panel/{same}/variance_ratio"] == pytest.approx(1.0, abs=1e-10)
    assert panel[f"panel/{same}/variance_of_mean"] == pytest.approx(panel["panel/current/variance_of_mean"], abs=1e-9)


def test_ratios_pool_sums_over_the_window_and_have_an_interval_from_64_trajectories_on() -> None:
    problem = Enumeration(CHAIN)
    panel = EstimatorPanel(facts=FACTS, gamma=GAMMA, estimators=["value"], window=3)
    generator = torch.Generator().manual_seed(2)
    batches = [torch.randint(24, (30,), generator=generator) for _ in range(5)]
    found = []
    for columns in batches:
        seen = snapshot(problem, columns, Zero(), RewardToGo(gamma=GAMMA))
        found.append(findings(Comparison(seen, [candidate("value")], gamma=GAMMA, max_columns=None), group=16))
        metrics = panel.measure(seen)
        assert (metrics["panel/value/variance_ratio_low"] is None) == (len(found) * 30 < 64)
    sums = [sum(float(each[name].spread.variance[0]) for each in found[-3:]) for name in ("value", "current")]
    point, low, high = (metrics[f"panel/value/variance_ratio{end}"] for end in ("", "_low", "_high"))
    assert point == pytest.approx(sums[0] / sums[1], abs=1e-12)
    assert low is not None and high is not None and point is not None and low < point < high


def test_the_cosine_is_that_of_expectations_and_not_of_shared_noise() -> None:
    # Over all ordered pairs of columns ⟨g_i, r_j⟩, i ≠ j, averages to ⟨E g, E r⟩: checked by enumeration.
    problem = Enumeration(BANDIT, seed=4)
    probabilities = problem.probabilities().tolist()
    each = candidate("value")
    total, expected = 0.0, {name: torch.zeros(()) for name in ("value", "current")}
    for first, p in enumerate(probabilities):
        for second, q in enumerate(probabilities):
            seen = snapshot(problem, torch.tensor([first, second]), Zero(), RewardToGo(gamma=GAMMA))
            total += p * q * findings(Comparison(seen, [each], gamma=GAMMA, max_columns=None), group=16)["value"].inner
        one = Comparison(snapshot(problem, torch.tensor([first]), Zero(), RewardToGo(gamma=GAMMA)), [each],
                         gamma=GAMMA, max_columns=None)  # fmt: skip
        expected["value"] = expected["value"] + p * one.gradients(each)[0]
        expected["current"] = expected["current"] + p * one.current()[0]
    assert total == pytest.approx(float(expected["value"] @ expected["current"]), abs=1e-12)


def test_only_as_many_columns_as_asked_for_are_measured_and_the_variance_is_still_that_of_the_batch() -> None:
    seen = snapshot(Enumeration(CHAIN), torch.arange(24), Zero(), RewardToGo(gamma=GAMMA))
    metrics = EstimatorPanel(facts=FACTS, gamma=GAMMA, max_columns=10).measure(seen)
    gradients = seen.scores.per_sample(seen.coefficients)[:10]
    moments = independent_moments(gradients.mean(dim=0), float(gradients.square().sum()), 10)
    assert metrics["panel/current/variance_of_mean"] == pytest.approx(moments.per_sample_variance / 24, abs=1e-10)


def test_without_a_critic_the_default_list_holds_what_needs_none() -> None:
    facts = replace(FACTS, has_values=False)
    assert [each.name for each in chosen(None, facts)] == ["zero", "leave_one_out", "optimal", "total"]
    slabs = replace(FACTS, whole_episodes=False)
    assert "total" not in [each.name for each in chosen(None, slabs)]


@pytest.mark.parametrize(
    ("name", "facts", "reason"),
    [
        ("valeu", FACTS, "did you mean value?"),
        ("gae_1.5", FACTS, "expected a return"),
        ("gae_0.9.5", FACTS, "expected a return"),
        ("", FACTS, "expected a return"),
        ("value", replace(FACTS, has_values=False), "expected a critic"),
        ("total", replace(FACTS, whole_episodes=False), "expected collect=episodes"),
        ("gls", replace(FACTS, columns=1), "expected 2 columns"),
    ],
)
def test_names_that_mean_nothing_or_cannot_be_are_refused(name: str, facts: Facts, reason: str) -> None:
    with pytest.raises(UsageError, match=reason.replace("?", r"\?")):
        EstimatorPanel(facts=facts, gamma=GAMMA, estimators=[name])


@pytest.mark.parametrize(
    ("columns", "baseline"), [(torch.tensor([5]), Zero()), (torch.arange(3), LeaveOneOut()), (torch.arange(9), Mean())]
)
def test_what_a_batch_cannot_answer_is_null_with_one_warning(
    columns: Tensor, baseline: Baseline, caplog: pytest.LogCaptureFixture
) -> None:
    reference = baseline if len(columns) > 1 else Zero()
    seen = snapshot(Enumeration(CHAIN), columns, reference, RewardToGo(gamma=GAMMA))
    panel = EstimatorPanel(facts=FACTS, gamma=GAMMA)
    with caplog.at_level(logging.WARNING, logger="pgkit"):
        for _ in range(3):
            metrics = panel.measure(seen)
            assert metrics.keys() == set(panel.tags)
            assert metrics["panel/current/variance_ratio"] is None
            assert all(value is None or math.isfinite(value) for value in metrics.values())
    assert len(caplog.records) == 1


def test_equal_outcomes_have_no_variance_and_no_ratio() -> None:
    seen = snapshot(Enumeration(CHAIN), torch.full((8,), 3), LeaveOneOut(), RewardToGo(gamma=GAMMA))
    metrics = EstimatorPanel(facts=FACTS, gamma=GAMMA).measure(seen)
    assert metrics["panel/zero/variance_ratio"] is None and metrics["panel/current/snr"] is None


def test_the_dials_error_is_squared_bias_plus_variance_and_its_bias_that_against_lambda_one() -> None:
    problem = Enumeration(CHAIN)
    seen = snapshot(problem, COLUMNS, Value(), LambdaReturn(gamma=GAMMA, lam=0.5), error=2.0)
    dial = Dial(facts=FACTS, gamma=GAMMA, lambdas=[0.5, 1.0])
    metrics = dial.measure(seen)
    gradients = seen.scores.per_sample(seen.coefficients)
    whole = snapshot(problem, COLUMNS, Value(), LambdaReturn(gamma=GAMMA, lam=1.0), error=2.0)
    difference = gradients - whole.scores.per_sample(whole.coefficients)
    bias = max(0.0, float(spread(difference, num_samples=9).signal[0]))
    variance = float(spread(gradients, num_samples=9).variance[0])
    assert metrics["dial/lambda_0.5/bias_squared"] == pytest.approx(bias, abs=1e-10)
    assert metrics["dial/lambda_0.5/mean_squared_error"] == pytest.approx(bias + variance, abs=1e-10)
    assert metrics["dial/lambda_1/bias_squared"] == 0.0
    assert metrics["dial/best_lambda"] is None  # 9 trajectories


def test_the_squared_bias_of_the_dial_is_unbiased_before_it_is_cut_at_zero() -> None:
    problem = Enumeration(BANDIT, seed=4)
    probabilities = problem.probabilities().tolist()
    half, one = candidate("gae_0.5"), candidate("gae_1")
    average, truth = 0.0, torch.zeros(())
    for first, p in enumerate(probabilities):
        for second, q in enumerate(probabilities):
            seen = snapshot(problem, torch.tensor([first, second]), Zero(), RewardToGo(gamma=GAMMA), error=2.0)
            comparison = Comparison(seen, [half, one], gamma=GAMMA, max_columns=None)
            difference = comparison.gradients(half) - comparison.gradients(one)
            average += p * q * float(spread(difference, num_samples=2).signal[0])
            truth = truth + p * q * difference.mean(dim=0)
    assert average == pytest.approx(float(truth.square().sum()), abs=1e-12)


def test_the_critics_lag_is_two_ratios_of_the_panel() -> None:
    problem = Enumeration(CHAIN)
    seen = snapshot(problem, torch.arange(24), Value(), RewardToGo(gamma=GAMMA))
    lag = CriticLag(gamma=GAMMA).measure(seen)
    panel = EstimatorPanel(facts=FACTS, gamma=GAMMA).measure(seen)
    of = {name: panel[f"panel/{name}/variance_of_mean"] for name in ("value", "leave_one_out", "gls")}
    assert all(value is not None for value in of.values())
    assert lag["critic_lag/value_ratio"] == pytest.approx(of["value"] / of["leave_one_out"], abs=1e-10)
    assert lag["critic_lag/corrected_ratio"] == pytest.approx(of["gls"] / of["value"], abs=1e-10)


@pytest.mark.parametrize("instrument", [Dial, CriticLag])
def test_what_reads_a_critic_answers_nothing_without_one(
    instrument: type[Dial] | type[CriticLag], caplog: pytest.LogCaptureFixture
) -> None:
    seen = snapshot(Enumeration(CHAIN), COLUMNS, Zero(), RewardToGo(gamma=GAMMA))
    without = replace(seen, factors=replace(seen.factors, values=None))
    made = Dial(facts=FACTS, gamma=GAMMA) if instrument is Dial else CriticLag(gamma=GAMMA)
    with caplog.at_level(logging.WARNING, logger="pgkit"):
        assert [made.measure(without) for _ in range(2)] == 2 * [dict.fromkeys(made.tags)]
    assert [record.getMessage().partition(": ")[2] for record in caplog.records] == [
        "it reads a critic, as critic=value"
    ]
