"""Bounds by concentration: they hold at any number of episodes, under ranges that are known or else assumed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from pgkit.core import off_policy_value as value_of
from pgkit.core.importance import weights
from pgkit.core.off_policy_intervals import (
    Interval,
    empirical_bernstein_interval,
    hoeffding_interval,
    truncated_interval,
)
from pgkit.errors import UsageError
from pgkit.offline.estimates import Question, health_of


@dataclass(frozen=True, kw_only=True)
class Bound:
    """An interval of the value around the trajectory estimate, and what it takes for granted."""

    name: str
    low: float
    high: float
    assumes: str


def bounds(question: Question, *, return_range: Sequence[float] | None, weight_limit: float | None) -> list[Bound]:
    """Returns the bounds; none where the weights overflow. A range that is not given is the one seen, and said so.

    Those that need a limit of the weights are left out where none is given and the weights seen say nothing of others.
    Raises: UsageError where a range that was given does not hold the data.
    """
    batch = question.saved.trajectories
    returns = value_of.discounted_returns(batch.rewards, batch.mask, gamma=question.gamma)
    try:
        log_weight = value_of.prefix_log_weights(question.log_ratio)[-1:]
        weight = weights(log_weight[0])
        unlimited = weight_limit is None and bool(health_of(log_weight).doubts())
    except UsageError:
        return []
    low, high = (float(returns.min()), float(returns.max())) if return_range is None else map(float, return_range)
    limit = max(1.0, float(weight.max())) if weight_limit is None else weight_limit
    if float(returns.min()) < low or float(returns.max()) > high:
        seen = f"{float(returns.min()):.4g} to {float(returns.max()):.4g}"
        raise UsageError(f"return_range: [{low:g},{high:g}], expected one that holds the returns of the data, {seen}")
    if float(weight.max()) > limit * (1 + 1e-6):
        raise UsageError(f"weight_limit: {limit:g}, expected at least the largest weight, {float(weight.max()):.4g}")
    of_returns = f"returns from {low:.4g} to {high:.4g}" + (" (as seen, not known)" if return_range is None else "")
    of_weights = f"weights up to {limit:.4g}" + (" (as seen, not known)" if weight_limit is None else "")
    reach = {"low": limit * min(0.0, low), "high": limit * max(0.0, high), "confidence": question.confidence}
    found: dict[str, Interval] = {}
    if not unlimited:
        found["hoeffding"] = hoeffding_interval(weight * returns, **reach)
    if not unlimited and len(returns) > 1:
        found["empirical_bernstein"] = empirical_bernstein_interval(weight * returns, **reach)
    found["truncated_bernstein"] = truncated_interval(
        weight, returns, low=low, high=high, confidence=question.confidence, generator=question.generator("bounds")
    )
    assumes = {"truncated_bernstein": of_returns}
    return [
        _within(name, interval, low, high, assumes.get(name, f"{of_returns}, {of_weights}"))
        for name, interval in found.items()
    ]


def _within(name: str, interval: Interval, low: float, high: float, assumes: str) -> Bound:
    """Returns the bound cut to where returns lie: so does their mean."""
    ends = torch.tensor([interval.low, interval.high]).double().clamp(low, high).tolist()
    return Bound(name=name, low=ends[0], high=ends[1], assumes=assumes)
