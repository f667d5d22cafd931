"""Intervals of off-policy values: closed forms, and how often they hold the truth."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats

from pgkit.core.off_policy_intervals import (
    Interval,
    bootstrap_interval,
    empirical_bernstein_interval,
    hoeffding_interval,
    truncated_interval,
    truncated_lower_bound,
)
from pgkit.core.off_policy_value import Terms, discounted_returns, per_decision_terms, trajectory_terms
from pgkit.errors import UsageError
from tests.off_policy import BEHAVIOR, GAMMA, Paths, drawn, true_value

WEIGHT = (0.8 / 0.5) * (0.7 / 0.4) ** 2
"""No weight of an episode is larger: three steps, of which at most two start in the first place."""
HIGHEST, LOWEST = 3 * 4.0, -3.0
"""No return lies outside."""


def terms_of(paths: Paths, *, normalise: bool) -> Terms:
    return per_decision_terms(paths.rewards, paths.log_ratio(), paths.mask, gamma=GAMMA, normalise=normalise)


def bootstrap(terms: Terms, seed: int = 0, *, accelerated: bool = True) -> Interval:
    found = bootstrap_interval(
        terms.resampled,
        num_samples=terms.values.shape[1],
        confidence=0.95,
        resamples=1000,
        generator=np.random.default_rng(seed),
        without_each=terms.without_each() if accelerated else None,
    )
    assert found is not None
    return found


def test_bca_is_that_of_scipy() -> None:
    values = torch.from_numpy(np.random.default_rng(0).standard_gamma(1.0, size=40))
    ours = bootstrap(Terms(log_weight=torch.zeros(1, 40).double(), values=values[None]), seed=1)
    theirs = stats.bootstrap(
        (values.numpy(),), np.mean, n_resamples=40_000, method="BCa", rng=np.random.default_rng(2)
    ).confidence_interval
    width = theirs.high - theirs.low
    assert abs(ours.low - theirs.low) < 0.06 * width and abs(ours.high - theirs.high) < 0.06 * width
    plain = bootstrap(Terms(log_weight=torch.zeros(1, 40).double(), values=values[None]), seed=1, accelerated=False)
    assert ours.low > plain.low and ours.high > plain.high, "the correction is for the skew"


def covered(size: int, repeats: int, *, normalise: bool, truth: float) -> float:
    """Returns how often the bootstrap holds the truth."""
    return float(
        np.mean([truth in bootstrap(terms_of(drawn(size, s), normalise=normalise), s) for s in range(repeats)])
    )


@pytest.mark.statistical
@pytest.mark.parametrize("normalise", [False, True])
def test_the_bootstrap_holds_the_truth_as_often_as_it_says(normalise: bool) -> None:
    """400 data sets: a true coverage of 0.93 to 0.96 leaves the range of 3.5 standard errors once in 2,000 times."""
    share = covered(100, 400, normalise=normalise, truth=true_value())
    assert 0.93 - 3.5 * math.sqrt(0.93 * 0.07 / 400) < share < 0.96 + 3.5 * math.sqrt(0.96 * 0.04 / 400)
    # The biased twin: the value of the behaviour in the place of the target's.
    assert covered(1000, 40, normalise=normalise, truth=true_value(target=BEHAVIOR)) < 0.7


def test_hoeffding_and_bernstein_are_their_formulas() -> None:
    values = torch.linspace(0, 1, 1001, dtype=torch.float64)
    margin = math.sqrt(math.log(40) / (2 * 1001))
    found = hoeffding_interval(values, low=0, high=1, confidence=0.95)
    assert (found.low, found.high) == pytest.approx((0.5 - margin, 0.5 + margin), rel=1e-12)
    log = math.log(80)
    margin = math.sqrt(2 * float(values.var()) * log / 1001) + 7 * log / 3000
    found = empirical_bernstein_interval(values, low=0, high=1, confidence=0.95)
    assert (found.low, found.high) == pytest.approx((0.5 - margin, 0.5 + margin), rel=1e-12)


def test_bernstein_is_the_narrower_where_values_hardly_vary() -> None:
    values = torch.full((1000,), 0.5, dtype=torch.float64)
    widths = [
        found.high - found.low
        for found in (
            empirical_bernstein_interval(values, low=0, high=1, confidence=0.95),
            hoeffding_interval(values, low=0, high=1, confidence=0.95),
        )
    ]
    assert widths[0] < 0.5 * widths[1]


def bounds(name: str, paths: Paths, seed: int) -> Interval:
    plain = trajectory_terms(paths.rewards, paths.log_ratio(), paths.mask, gamma=GAMMA, normalise=False)
    reach = {"low": WEIGHT * LOWEST, "high": WEIGHT * HIGHEST, "confidence": 0.95}
    if name == "hoeffding":
        return hoeffding_interval(plain.values[0], **reach)
    if name == "bernstein":
        return empirical_bernstein_interval(plain.values[0], **reach)
    weight = paths.log_ratio().sum(dim=0).exp()
    returns = discounted_returns(paths.rewards, paths.mask, gamma=GAMMA)
    generator = np.random.default_rng(seed)
    return truncated_interval(weight, returns, low=LOWEST, high=HIGHEST, confidence=0.95, generator=generator)


@pytest.mark.statistical
@pytest.mark.parametrize("name", ["hoeffding", "bernstein", "truncated"])
def test_bounds_hold_more_often_than_they_say_and_close_on_the_truth(name: str) -> None:
    """200 data sets: a bound that failed 5 % of the time would miss 20 or more of them once in a thousand times."""
    truth = true_value()
    found = [bounds(name, drawn(60, seed), seed) for seed in range(200)]
    assert sum(truth not in each for each in found) < 20
    wide = bounds(name, drawn(100_000, 0), 0)
    assert truth in wide and wide.high - wide.low < 0.7
    # The biased twin: other rewards than those that were logged.
    assert truth + 0.7 not in wide


def test_the_lower_bound_needs_no_upper_one() -> None:
    heavy = torch.from_numpy(np.random.default_rng(0).pareto(1.5, size=20_000))
    found = [truncated_lower_bound(heavy, confidence=c, generator=np.random.default_rng(0)) for c in (0.9, 0.99)]
    assert 0.5 < found[1] < found[0] < 2.0, "the mean is 2"


def test_nothing_is_bounded_by_nothing() -> None:
    generator = np.random.default_rng(0)
    assert truncated_lower_bound(torch.zeros(100), confidence=0.9, generator=generator) == 0
    assert truncated_lower_bound(torch.ones(5), confidence=0.9, generator=generator) == 0
    single = bootstrap_interval(
        lambda counts: counts[:, 0], num_samples=1, confidence=0.95, resamples=10, generator=generator
    )
    assert single is None
    undefined = bootstrap_interval(
        lambda counts: counts[:, 0] * torch.nan, num_samples=9, confidence=0.95, resamples=10, generator=generator
    )
    assert undefined is None


@pytest.mark.parametrize("confidence", [0.0, 1.0, 1.5, math.nan])
def test_a_confidence_that_is_none_is_named(confidence: float) -> None:
    with pytest.raises(UsageError, match="confidence"):
        hoeffding_interval(torch.ones(4), low=0, high=1, confidence=confidence)


def test_values_out_of_range_are_named() -> None:
    with pytest.raises(UsageError, match="values: from 0 to 3, expected all of them from 0 to 1"):
        empirical_bernstein_interval(torch.tensor([0.0, 3.0]), low=0, high=1, confidence=0.9)
    with pytest.raises(UsageError, match="expected none below 0"):
        truncated_lower_bound(torch.tensor([-1.0]), confidence=0.9, generator=np.random.default_rng(0))
