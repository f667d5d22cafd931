"""Intervals by the stratified jackknife."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from pgkit.core.jackknife import linear_ratio, pair_spread, ratio, spread
from pgkit.core.moments import independent_moments, mean_pairs, pair_moments

pytestmark = pytest.mark.usefixtures("float64")


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def without(index: int, size: int) -> list[int]:
    return [other for other in range(size) if other != index]


@pytest.mark.exact
def test_entries_of_a_spread_are_those_of_the_moments_with_and_without_each_sample() -> None:
    gradients = normal(9, 5) + 0.3
    found = spread(gradients, num_samples=12)
    for entry, kept in enumerate([list(range(9)), *(without(i, 9) for i in range(9))]):
        some = gradients[kept]
        expected = independent_moments(some.mean(dim=0), float(some.square().sum()), len(some))
        assert float(found.variance[entry]) == pytest.approx(expected.per_sample_variance / 12, abs=1e-12)
        assert float(found.signal[entry]) == pytest.approx(expected.signal, abs=1e-12)


@pytest.mark.exact
def test_entries_of_a_pair_spread_are_those_of_the_moments_with_and_without_each_sample() -> None:
    first, second = normal(7, 7, 4, seed=1), normal(6, 6, 4, seed=2)
    found = pair_spread([first, second], num_samples=13)
    groups = [(first, second)]
    groups += [(first[kept][:, kept], second) for kept in (without(i, 7) for i in range(7))]
    groups += [(first, second[kept][:, kept]) for kept in (without(i, 6) for i in range(6))]
    for entry, group in enumerate(groups):
        expected = mean_pairs([pair_moments(cross) for cross in group])
        assert float(found.variance[entry]) == pytest.approx(expected.variance_of_mean(13), abs=1e-12)
        assert float(found.signal[entry]) == pytest.approx(expected.disjoint, abs=1e-12)


@pytest.mark.exact
def test_two_samples_give_a_variance_and_no_interval() -> None:
    found = spread(normal(2, 3), num_samples=2)
    interval = ratio([found.variance], [found.variance * 2])
    assert interval.point == pytest.approx(0.5)
    assert interval.low is None and interval.high is None


@pytest.mark.exact
def test_a_ratio_to_itself_is_one_without_doubt() -> None:
    variance = spread(normal(20, 3), num_samples=20).variance
    interval = ratio([variance, variance], [variance, variance])
    assert (interval.point, interval.low, interval.high) == pytest.approx((1.0, 1.0, 1.0))


@pytest.mark.exact
def test_nothing_is_said_of_a_ratio_to_zero_or_of_the_logarithm_of_a_negative_one() -> None:
    one = torch.ones(5)
    assert ratio([one], [0 * one]).point is None
    assert ratio([-one], [one]).point is None
    assert linear_ratio([-one], [one]).point == -1.0


def coverage(stretch: float) -> float:
    """Returns how often the interval of a ratio of traces holds the truth, 4, in 400 pooled windows of 8 x 8."""
    generator = torch.Generator().manual_seed(5)
    hits = 0
    for _ in range(400):
        pairs = []
        for _ in range(8):
            small = torch.randn(8, 6, generator=generator)
            large = 2 * (0.8 * small + 0.6 * torch.randn(8, 6, generator=generator))
            pairs.append((spread(large, num_samples=8).variance, spread(small, num_samples=8).variance))
        found = ratio([large for large, _ in pairs], [small for _, small in pairs])
        assert found.point is not None and found.high is not None
        hits += abs(math.log(found.point / 4)) <= stretch * math.log(found.high / found.point)
    return hits / 400


@pytest.mark.statistical
def test_pooled_intervals_of_ratios_cover_at_their_level_and_narrower_ones_do_not() -> None:
    assert 0.92 <= coverage(1.0) <= 0.98  # nominal .95, standard error .011
    assert coverage(0.5) < 0.75  # the biased twin: half as wide
