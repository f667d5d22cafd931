"""What gradient estimators share: one baseline, and a way to refuse."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor
from torch.distributions import Distribution

from pgkit.core import score
from pgkit.core.expectation import column_variance
from pgkit.core.moments import leave_one_out_variance
from pgkit.core.regularity import moving_bounds
from pgkit.errors import UsageError
from pgkit.protocols import Baseline, ScoreBaseline
from pgkit.types import Expectation, Factors, GradientEstimate, Parameters

FEWEST_CROSS_FITTED = 32
"""Samples from which the sample formula is told of cross-fitted ones: measured on x² under a normal law, it is .80 of
their variance at N = 8, .92 at 32 and .97 at 64."""


class ExpectationEstimator(ABC):
    """An estimator of ∇E_{x~p_θ}[f(x)], constructed with the baseline that its score terms subtract.

    A class that has no score term to subtract it from says `takes_baseline = False`.
    """

    unbiased = True
    takes_baseline = False

    def __init__(self, *, baseline: Baseline) -> None:
        if not self.takes_baseline and type(baseline).__name__ != "Zero":
            raise UsageError(f"baseline: {type(baseline).__name__}, expected zero with {type(self).__name__}")
        self.baseline = baseline

    @abstractmethod
    def accepts(self, expectation: Expectation, parameters: Parameters) -> None:
        """Raises UsageError, naming what to use instead, where this estimator would be wrong or impossible."""

    @abstractmethod
    def estimate(
        self, expectation: Expectation, parameters: Parameters, *, num_samples: int, generator: torch.Generator
    ) -> GradientEstimate:
        """Returns the estimate from N samples; torch's global generator is left as it was."""


def refuse_moving_support(
    name: str, expectation: Expectation, parameters: Parameters, law: Distribution | None = None
) -> None:
    """Raises UsageError where the support of the law moves with the parameters, so that no score knows all of ∇p.

    A law that was made of the parameters already may be handed over.
    """
    if moving := moving_bounds(expectation, parameters, law):
        kind = type(expectation.law(parameters)).__name__
        raise UsageError(
            f"estimator: {name} for {kind}, whose support moves with {', '.join(moving)}, where it is silently wrong; "
            "expected pathwise, or a support that is fixed"
        )


def coefficients(baseline: Baseline, costs: Tensor, log_weight: Tensor | None = None) -> Tensor:
    """Returns w (f − b) of every sample, `[N]`; the baseline is read first and learns afterwards.

    Shapes: costs and log_weight `[N]`; without weights w is 1.
    Raises: UsageError where there are fewer samples than the baseline needs.
    """
    factors = _factors(baseline, costs, log_weight)
    reference = baseline.value(factors)
    if log_weight is None:
        result = (factors.signal - reference).detach()
    else:
        result = score.coefficients(factors.signal, reference, score.scale(factors.log_weight, factors.mask))
    baseline.update(factors)
    return result[0]


def score_terms(baseline: Baseline, costs: Tensor, scores: Tensor, log_weight: Tensor | None = None) -> Tensor:
    """Returns w (f − b) ∇log p of every sample, `[N, P]`, for a baseline of any kind, read first and taught afterwards.

    Shapes: costs and log_weight `[N]`, scores `[N, P]`; without weights w is 1.
    Raises: UsageError where there are fewer samples than the baseline needs.
    """
    if not isinstance(baseline, ScoreBaseline):
        return coefficients(baseline, costs, log_weight)[:, None] * scores
    factors = _factors(baseline, costs, log_weight)
    scale = score.scale(factors.log_weight, factors.mask)
    raw = score.coefficients(factors.signal, torch.zeros_like(scale), scale)[0, :, None] * scores
    weighted = scale[0, :, None] * scores
    return raw - baseline.fit(raw, weighted) * weighted


def standard_error(
    baseline: Baseline, per_sample: Tensor, costs: Tensor, scores: Tensor, direct: Tensor
) -> Tensor | None:
    """Returns the standard error `[P]` that a baseline leaves the mean of per-sample gradients, None where unknown.

    Leave-one-out has an unbiased variance, which in a small batch may come out below 0. The sample formula, which
    understates, is its floor: intervals over the 32 samples of a bandit then cover .93 to .96, and not .86 to .94.
    Shapes: costs `[N]`, the others `[N, P]`: per_sample is the score terms plus direct.
    """
    num_samples = len(per_sample)
    naive = column_variance(per_sample) / num_samples if num_samples > 1 else None
    if naive is None or baseline.coupling == "independent":
        return None if naive is None else naive.sqrt()
    if baseline.coupling == "pairwise" and num_samples >= 4:
        return torch.maximum(leave_one_out_variance(costs, scores, direct), naive).sqrt()
    return naive.sqrt() if isinstance(baseline, ScoreBaseline) and num_samples >= FEWEST_CROSS_FITTED else None


def _factors(baseline: Baseline, costs: Tensor, log_weight: Tensor | None) -> Factors:
    if len(costs) < baseline.least_columns:
        name = type(baseline).__name__
        raise UsageError(f"num_samples: {len(costs)} with baseline {name}, expected at least {baseline.least_columns}")
    signal = costs[None]
    log_weight = costs.new_zeros(()).expand_as(signal) if log_weight is None else log_weight[None]
    return Factors(signal=signal, log_weight=log_weight, mask=costs.new_ones((), dtype=torch.bool).expand_as(signal))
