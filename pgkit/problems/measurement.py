"""What an estimator does on a problem, measured: its bias, its variance, its error against N and what it costs."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from scipy import stats
from torch import Tensor

from pgkit.errors import UsageError
from pgkit.problems.base import Problem
from pgkit.protocols import GradientEstimator
from pgkit.types import GradientEstimate, Parameters

Estimate = Callable[[int], GradientEstimate]
"""Estimates from so many samples."""

GROWTH = (1, 8, 64)
"""Sizes of a batch, in units of the smallest: biases of order 1/N show in the first, all others in the last."""

_ELEMENTS = 4_000_000
"""Numbers that one batch may hold: samples times the larger of parameters and dimensions."""
_TIMED, _CALLS = 1000, 5
_DOUBLINGS = 5
_ROUNDING = 1e-9


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """One estimator on one problem; what needs an exact gradient is None where there is none.

    `bias`, its standard error and its `z` are those of the coordinate where they disagree most, with batches of
    `bias_batch` samples; `p_value` is the smallest of `tests` of them. `variance` is that of one sample's gradient, a
    trace: N times the variance of the mean of N. `errors` are root mean square errors of the mean of N.
    """

    claims_unbiased: bool
    num_parameters: int
    samples: int
    gradient_norm: float | None
    bias: float | None
    bias_standard_error: float | None
    bias_batch: int | None
    z: float | None
    p_value: float | None
    tests: int
    variance: float
    variance_standard_error: float
    errors: dict[int, float]
    slope: float | None
    seconds_per_sample: float

    @property
    def work_normalised_variance(self) -> float:
        """Variance of one sample times the seconds it costs: what a budget of time buys."""
        return self.variance * self.seconds_per_sample


@dataclass(frozen=True, kw_only=True)
class _Means:
    """Means `[R, P]` of R independent batches of `size` samples each."""

    size: int
    values: Tensor


def measure(
    problem: Problem,
    estimator: GradientEstimator,
    *,
    num_samples: int,
    repeats: int,
    generator: torch.Generator,
    exact: Tensor | None,
) -> Measurement:
    """Returns what `repeats` batches of `num_samples`, eight and sixty-four times as many samples show.

    An estimator whose samples are independent is measured on long batches, cut into short ones; any other on batches of
    every size, fewer of them where a batch is large.

    Raises: UsageError where the estimator refuses the problem.
    """
    parameters, expectation = problem.parameters(), problem.expectation()
    estimator.accepts(expectation, parameters)
    event = expectation.law(parameters).event_shape.numel()
    per_batch = _ELEMENTS // max(event, sum(value.numel() for value in parameters.values()))

    def estimate(size: int) -> GradientEstimate:
        return estimator.estimate(expectation, parameters, num_samples=size, generator=generator)

    sizes = [_least(estimate, num_samples) * growth for growth in GROWTH]
    seconds = _time(estimator, problem, parameters, samples=min(_TIMED, max(per_batch, sizes[0])))
    first = estimate(sizes[-1])
    if first.independent and first.per_sample is not None:
        longest = max(1, min(per_batch, 20_000) // sizes[-1]) * sizes[-1]
        means, variance, error = _cut(estimate, sizes, repeats, longest)
        judged, drawn = means[-1:], sizes[-1] * len(means[-1].values)
    else:
        counts = [min(repeats // (1 if size == sizes[0] else 2), max(48, per_batch // size)) for size in sizes]
        means = [_gather(estimate, size, max(2, count)) for size, count in zip(sizes, counts, strict=True)]
        variance, error = _variance(means[-1].values)
        variance, error = variance * sizes[-1], error * sizes[-1]
        judged, drawn = means, sum(each.size * len(each.values) for each in means)
    bias = None if exact is None else _worst(judged, exact)
    errors = {} if exact is None else {each.size: _error(each.values, exact) for each in means}
    return Measurement(
        claims_unbiased=estimator.unbiased,
        num_parameters=first.mean.numel(),
        samples=drawn,
        gradient_norm=None if exact is None else float(exact.norm()),
        bias=bias and bias[0],
        bias_standard_error=bias and bias[1],
        bias_batch=bias and bias[2],
        z=bias and bias[3],
        p_value=bias and bias[4],
        tests=0 if exact is None else len(judged) * exact.numel(),
        variance=variance,
        variance_standard_error=error,
        errors=errors,
        slope=_slope(errors),
        seconds_per_sample=seconds,
    )


def _least(estimate: Estimate, num_samples: int) -> int:
    """Returns the smallest batch that an estimator can do with, doubled until it can."""
    for size in (num_samples << doubling for doubling in range(_DOUBLINGS)):
        try:
            estimate(size)
            return size
        except UsageError as error:
            if not str(error).startswith("num_samples"):
                raise
    estimate(size << 1)
    return size << 1


def _time(estimator: GradientEstimator, problem: Problem, parameters: Parameters, *, samples: int) -> float:
    """Returns the seconds that one sample costs in a batch, the best of a few; learned baselines settle meanwhile."""
    generator, expectation = torch.Generator().manual_seed(0), problem.expectation()
    seconds = []
    for _ in range(_CALLS + 1):
        start = time.perf_counter()
        estimator.estimate(expectation, parameters, num_samples=samples, generator=generator)
        seconds.append(time.perf_counter() - start)
    return min(seconds[1:]) / samples


def _gather(estimate: Estimate, size: int, repeats: int) -> _Means:
    return _Means(size=size, values=torch.stack([estimate(size).mean for _ in range(repeats)]))


def _cut(estimate: Estimate, sizes: Sequence[int], repeats: int, longest: int) -> tuple[list[_Means], float, float]:
    """Returns the means of batches of every size, cut from long ones, and the variance with its standard error.

    A row of `per_sample` may stand for several samples, as for an antithetic pair.
    """
    found: dict[int, list[Tensor]] = {size: [] for size in sizes}
    squares, centre, scale = [], None, 1.0
    while sum(map(len, found[sizes[-1]])) < repeats:
        rows = estimate(longest).per_sample
        assert rows is not None
        scale = longest / len(rows)
        centre = rows.mean(0) if centre is None else centre
        squares.append((rows - centre).square().sum(1))
        for size in sizes:
            if sum(map(len, found[size])) < repeats:
                block = max(1, round(size / scale))
                found[size].append(rows[: len(rows) // block * block].unflatten(0, (-1, block)).mean(1))
    means = [_Means(size=size, values=torch.cat(found[size])[:repeats]) for size in sizes]
    distances = torch.cat(squares)
    assert centre is not None
    drift = (means[-1].values.mean(0) - centre).square().sum()
    variance, error = float(distances.mean() - drift), float(distances.std()) / len(distances) ** 0.5
    return means, max(0.0, variance) * scale, error * scale


def _variance(means: Tensor) -> tuple[float, float]:
    """Returns the trace of the covariance of the rows, with its standard error."""
    distances = (means - means.mean(0)).square().sum(1) * len(means) / (len(means) - 1)
    return float(distances.mean()), float(distances.std()) / len(means) ** 0.5


def _error(means: Tensor, exact: Tensor) -> float:
    """Returns the root mean square error of the rows."""
    return float((means - exact).square().sum(1).mean().sqrt())


def _worst(batches: Sequence[_Means], exact: Tensor) -> tuple[float, float, int, float, float]:
    """Returns bias, standard error, batch size, z and p-value of the coordinate that is furthest from the truth."""
    found = []
    for each in batches:
        bias = each.values.mean(0) - exact
        error = each.values.std(0) / len(each.values) ** 0.5
        # What an estimate without noise may err by, so that rounding is no bias.
        z = bias / (error.square() + (_ROUNDING * (1 + exact.abs().max())) ** 2).sqrt()
        worst = int(z.abs().argmax())
        p_value = float(2 * stats.t.sf(abs(float(z[worst])), len(each.values) - 1))
        found.append((float(bias[worst]), float(error[worst]), each.size, float(z[worst]), p_value))
    return min(found, key=lambda each: each[-1])


def _slope(errors: dict[int, float]) -> float | None:
    """Returns the slope of log error against log N, None where an estimate has no error to speak of."""
    if not errors or min(errors.values()) < _ROUNDING:
        return None
    sizes, values = (torch.tensor(each, dtype=torch.float64).log() for each in (list(errors), list(errors.values())))
    centred = sizes - sizes.mean()
    slope = float(centred @ values / (centred @ centred))
    return slope if math.isfinite(slope) else None
