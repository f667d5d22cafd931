"""How far an off-policy estimate may be off: resampling, and bounds that hold at every sample size.

The bootstrap resamples whole episodes. It is right as their number grows and the estimate has a variance; weights with
a heavy tail make it too short, since what it resamples lacks the rare episode that matters. The bounds by concentration
hold at any number of episodes for means of independent numbers under the range that they are told; they are wide.
Source: Efron 1987 (JASA 82:171); Hoeffding 1963 (JASA 58:13); Maurer and Pontil 2009, arXiv:0907.3740; Thomas,
Theocharous and Ghavamzadeh 2015 (AAAI).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from pgkit.errors import UsageError

BLOCK = 2_000_000
"""Numbers of a block of resamples."""

Resampling = Literal["bca", "percentile"]


@dataclass(frozen=True, kw_only=True)
class Interval:
    """Where the value lies with some confidence; an end that is not bounded is infinite."""

    low: float
    high: float

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high


def bootstrap_interval(
    statistic: Callable[[Tensor], Tensor],
    *,
    num_samples: int,
    confidence: float,
    resamples: int,
    generator: np.random.Generator,
    without_each: Tensor | None = None,
) -> Interval | None:
    """Returns the bootstrap interval of a statistic of N episodes, or None where too few resamples define it.

    With `without_each` it is bias-corrected and accelerated (BCa), else by percentiles.
    Assumes: independent episodes, and a statistic that is nearly normal after some monotone change of scale.
    Shapes: statistic takes counts `[B, N]` and returns `[B]`; without_each `[N]`, the statistic without each episode.
    """
    expect_confidence(confidence)
    if num_samples < 2:
        return None
    rows = max(1, BLOCK // num_samples)
    blocks = [
        statistic(_counts(min(rows, resamples - done), num_samples, generator)) for done in range(0, resamples, rows)
    ]
    drawn = torch.cat(blocks)
    drawn = drawn[drawn.isfinite()]
    if len(drawn) < 0.95 * resamples:
        return None
    tail = (1 - confidence) / 2
    levels = torch.tensor([tail, 1 - tail], dtype=torch.float64)
    if without_each is not None and without_each.isfinite().all():
        estimate = statistic(torch.ones(1, num_samples, dtype=torch.float64))[0]
        levels = _accelerated(levels, drawn, estimate, without_each)
    low, high = torch.quantile(drawn, levels).tolist()
    return Interval(low=low, high=high)


def hoeffding_interval(values: Tensor, *, low: float, high: float, confidence: float) -> Interval:
    """Returns mean ± (high − low) √(ln(2/δ) / 2N).

    Assumes: independent values, all between `low` and `high`, whatever the sample.
    Shapes: values `[N]`.
    Raises: UsageError for a value out of range.
    """
    delta = 1 - expect_confidence(confidence)
    _expect_range(values, low, high)
    return _around(values, (high - low) * math.sqrt(math.log(2 / delta) / (2 * len(values))), low, high)


def empirical_bernstein_interval(values: Tensor, *, low: float, high: float, confidence: float) -> Interval:
    """Returns mean ± (√(2 s² ln(4/δ) / N) + 7 (high − low) ln(4/δ) / 3(N − 1)), s² the sample variance.

    Assumes: independent values, all between `low` and `high`, whatever the sample.
    Shapes: values `[N]`, N of at least 2.
    Raises: UsageError for a value out of range.
    """
    delta = 1 - expect_confidence(confidence)
    _expect_range(values, low, high)
    return _around(values, _bernstein_margin(values, high - low, delta / 2), low, high)


def truncated_lower_bound(values: Tensor, *, confidence: float, generator: np.random.Generator) -> float:
    """Returns a lower bound of the mean of values of at least 0, which need not be bounded above.

    Values are cut at a threshold, which can only lower their mean, and the empirical Bernstein bound is that of what
    was cut. The threshold is the one that a random fifth of the values finds best for the rest; that fifth is then out.
    Assumes: independent values of at least 0; nothing of their tail.
    Shapes: values `[N]`.
    Source: Thomas, Theocharous and Ghavamzadeh 2015 (AAAI), with one threshold for all.
    """
    delta = 1 - expect_confidence(confidence)
    if len(values) and float(values.min()) < 0:
        raise UsageError(f"values: {float(values.min()):.3g} among them, expected none below 0")
    if len(values) < 10:
        return 0.0
    order = torch.from_numpy(generator.permutation(len(values)))
    count = len(values) // 5
    pilot, rest = values[order[:count]].double(), values[order[count:]].double()
    candidates = torch.cat((pilot, pilot * 2, pilot.mean()[None]))
    candidates = candidates[candidates > 0]
    if len(candidates) == 0:
        return 0.0
    bounds = [_cut_bound(pilot, float(limit), delta, len(rest)) for limit in candidates]
    best = float(candidates[int(np.argmax(bounds))])
    return max(0.0, _cut_bound(rest, best, delta, len(rest)))


def truncated_interval(
    weight: Tensor, returns: Tensor, *, low: float, high: float, confidence: float, generator: np.random.Generator
) -> Interval:
    """Returns an interval of E[w G] for weights of mean 1 and returns between `low` and `high`.

    w (G − low) and w (high − G) are at least 0 and have the means V − low and high − V: each end is a one-sided bound
    at half the error.
    Assumes: exact weights, that the behaviour covers the target, returns in that range whatever the sample.
    Shapes: weight and returns `[N]`.
    Raises: UsageError for a return out of range.
    """
    _expect_range(returns, low, high)
    half = (1 + expect_confidence(confidence)) / 2
    above, below = (
        truncated_lower_bound(weight * distance.clamp(min=0), confidence=half, generator=generator)
        for distance in (returns - low, high - returns)
    )
    return Interval(low=min(high, low + above), high=max(low, high - below))


def expect_confidence(confidence: float) -> float:
    """Returns the confidence.

    Raises: UsageError unless it lies between 0 and 1.
    """
    if not 0 < confidence < 1:
        raise UsageError(f"confidence: {confidence:g}, expected a number above 0 and below 1")
    return confidence


def _counts(rows: int, num_samples: int, generator: np.random.Generator) -> Tensor:
    drawn = torch.from_numpy(generator.integers(num_samples, size=(rows, num_samples)))
    return torch.zeros(rows, num_samples, dtype=torch.float64).scatter_add_(
        1, drawn, torch.ones(1, dtype=torch.float64).expand(rows, num_samples)
    )


def _accelerated(levels: Tensor, drawn: Tensor, estimate: Tensor, without_each: Tensor) -> Tensor:
    """Returns the levels of percentiles that correct for bias and for a variance that moves with the value."""
    below = ((drawn < estimate).double().mean() + 0.5 * (drawn == estimate).double().mean()).clamp(1e-6, 1 - 1e-6)
    shift = torch.special.ndtri(below)
    centred = without_each.mean() - without_each
    scale = centred.square().sum()
    if not scale > 0:
        return levels
    acceleration = centred.pow(3).sum() / (6 * scale**1.5)
    moved = shift + torch.special.ndtri(levels)
    return torch.special.ndtr(shift + moved / (1 - acceleration * moved)).clamp(0, 1)


def _bernstein_margin(values: Tensor, width: float, delta: float) -> float:
    """Returns the one-sided margin at error delta."""
    size, log = len(values), math.log(2 / delta)
    return math.sqrt(2 * float(values.var()) * log / size) + 7 * width * log / (3 * (size - 1))


def _cut_bound(values: Tensor, limit: float, delta: float, size: int) -> float:
    """Returns the lower bound that values cut at `limit` would give if there were `size` of them."""
    cut, log = values.clamp(max=limit), math.log(2 / delta)
    spread = float(cut.var()) if len(cut) > 1 else 0.0
    return float(cut.mean()) - math.sqrt(2 * spread * log / size) - 7 * limit * log / (3 * (size - 1))


def _around(values: Tensor, margin: float, low: float, high: float) -> Interval:
    mean = float(values.double().mean())
    return Interval(low=max(low, mean - margin), high=min(high, mean + margin))


def _expect_range(values: Tensor, low: float, high: float) -> None:
    least, most = float(values.min()), float(values.max())
    slack = 1e-9 * max(1.0, abs(low), abs(high))
    if least < low - slack or most > high + slack:
        raise UsageError(f"values: from {least:.4g} to {most:.4g}, expected all of them from {low:.4g} to {high:.4g}")
