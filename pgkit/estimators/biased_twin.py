"""An estimator that is wrong on purpose: what `pgkit.verify` must find."""

from __future__ import annotations

from typing import final

import torch

from pgkit.core import expectation as core
from pgkit.estimators.base import ExpectationEstimator
from pgkit.estimators.score import Score
from pgkit.protocols import Baseline
from pgkit.types import Expectation, GradientEstimate, Parameters


@final
class BiasedTwin(ExpectationEstimator):
    """(1/N) Σ (f(x_i) − mean f) ∇log p(x_i), with each sample's own cost in its baseline, and said to be unbiased.

    Bias: shrinks the gradient by the factor (N − 1)/N.
    Source: none: it is the mistake that leave-one-out avoids (Kool, van Hoof and Welling 2019).
    """

    wrong_on_purpose = True

    def __init__(self, *, baseline: Baseline) -> None:
        super().__init__(baseline=baseline)
        self._score = Score(baseline=baseline)

    def accepts(self, expectation: Expectation, parameters: Parameters) -> None:
        """Raises UsageError where the support of the law moves with the parameters."""
        self._score.accepts(expectation, parameters)

    def estimate(
        self, expectation: Expectation, parameters: Parameters, *, num_samples: int, generator: torch.Generator
    ) -> GradientEstimate:
        """Returns the shrunken estimate."""
        samples = core.draw(expectation.law(parameters), num_samples, generator)
        costs = core.evaluate(expectation.cost, samples)
        scores = core.scores(expectation, parameters, samples)
        per_sample = (costs - costs.mean())[:, None] * scores + core.direct_term(expectation, parameters, samples)
        return core.summarise(per_sample, parameters, unbiased=True, independent=False)
