"""The gradient of any expectation, in one call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution

from pgkit.baselines.batch import LeaveOneOut, Mean
from pgkit.baselines.constant import Constant, MovingAverage, Zero
from pgkit.baselines.optimal import Optimal, OptimalParameter
from pgkit.core.sampled_law import as_law
from pgkit.errors import UsageError, did_you_mean
from pgkit.estimators.bonnet_price import BonnetPrice
from pgkit.estimators.control_variates import ControlVariates
from pgkit.estimators.delta import ScoreDelta
from pgkit.estimators.discrete import ARM, REBAR, DisARM, Enumeration, GumbelSoftmax, StraightThrough
from pgkit.estimators.importance import Importance, MultipleImportance
from pgkit.estimators.measure_valued import MeasureValued
from pgkit.estimators.pathwise import Pathwise
from pgkit.estimators.rao_blackwell import MarginalisedScore, SumAndSample, TermwiseScore
from pgkit.estimators.relax import RELAX
from pgkit.estimators.score import Score
from pgkit.protocols import Baseline, GradientEstimator
from pgkit.types import Expectation, GradientEstimate, Parameters

Sampler = Callable[[int], Tensor]
LogProb = Callable[[Tensor], Tensor]

ESTIMATORS: dict[str, Callable[..., GradientEstimator]] = {
    "arm": ARM,
    "bonnet_price": BonnetPrice,
    "control_variates": ControlVariates,
    "disarm": DisARM,
    "enumeration": Enumeration,
    "gumbel_softmax": GumbelSoftmax,
    "importance": Importance,
    "marginalised_score": MarginalisedScore,
    "measure_valued": MeasureValued,
    "multiple_importance": MultipleImportance,
    "pathwise": Pathwise,
    "rebar": REBAR,
    "relax": RELAX,
    "score": Score,
    "score_delta": ScoreDelta,
    "straight_through": StraightThrough,
    "sum_and_sample": SumAndSample,
    "termwise_score": TermwiseScore,
}
BASELINES: dict[str, Callable[[], Baseline]] = {
    "zero": Zero,
    "mean": Mean,
    "moving_average": MovingAverage,
    "leave_one_out": LeaveOneOut,
    "optimal": Optimal,
    "optimal_parameter": OptimalParameter,
}


def estimate_gradient(
    cost: Callable[[Tensor], Tensor],
    distribution_of: Callable[[Any], Distribution | tuple[Sampler, LogProb]],
    parameters: Parameters | Tensor,
    *,
    estimator: str | GradientEstimator = "score",
    num_samples: int = 1000,
    baseline: str | float | Baseline = "zero",
    generator: torch.Generator | None = None,
) -> GradientEstimate:
    """Returns an estimate of ∇E_{x~p_θ}[cost(x)] with its standard error.

    `cost` maps samples `[N, *event]` to `[N]`; `distribution_of` maps the parameters, in the form given (a tensor, or
    a dictionary of them), to a `torch.distributions.Distribution`, or to a pair: a sampler `N -> [N, *event]` that
    draws on torch's global generator, and a log-density `[N, *event] -> [N]`. A tensor's gradient goes by the name
    `parameters`.
    A baseline is a name, a number, or an object, which may learn from one call to the next.
    Without a generator one is seeded with 0. The global generator is left as it was.

    Raises: UsageError where the estimator does not exist, or would be wrong here.
    """
    if isinstance(parameters, Tensor):
        single, law = {"parameters": parameters}, distribution_of
        return estimate_gradient(
            cost,
            lambda named: law(named["parameters"]),
            single,
            estimator=estimator,
            num_samples=num_samples,
            baseline=baseline,
            generator=generator,
        )
    subtracted = _baseline(baseline)
    chosen = (
        _named("estimator", estimator, ESTIMATORS)(baseline=subtracted) if isinstance(estimator, str) else estimator
    )
    return chosen.estimate(
        Expectation(cost=cost, law=lambda named: as_law(distribution_of(named))),
        parameters,
        num_samples=num_samples,
        generator=torch.Generator().manual_seed(0) if generator is None else generator,
    )


def _baseline(given: str | float | Baseline) -> Baseline:
    if isinstance(given, str):
        made: Baseline = _named("baseline", given, BASELINES)()
        return made
    return Constant(value=float(given)) if isinstance(given, int | float) else given


def _named(key: str, name: str, known: dict[str, Callable[..., Any]]) -> Callable[..., Any]:
    if name not in known:
        raise UsageError(f"{key}: {name}, expected one of {', '.join(known)}{did_you_mean(name, known)}")
    return known[name]
