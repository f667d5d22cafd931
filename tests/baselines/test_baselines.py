"""What each baseline reads from a batch, and that reading changes nothing."""

from __future__ import annotations

import pytest
import torch

from pgkit.baselines.batch import LeaveOneOut, Mean
from pgkit.baselines.constant import MovingAverage, Zero
from pgkit.baselines.value import Value
from pgkit.core.processes import BANDIT
from pgkit.estimators.score_function import ScoreFunction
from pgkit.returns.discounted import RewardToGo
from pgkit.types import Factors
from tests.problems import Enumeration, columns_of

pytestmark = [pytest.mark.exact, pytest.mark.usefixtures("float64")]

# Three episodes, of 2, 3 and 1 steps; what is outside is wild.
MASK = torch.tensor([[True, True, True], [True, True, False], [False, True, False]])
SIGNAL = torch.where(MASK, torch.tensor([[1.0, 2.0, 6.0], [3.0, 5.0, 0.0], [0.0, 7.0, 0.0]]).double(), 999.0)


def factors(signal: torch.Tensor = SIGNAL, values: torch.Tensor | None = None) -> Factors:
    return Factors(signal=signal, log_weight=torch.zeros(3, 3), mask=MASK, values=values)


def valid(found: torch.Tensor) -> list[list[float]]:
    return [row[keep].tolist() for row, keep in zip(found, MASK, strict=True)]


def test_the_others_that_ended_count_as_nothing_or_not_at_all() -> None:
    assert valid(LeaveOneOut(ended="zero").value(factors())) == [[4.0, 3.5, 1.5], [2.5, 1.5], [0.0]]
    assert valid(LeaveOneOut(ended="exclude").value(factors())) == [[4.0, 3.5, 1.5], [5.0, 3.0], [0.0]]
    assert valid(Mean().value(factors())) == [[3.0, 3.0, 3.0], [8 / 3, 8 / 3], [7 / 3]]


def test_a_columns_baseline_does_not_depend_on_its_own_outcomes() -> None:
    for ended in ("zero", "exclude"):
        baseline = LeaveOneOut(ended=ended)
        changed = SIGNAL.clone()
        changed[:, 1] += 100.0
        assert torch.equal(baseline.value(factors(changed))[:, 1], baseline.value(factors())[:, 1])
    changed = SIGNAL.clone()
    changed[:, 1] += 100.0
    assert not torch.equal(Mean().value(factors(changed))[:, 1], Mean().value(factors())[:, 1])


def test_equal_outcomes_cancel_exactly_in_single_precision() -> None:
    signal = torch.full((3, 7), 0.1, dtype=torch.float32)
    same = Factors(signal=signal, log_weight=torch.zeros_like(signal), mask=torch.ones(3, 7, dtype=torch.bool))
    assert torch.equal(LeaveOneOut().value(same), signal)


@pytest.mark.parametrize("baseline", [Zero(), Mean(), LeaveOneOut(), MovingAverage(), Value()])
def test_reading_changes_nothing_and_follows_no_gradient(baseline: object) -> None:
    read = factors(values=torch.arange(12.0).reshape(4, 3))
    before = dict(baseline.state_dict())
    first, second = baseline.value(read), baseline.value(read)
    assert torch.equal(first, second) and not first.requires_grad and first.shape == (3, 3)
    assert baseline.state_dict() == before


def test_a_moving_average_is_corrected_for_its_start() -> None:
    baseline = MovingAverage(decay=0.75)
    assert baseline.value(factors()).abs().max() == 0
    baseline.update(factors())
    assert baseline.value(factors()).unique().tolist() == [4.0]  # the mean of the six valid ones
    baseline.update(factors(SIGNAL + 4))
    assert float(baseline.value(factors())[0, 0]) == pytest.approx((0.75 * 4 + 8) / 1.75)
    nothing = Factors(signal=SIGNAL, log_weight=torch.zeros(3, 3), mask=torch.zeros_like(MASK))
    before = baseline.state_dict()
    baseline.update(nothing)
    assert baseline.state_dict() == before
    restored = MovingAverage(decay=0.75)
    restored.load_state_dict(before)
    assert torch.equal(restored.value(factors()), baseline.value(factors()))


def test_values_are_those_of_the_states_that_were_acted_in() -> None:
    values = torch.arange(12.0).reshape(4, 3)
    assert torch.equal(Value().value(factors(values=values)), values[:3])
    with pytest.raises(ValueError, match="values: None"):
        Value().value(factors())


@pytest.mark.parametrize("num_columns", [1, 3])
def test_learning_before_reading_shrinks_the_gradient(num_columns: int) -> None:
    """The reason for the order in the loop: read, use, and only then learn."""
    problem, estimator = Enumeration(BANDIT), ScoreFunction(gamma=1.0)
    outcomes = problem.factors(RewardToGo(gamma=1.0))
    exact, right, wrong = problem.exact_gradient(1.0), torch.zeros(()), torch.zeros(())
    for columns, probability in problem.batches(num_columns):
        baseline = MovingAverage(decay=0.75)
        baseline.update(columns_of(outcomes, torch.tensor([2])))
        right = right + probability * problem.estimate(columns, outcomes, baseline, estimator)
        baseline.update(columns_of(outcomes, columns))
        wrong = wrong + probability * problem.estimate(columns, outcomes, baseline, estimator)
    torch.testing.assert_close(right, exact, rtol=0, atol=1e-10)
    # The weight of the newest batch in the corrected average is 0.25 / (0.25 + 0.75 · 0.25) = 4/7.
    torch.testing.assert_close(wrong, exact * (1 - 4 / 7 / num_columns), rtol=0, atol=1e-10)
