"""Running moments of streams that are hard on arithmetic."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pgkit.core.running import deviation, merge_moments

pytestmark = pytest.mark.equivalence


def moments(batches: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    width = batches[0].shape[1]
    state = (torch.zeros((), dtype=torch.float64), *torch.zeros(2, width, dtype=torch.float64))
    for batch in batches:
        state = merge_moments(*state, batch)
    return state


@pytest.mark.parametrize(("mean", "spread"), [(0.0, 1.0), (1e6, 1e-2), (-1e6, 1e3), (1e-8, 1e-9)])
def test_a_stream_is_measured_as_in_one_piece(mean: float, spread: float) -> None:
    generator = np.random.default_rng(0)
    stream = generator.normal(mean, spread, size=(5000, 2))
    batches = np.split(stream, np.sort(generator.integers(0, 5000, 60)))  # some of them empty
    count, found, squares = moments([torch.from_numpy(batch) for batch in batches])
    assert int(count) == 5000
    np.testing.assert_allclose(found.numpy(), stream.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(np.sqrt(squares.numpy() / 5000), stream.std(axis=0), rtol=1e-7)


def test_before_anything_was_seen_the_deviation_is_1_and_never_below_its_floor() -> None:
    assert deviation(torch.zeros(()), torch.zeros(2)).tolist() == [1.0, 1.0]
    count, _, squares = moments([torch.full((4, 1), 3.0)])
    assert deviation(count, squares).tolist() == [1e-4]
