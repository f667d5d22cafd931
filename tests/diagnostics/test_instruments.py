"""What the instruments say of a batch, against what enumeration knows."""

from __future__ import annotations

import copy
import itertools
import logging
import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from pgkit.baselines.batch import LeaveOneOut
from pgkit.baselines.constant import Zero
from pgkit.core.processes import BANDIT, CHAIN
from pgkit.core.scores import Scores
from pgkit.diagnostics import gradients, variance
from pgkit.diagnostics.baseline import ExplainedVariance
from pgkit.diagnostics.policy import PolicyChange
from pgkit.diagnostics.variance import GradientVariance
from pgkit.estimators.score_function import ScoreFunction
from pgkit.protocols import Baseline
from pgkit.returns.discounted import RewardToGo
from pgkit.rl.factors import LogProbability
from pgkit.snapshot import Snapshot
from pgkit.types import Coupling
from tests.problems import Enumeration, columns_of

pytestmark = [pytest.mark.exact, pytest.mark.usefixtures("float64")]


def snapshot(
    problem: Enumeration,
    columns: Tensor,
    baseline: Baseline,
    *,
    gamma: float = 1.0,
    coupling: Coupling | None = None,
) -> Snapshot:
    """Returns what an instrument sees of a batch, before any update was made."""
    batch = problem.trajectories.columns(columns)
    estimator = ScoreFunction(gamma=gamma, discount_states=gamma < 1)
    factors = columns_of(problem.factors(RewardToGo(gamma=gamma), estimator=estimator), columns)
    reference = baseline.value(factors)
    scores = Scores(LogProbability(problem.policy), (batch.obs[:-1], batch.actions), batch.mask)
    return Snapshot(
        trajectories=batch,
        factors=factors,
        baseline=reference,
        estimator=estimator,
        coefficients=estimator.coefficients(factors, reference),
        coupling=coupling or baseline.coupling,
        before=problem.policy,
        policy=problem.policy,
        scores=scores,
    )


def expected_over_ordered_batches(
    problem: Enumeration, num_columns: int, baseline: Baseline, instrument: GradientVariance
) -> dict[str, float]:
    """Returns the expectation of every linear quantity over all batches, order included: groups depend on it."""
    probabilities = problem.probabilities().tolist()
    total = dict.fromkeys(instrument.tags[:2], 0.0)
    for columns in itertools.product(range(len(probabilities)), repeat=num_columns):
        found = instrument.measure(snapshot(problem, torch.tensor(columns), baseline))
        for tag in total:
            total[tag] += math.prod(probabilities[column] for column in columns) * found[tag]
    return total


def truth(problem: Enumeration, num_columns: int, baseline: Baseline) -> tuple[float, float]:
    """Returns the enumerated variance of one column's gradient and of the mean."""
    factors, estimator = problem.factors(RewardToGo(gamma=1.0)), ScoreFunction(gamma=1.0)
    one = mean = 0.0
    for columns, probability in problem.batches(num_columns):
        batch = columns_of(factors, columns)
        coefficients = estimator.coefficients(batch, baseline.value(batch))
        gradients = torch.einsum("tn,tnp->np", coefficients, problem.scores[:, columns])
        one += probability * float(gradients.square().sum(dim=1).mean())
        mean += probability * float(gradients.mean(dim=0).square().sum())
    signal = float(problem.exact_gradient(1.0).square().sum())
    return one - signal, mean - signal


@pytest.mark.parametrize(
    ("baseline", "num_columns", "options"),
    [
        (Zero(), 3, {}),
        (Zero(), 5, {"max_columns": 3}),
        (LeaveOneOut(), 4, {}),
        (LeaveOneOut(), 5, {}),
    ],
    ids=["independent", "some of independent", "leave-one-out", "leave-one-out in a group of five"],
)
def test_both_variances_are_unbiased(baseline: Baseline, num_columns: int, options: dict[str, int]) -> None:
    problem = Enumeration(BANDIT, seed=4)
    found = expected_over_ordered_batches(problem, num_columns, baseline, GradientVariance(**options))
    per_sample, of_mean = truth(problem, num_columns, baseline)
    assert found["gradient/per_sample_variance"] == pytest.approx(per_sample, abs=1e-10)
    assert found["gradient/variance_of_mean"] == pytest.approx(of_mean, abs=1e-10)


def test_discounted_states_enter_the_pairs() -> None:
    # The mean over pairs of the kernel is the estimate itself, with γ^t on the scores.
    problem, columns = Enumeration(CHAIN), torch.tensor([0, 7, 13, 20])
    seen = snapshot(problem, columns, LeaveOneOut(), gamma=0.7)
    (cross,) = gradients.cross_gradients(seen, seen.factors.signal, [slice(0, 4)])
    own = cross.diagonal(dim1=0, dim2=1).T
    kernel = 0.5 * (own[:, None] + own[None, :] - cross - cross.transpose(0, 1))
    estimate = torch.cat([gradients[0] for _, gradients in seen.scores.gradients(seen.coefficients[None])]).mean(dim=0)
    torch.testing.assert_close(kernel.sum(dim=(0, 1)) / 12, estimate, rtol=0, atol=1e-12)


