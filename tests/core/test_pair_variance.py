"""The variance of a leave-one-out estimate, coordinate by coordinate, without a loop over pairs."""

from __future__ import annotations

import pytest
import torch

from pgkit.core import expectation as core
from pgkit.core.moments import leave_one_out_variance, pair_moments
from tests.laws import bandit, batches

pytestmark = [pytest.mark.exact, pytest.mark.usefixtures("float64")]


@pytest.mark.parametrize("num_samples", [4, 5, 17])
def test_its_sum_is_the_trace_form_over_all_pairs(num_samples: int) -> None:
    generator = torch.Generator().manual_seed(num_samples)
    costs = 3 + torch.randn(num_samples, generator=generator)
    scores = torch.randn(num_samples, 6, generator=generator)
    expected = pair_moments(costs[:, None, None] * scores[None]).variance_of_mean(num_samples)
    assert float(leave_one_out_variance(costs, scores).sum()) == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("moving", [False, True])
@pytest.mark.parametrize("num_samples", [4, 5])
def test_it_is_unbiased_over_all_batches_of_a_bandit(num_samples: int, moving: bool) -> None:
    law, parameters = bandit()
    support = torch.arange(3)
    costs, scores = law.cost(support), core.scores(law, parameters, support)
    direct = torch.tensor([[1.0, -2.0, 0.5], [0.0, 3.0, 1.0], [2.0, 2.0, -4.0]]) * moving
    mean = second = expected = torch.zeros(3)
    for x, chance in batches(law, parameters, num_samples):
        f, s, d = costs[x], scores[x], direct[x]
        estimate = (f - f.mean()) @ s / (num_samples - 1) + d.mean(dim=0)
        mean, second = mean + chance * estimate, second + chance * estimate.square()
        expected = expected + chance * leave_one_out_variance(f, s, d)
    torch.testing.assert_close(expected, second - mean.square(), rtol=0, atol=1e-10)


def test_equal_costs_leave_no_variance_and_large_ones_lose_no_digits() -> None:
    generator = torch.Generator().manual_seed(0)
    costs, scores = torch.randn(50, generator=generator), torch.randn(50, 4, generator=generator)
    assert leave_one_out_variance(torch.full((50,), 0.1), scores).abs().max() < 1e-30
    torch.testing.assert_close(leave_one_out_variance(costs + 1e6, scores), leave_one_out_variance(costs, scores))


def test_three_samples_are_too_few() -> None:
    with pytest.raises(ValueError, match="costs: 3 samples, expected at least 4"):
        leave_one_out_variance(torch.zeros(3), torch.zeros(3, 2))
