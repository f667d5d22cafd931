"""The bootstrap interval of a mean return."""

from __future__ import annotations

import numpy as np
import pytest

from pgkit.run import statistics
from pgkit.run.statistics import summarise_episodes


def test_it_states_mean_extremes_and_length() -> None:
    result = summarise_episodes([1.0, 2.0, 6.0], [10, 20, 30], generator=np.random.default_rng(0))
    assert result["mean"] == 3.0 and result["episodes"] == 3 and result["length_mean"] == 20.0
    assert (result["returns_min"], result["returns_max"]) == (1.0, 6.0)
    assert 1.0 <= result["low"] < 3.0 < result["high"] <= 6.0


def test_equal_returns_have_an_interval_without_width() -> None:
    result = summarise_episodes([500.0] * 20, [500] * 20, generator=np.random.default_rng(0))
    assert result["low"] == result["mean"] == result["high"] == 500.0


def test_one_episode_says_nothing_about_spread() -> None:
    result = summarise_episodes([7.0], [3], generator=np.random.default_rng(0))
    assert (result["mean"], result["low"], result["high"]) == (7.0, None, None)


def test_the_same_generator_gives_the_same_interval() -> None:
    returns = list(np.random.default_rng(1).normal(size=30))
    first, second = (summarise_episodes(returns, [1] * 30, generator=np.random.default_rng(seed)) for seed in (4, 4))
    assert first == second


def test_blocks_change_no_shape_and_lose_no_resample(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "BLOCK", 70)
    means = statistics._resampled_means(np.arange(10.0), np.random.default_rng(0), 1000)
    assert means.shape == (1000,)


@pytest.mark.statistical
def test_the_interval_covers_the_true_mean_as_often_as_it_says() -> None:
    # 95 % nominal; 100 normal returns, 1000 repetitions: a covered share below 0.92 has a false-alarm rate under 1e-3.
    # The twin, an interval of half the width, must fail the same test.
    generator = np.random.default_rng(0)
    covered = halved = 0
    for _ in range(1000):
        result = summarise_episodes(generator.normal(size=100), [1] * 100, generator=generator, resamples=1000)
        low, high, mean = result["low"], result["high"], result["mean"]
        covered += low <= 0.0 <= high
        halved += (low + mean) / 2 <= 0.0 <= (high + mean) / 2
    assert covered / 1000 > 0.92
    assert not halved / 1000 > 0.92