@pytest.mark.parametrize("num_columns", [4, 7, 9, 16, 17, 31, 33, 64, 100])
def test_no_group_is_larger_than_was_asked_for_nor_too_small(num_columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    original = variance.pair_moments
    monkeypatch.setattr(variance, "pair_moments", lambda cross: (sizes.append(len(cross)), original(cross))[1])
    problem = Enumeration(BANDIT)
    GradientVariance(group=16).measure(snapshot(problem, torch.arange(num_columns) % 3, LeaveOneOut()))
    assert sizes and min(sizes) >= 4 and max(sizes) <= 16
    sizes.clear()
    monkeypatch.setattr(gradients, "MOST_NUMBERS", 6**2 * len(problem.exact_gradient(1.0)))
    GradientVariance(group=16).measure(snapshot(problem, torch.arange(num_columns) % 3, LeaveOneOut()))
    assert sizes and min(sizes) >= 4 and max(sizes) < 8


@pytest.mark.parametrize(
    ("num_columns", "baseline", "coupling", "reason"),
    [
        (3, LeaveOneOut(), None, "3 columns, and at least 4 are needed"),
        (1, Zero(), None, "1 columns, and at least 2 are needed"),
        (7, LeaveOneOut(ended="exclude"), None, "7 columns, and at least 8 are needed"),
        (8, Zero(), "batch", "a statistic of the whole batch couples its columns"),
    ],
)
def test_what_a_batch_cannot_answer_is_null_with_one_warning(
    num_columns: int, baseline: Baseline, coupling: Coupling | None, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    instrument = GradientVariance()
    seen = snapshot(Enumeration(CHAIN), torch.arange(num_columns), baseline, coupling=coupling)
    with caplog.at_level(logging.WARNING, logger="pgkit"):
        assert [instrument.measure(seen) for _ in range(3)] == 3 * [dict.fromkeys(instrument.tags)]
    assert [record.getMessage() for record in caplog.records] == [f"gradient/per_sample_variance is null: {reason}"]


def test_the_signal_to_noise_ratio_and_cosine_are_those_of_the_moments() -> None:
    seen = snapshot(Enumeration(CHAIN), torch.arange(24), Zero())
    found = GradientVariance().measure(seen)
    gradients = seen.scores.per_sample(seen.coefficients)
    of_mean = float(gradients.var(dim=0).sum()) / 24
    ratio = float(gradients.mean(dim=0).square().sum()) / of_mean - 1
    assert found["gradient/per_sample_variance"] == pytest.approx(24 * of_mean)
    assert found["gradient/snr"] == pytest.approx(ratio)
    assert found["gradient/expected_cosine"] == pytest.approx((1 + 1 / ratio) ** -0.5 if ratio > 0 else None)


def test_equal_outcomes_have_no_noise_and_no_ratio() -> None:
    problem = Enumeration(BANDIT)
    for columns in (torch.zeros(4, dtype=torch.long), torch.full((6,), 2)):
        found = GradientVariance().measure(snapshot(problem, columns, LeaveOneOut()))
        assert found["gradient/per_sample_variance"] == found["gradient/variance_of_mean"] == 0.0
        assert found["gradient/snr"] is None and found["gradient/expected_cosine"] is None


def test_the_change_of_a_policy_is_its_divergence_at_the_states_visited() -> None:
    problem, columns = Enumeration(CHAIN), torch.tensor([0, 3, 9])
    seen = snapshot(problem, columns, Zero())
    assert PolicyChange().measure(seen) == {"policy/kl": pytest.approx(0.0, abs=1e-12)}
    before, after = problem.table().detach(), copy.deepcopy(problem.policy)
    with torch.no_grad():
        after.network[0].weight += torch.tensor([[0.5, -0.3], [0.1, 0.4]])
    moved = torch.softmax(after.network[0].weight.T + after.network[0].bias, dim=1).detach()
    per_state = (before * (before / moved).log()).sum(dim=1)
    batch = seen.trajectories
    expected = float(per_state[batch.obs[:-1][batch.mask]].mean())
    found = PolicyChange().measure(replace(seen, policy=after))["policy/kl"]
    assert found == pytest.approx(expected, abs=1e-10) and found > 0.01


def test_explained_variance_is_null_without_spread() -> None:
    problem = Enumeration(BANDIT)
    same = snapshot(problem, torch.ones(5, dtype=torch.long), LeaveOneOut())
    assert ExplainedVariance().measure(same) == {"baseline/explained_variance": None}
    spread = snapshot(problem, torch.tensor([0, 1, 2]), Zero())
    assert ExplainedVariance().measure(spread) == {"baseline/explained_variance": pytest.approx(0.0)}
