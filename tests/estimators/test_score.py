"""The score estimator with every baseline: its mean over all batches, its error bar, its biased options."""

from __future__ import annotations

import pytest
import torch

from pgkit.baselines.batch import LeaveOneOut, Mean
from pgkit.baselines.constant import Constant, MovingAverage, Zero
from pgkit.baselines.optimal import Optimal, OptimalParameter
from pgkit.core import expectation as core
from pgkit.core.moments import leave_one_out_variance
from pgkit.errors import UsageError
from pgkit.estimate import BASELINES, estimate_gradient
from pgkit.estimators.score import Score
from pgkit.types import Expectation
from tests.laws import bandit, batches, exact_gradient, given, hermite, square

pytestmark = [pytest.mark.exact, pytest.mark.usefixtures("float64")]


def moments(estimator: Score, num_samples: int) -> tuple[torch.Tensor, torch.Tensor, list[torch.Tensor | None]]:
    """Returns mean and variance `[P]` of the bandit's estimate over all batches, and every batch's error bar."""
    law, parameters = bandit()
    found = [(given(estimator, law, parameters, x), chance) for x, chance in batches(law, parameters, num_samples)]
    mean = sum(chance * each.mean for each, chance in found)
    variance = sum(chance * (each.mean - mean).square() for each, chance in found)
    return mean, variance, [each.standard_error for each, _ in found]


@pytest.mark.parametrize(
    "baseline",
    [
        Zero(),
        Constant(value=-3.0),
        LeaveOneOut(),
        Optimal(),
        OptimalParameter(),
        Optimal(folds=2),
        OptimalParameter(folds=2),
    ],
    ids=lambda b: type(b).__name__,
)
@pytest.mark.parametrize("num_samples", [3, 4])
def test_the_estimate_is_unbiased_with_every_unbiased_baseline(baseline: object, num_samples: int) -> None:
    mean, _, _ = moments(Score(baseline=baseline), num_samples)
    torch.testing.assert_close(mean, exact_gradient(*bandit()), rtol=0, atol=1e-10)


def test_a_batch_mean_shrinks_the_gradient_by_one_in_n() -> None:
    mean, _, _ = moments(Score(baseline=Mean()), 4)
    torch.testing.assert_close(mean, 0.75 * exact_gradient(*bandit()), rtol=0, atol=1e-10)


def test_costs_clipped_or_standardised_are_biased_and_say_so() -> None:
    exact = exact_gradient(*bandit())
    for options in ({"clip": 2.0}, {"standardise": True}):
        estimator = Score(baseline=Zero(), **options)
        assert not estimator.unbiased
        mean, _, _ = moments(estimator, 4)
        assert (mean - exact).norm() > 0.1 * exact.norm()


def test_what_clipping_and_standardising_did_is_counted() -> None:
    law, parameters = bandit()
    x = torch.tensor([0, 1, 2, 2])
    clipped = given(Score(baseline=Zero(), clip=2.0), law, parameters, x)
    assert clipped.metrics == {"coefficients/clipped_fraction": 0.5}
    assert clipped.standard_error is not None and not clipped.unbiased
    both = given(Score(baseline=Zero(), standardise=True, clip=1.0), law, parameters, x)
    spread = float(torch.tensor([0.0, 1.0, 5.0, 5.0]).std())
    assert both.metrics == pytest.approx(
        {"coefficients/standard_deviation": spread, "coefficients/clipped_fraction": 0.25}
    )
    assert both.standard_error is None and not both.independent
    assert given(Score(baseline=Zero()), law, parameters, x).metrics == {}


def test_a_clip_beyond_every_cost_changes_nothing() -> None:
    law, parameters = bandit()
    x = torch.tensor([0, 1, 2, 2])
    wide, none = (given(Score(baseline=Zero(), clip=clip), law, parameters, x) for clip in (5.0, None))
    assert torch.equal(wide.mean, none.mean) and wide.metrics == {"coefficients/clipped_fraction": 0.0}


def test_a_baseline_fitted_to_scores_is_not_clipped_around() -> None:
    with pytest.raises(UsageError, match=r"^baseline: Optimal with clip or standardise, expected "):
        Score(baseline=Optimal(), clip=1.0)


