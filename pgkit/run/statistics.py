"""Statistics of finished episodes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

BLOCK = 1_000_000


def summarise_episodes(
    returns: Sequence[float],
    lengths: Sequence[int],
    *,
    generator: np.random.Generator,
    confidence: float = 0.95,
    resamples: int = 10_000,
) -> dict[str, float | int | None]:
    """Returns mean, low, high, episodes, returns_min, returns_max and length_mean of at least one episode.

    `low` and `high` bound the mean return by the percentile bootstrap; None for a single episode, which says nothing
    about its spread. With few episodes the interval is somewhat too short (at 20 normal ones it covers about 93 %).

    Source: Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapter 13.
    """
    values = np.asarray(returns, dtype=np.float64)
    low, high = None, None
    if len(values) > 1:
        tail = (1 - confidence) / 2
        means = _resampled_means(values, generator, resamples)
        low, high = (float(bound) for bound in np.quantile(means, (tail, 1 - tail)))
    return {
        "mean": float(values.mean()),
        "low": low,
        "high": high,
        "episodes": len(values),
        "returns_min": float(values.min()),
        "returns_max": float(values.max()),
        "length_mean": float(np.mean(lengths)),
    }


def _resampled_means(values: np.ndarray, generator: np.random.Generator, resamples: int) -> np.ndarray:
    """Returns the means `[resamples]` of samples drawn with replacement, a bounded block at a time."""
    rows = max(1, BLOCK // len(values))
    counts = [min(rows, resamples - done) for done in range(0, resamples, rows)]
    return np.concatenate([values[generator.integers(len(values), size=(n, len(values)))].mean(axis=1) for n in counts])
