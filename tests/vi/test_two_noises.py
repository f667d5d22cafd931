"""The variance of a minibatch gradient is that of the data plus that of the samples."""

from __future__ import annotations

from itertools import product

import pytest
import torch

from pgkit.core.two_noises import split_variance

VALUES = torch.tensor([[1.0, 4.0], [0.0, -2.0], [5.0, 6.0]], dtype=torch.float64)
"""The gradient of each of two equally likely samples on each of three equally likely minibatches."""


def outcomes() -> list[torch.Tensor]:
    """Returns every equally likely table `[2, 2, 1]` of two minibatches with two samples each."""
    return [
        torch.stack([VALUES[first, [a, b]], VALUES[second, [c, d]]])[..., None]
        for first, second in product(range(3), repeat=2)
        for a, b, c, d in product(range(2), repeat=4)
    ]


def test_both_parts_are_unbiased() -> None:
    found = [split_variance(table) for table in outcomes()]
    sampling = VALUES.var(dim=1, correction=0).mean()
    data = VALUES.mean(dim=1).var(correction=0)
    assert sum(each.sampling for each in found) / len(found) == pytest.approx(float(sampling), abs=1e-10)
    assert sum(each.data for each in found) / len(found) == pytest.approx(float(data), abs=1e-10)


@pytest.mark.parametrize("num_samples", [1, 2, 3])
def test_together_they_are_the_variance_of_a_step(num_samples: int) -> None:
    means = [VALUES[row, list(picked)].mean() for row in range(3) for picked in product(range(2), repeat=num_samples)]
    whole = float(torch.stack(means).var(correction=0))
    found = [split_variance(table).variance_of_mean(num_samples) for table in outcomes()]
    assert sum(found) / len(found) == pytest.approx(whole, abs=1e-10)