@pytest.mark.parametrize("baseline", [LeaveOneOut(), Optimal(), OptimalParameter()], ids=lambda b: type(b).__name__)
def test_one_sample_has_no_others_to_learn_from(baseline: object) -> None:
    law, parameters = bandit()
    with pytest.raises(UsageError, match=r"^num_samples: 1 with baseline \w+, expected at least 2$"):
        given(Score(baseline=baseline), law, parameters, torch.tensor([0]))


def test_the_golden_variances_of_a_square() -> None:
    """x ~ N(1, 1), f = x²: 30 and 136 without a baseline, 18 with E[f], 14 and 64 at the best."""
    law, parameters = square()
    nodes, weights = hermite()
    for baseline, coordinate, variance in ((0.0, 0, 30), (2.0, 0, 18), (4.0, 0, 14), (0.0, 1, 136), (6.0, 1, 64)):
        found = given(Score(baseline=Constant(value=baseline)), law, parameters, 1 + nodes).per_sample[:, coordinate]
        mean = weights @ found
        assert float(mean) == pytest.approx(2.0, abs=1e-10)
        assert float(weights @ (found - mean).square()) == pytest.approx(variance, abs=1e-8)


def test_the_error_of_leave_one_out_is_that_over_all_batches() -> None:
    """The floor only ever raises: on average not below the truth, where the sample formula is."""
    estimator = Score(baseline=LeaveOneOut())
    _, variance, errors = moments(estimator, 5)
    law, parameters = bandit()
    drawn = list(batches(law, parameters, 5))
    expected = sum(chance * error.square() for (_, chance), error in zip(drawn, errors, strict=True))
    naive = sum(chance * given(estimator, law, parameters, x).per_sample.var(dim=0) / 5 for x, chance in drawn)
    assert (naive < variance).all() and (variance < expected).all() and (expected < 2 * variance).all()


def test_the_error_is_null_where_none_is_honest() -> None:
    law, parameters = bandit()
    generator = torch.Generator().manual_seed(0)
    x = law.law(parameters).sample((40,))
    assert given(Score(baseline=Mean()), law, parameters, x).standard_error is None
    assert given(Score(baseline=LeaveOneOut()), law, parameters, x[:3]).standard_error is None
    assert given(Score(baseline=LeaveOneOut(ended="exclude")), law, parameters, x).standard_error is None
    assert given(Score(baseline=Optimal()), law, parameters, x[:31]).standard_error is None
    assert given(Score(baseline=Optimal()), law, parameters, x).standard_error is not None
    assert Score(baseline=Zero()).estimate(law, parameters, num_samples=1, generator=generator).standard_error is None


def test_a_cost_that_moves_with_the_parameters_enters_the_error_of_leave_one_out() -> None:
    law, parameters = bandit()
    moving = Expectation(
        cost=law.cost, law=law.law, direct_cost=lambda x, p: law.cost(x) + 100 * p["logits"][x] * (x == 1)
    )
    x = torch.tensor([0, 1, 2, 2, 1, 0])
    found = given(Score(baseline=LeaveOneOut()), moving, parameters, x)
    costs, scores = law.cost(x), core.scores(law, parameters, x)
    direct = core.direct_term(moving, parameters, x)
    expected = torch.maximum(leave_one_out_variance(costs, scores, direct), found.per_sample.var(dim=0) / 6).sqrt()
    torch.testing.assert_close(found.standard_error, expected)
    assert (leave_one_out_variance(costs, scores, direct) > found.per_sample.var(dim=0) / 6).any()


@pytest.mark.parametrize("baseline", [*BASELINES, 3, 4.5])
def test_every_baseline_has_a_name_or_is_a_number(baseline: str | float) -> None:
    law, parameters = square()
    before = torch.random.get_rng_state()
    found = estimate_gradient(law.cost, law.law, parameters, baseline=baseline, num_samples=64)
    assert found.unbiased == (baseline != "mean")
    assert torch.equal(torch.random.get_rng_state(), before)
    assert found.mean.isfinite().all() and (found.mean - 2).abs().max() < 5


def test_a_moving_average_learns_from_call_to_call() -> None:
    law, parameters = square()
    baseline, fresh = MovingAverage(), MovingAverage()
    estimates = [estimate_gradient(law.cost, law.law, parameters, baseline=baseline) for _ in range(2)]
    assert not torch.equal(estimates[0].mean, estimates[1].mean)
    assert torch.equal(estimates[0].mean, estimate_gradient(law.cost, law.law, parameters, baseline=fresh).mean)
