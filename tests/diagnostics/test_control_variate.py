"""Whether a control variate helps: the ratio is that of the two variances, with words where there is none."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from pgkit.baselines.batch import Mean
from pgkit.baselines.constant import Zero
from pgkit.core.action_terms import RowTerms
from pgkit.core.processes import CHAIN
from pgkit.core.scores import Scores
from pgkit.diagnostics.control_variate import ControlVariate
from pgkit.diagnostics.variance import GradientVariance
from pgkit.errors import UsageError
from pgkit.estimators.q_prop import QProp
from pgkit.estimators.score_function import ScoreFunction
from pgkit.returns.discounted import RewardToGo
from pgkit.snapshot import Snapshot
from tests.diagnostics.snapshots import drawn, facts_of, snapshot
from tests.problems import Enumeration, columns_of

pytestmark = [pytest.mark.exact, pytest.mark.usefixtures("float64")]

CONTROLLED = ScoreFunction(gamma=1.0, control_variate="optimal_parameter")


def problem_and_snapshot(num_columns: int, seed: int = 0) -> tuple[Enumeration, Tensor, Snapshot]:
    problem = Enumeration(CHAIN, seed=3)
    columns = drawn(problem, num_columns, seed=seed)
    seen = snapshot(problem, columns, Zero(), coupling="cross_fitted")
    return problem, columns, replace(seen, estimator=CONTROLLED)


def instrument(problem: Enumeration, columns: int) -> ControlVariate:
    return ControlVariate(facts=replace(facts_of(problem, columns), controlled=True))


def trace(rows: Tensor) -> float:
    return float((rows - rows.mean(dim=0)).square().sum() / (len(rows) - 1))


def test_the_ratio_is_that_of_the_variances_with_it_and_without() -> None:
    problem, columns, seen = problem_and_snapshot(12)
    factors = seen.factors
    plain = torch.einsum("tn,tnp->np", seen.coefficients, problem.scores[:, columns])
    assert factors.scale is not None
    sums = torch.einsum("tn,tnp->np", factors.scale, problem.scores[:, columns])
    expected = trace(CONTROLLED.control(plain, sums, {})) / trace(plain)
    found = instrument(problem, 12).measure(seen)
    assert found["control_variate/variance_ratio"] == pytest.approx(expected, abs=1e-10)
    assert found["control_variate/variance_ratio_low"] is None  # 12 trajectories carry no interval


def test_batches_are_pooled_and_enough_of_them_carry_an_interval() -> None:
    problem, _, _ = problem_and_snapshot(12)
    meter, above, below = instrument(problem, 40), 0.0, 0.0
    for seed in range(2):
        _, columns, seen = problem_and_snapshot(40, seed)
        found = meter.measure(seen)
        plain = torch.einsum("tn,tnp->np", seen.coefficients, problem.scores[:, columns])
        assert seen.factors.scale is not None
        sums = torch.einsum("tn,tnp->np", seen.factors.scale, problem.scores[:, columns])
        above, below = above + trace(CONTROLLED.control(plain, sums, {})), below + trace(plain)
    point, low, high = (found[tag] for tag in meter.tags)
    assert point == pytest.approx(above / below, abs=1e-10)
    assert low is not None and high is not None and low < above / below < high


def test_rows_of_several_terms_are_held_against_the_score_function_alone() -> None:
    problem, columns, seen = problem_and_snapshot(16)
    estimator = QProp(gamma=1.0, eta="one")
    factors = replace(columns_of(problem.factors(RewardToGo(gamma=1.0)), columns), expansion=Still(seen))
    coefficients = estimator.coefficients(factors, seen.baseline)
    inputs = (factors.contexts, factors.samples, coefficients)
    rows = Scores(RowTerms(problem.policy, estimator.terms), inputs, factors.mask)
    shown = replace(seen, estimator=estimator, rows=rows, coefficients=factors.mask.double(), coupling="independent")
    # A critic whose slopes are nothing changes nothing.
    found = instrument(problem, 16).measure(shown)
    assert found["control_variate/variance_ratio"] == pytest.approx(1.0, abs=1e-10)
    plain = replace(seen, estimator=ScoreFunction(gamma=1.0), coupling="independent")
    assert GradientVariance().measure(shown) == pytest.approx(GradientVariance().measure(plain), abs=1e-10)


class Still:
    """An expansion without slopes."""

    def __init__(self, seen: Snapshot) -> None:
        self.slopes = torch.zeros(*seen.factors.signal.shape, 2)
        self.deviations = torch.ones_like(self.slopes)
        self.others = torch.zeros_like(self.slopes)


@pytest.mark.parametrize("num_columns", [1, 4])
def test_too_few_columns_have_no_ratio(num_columns: int, caplog: pytest.LogCaptureFixture) -> None:
    problem, _, seen = problem_and_snapshot(num_columns)
    meter = instrument(problem, num_columns)
    for _ in range(2):
        assert meter.measure(seen) == dict.fromkeys(meter.tags)
    assert len([record for record in caplog.records if "control_variate" in record.message]) == 1


def test_a_statistic_of_the_whole_batch_has_no_ratio() -> None:
    problem, columns, _ = problem_and_snapshot(12)
    seen = replace(snapshot(problem, columns, Mean()), estimator=CONTROLLED)
    assert set(instrument(problem, 12).measure(seen).values()) == {None}


def test_without_any_variance_there_is_no_ratio_and_no_nan() -> None:
    problem, _, seen = problem_and_snapshot(12)
    still = replace(seen, coefficients=torch.zeros_like(seen.coefficients))
    flat = replace(still, factors=replace(seen.factors, signal=seen.baseline))
    assert set(instrument(problem, 12).measure(flat).values()) == {None}


def test_a_run_without_a_control_variate_is_refused() -> None:
    problem = Enumeration(CHAIN)
    with pytest.raises(UsageError, match=r"^diagnostics: control_variate without one, expected estimator\."):
        ControlVariate(facts=facts_of(problem, 8))
