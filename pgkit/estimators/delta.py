"""The score function with a Taylor expansion of the cost as its control variate."""

from __future__ import annotations

from typing import final

import torch

from pgkit.core import delta
from pgkit.core import expectation as core
from pgkit.errors import UsageError
from pgkit.estimators.base import ExpectationEstimator, score_terms, standard_error
from pgkit.protocols import Baseline
from pgkit.types import Expectation, GradientEstimate, Parameters


@final
class ScoreDelta(ExpectationEstimator):
    """∇E[f] = E[(f(x) − h(x) − b) ∇log p(x)] + ∇E[h], with h the second-order expansion of f at the mean of a Gaussian.

    E[h] is known in closed form, so only what is not quadratic in f is sampled. Needs two derivatives of the cost, at
    the mean alone.
    Variance: 0 for a quadratic cost; larger than that of the score function where the expansion is a bad one.
    Source: Paisley, Blei and Jordan 2012, arXiv:1206.6430.
    """

    takes_baseline = True

    def __init__(self, *, baseline: Baseline) -> None:
        super().__init__(baseline=baseline)
        self.unbiased = baseline.unbiased

    def accepts(self, expectation: Expectation, parameters: Parameters) -> None:
        """Raises UsageError where the law is not Gaussian."""
        law = expectation.law(parameters)
        if not delta.is_gaussian(law):
            base = law.base_dist if hasattr(law, "base_dist") else law
            name = type(base).__name__
            raise UsageError(f"estimator: score_delta for {name}, expected Normal or MultivariateNormal; or score")

    def estimate(
        self, expectation: Expectation, parameters: Parameters, *, num_samples: int, generator: torch.Generator
    ) -> GradientEstimate:
        """Returns the mean over N samples, with per-sample gradients."""
        self.accepts(expectation, parameters)
        law = expectation.law(parameters)
        expansion = delta.taylor(expectation.cost, law.mean)
        samples = core.draw(law, num_samples, generator)
        left = core.evaluate(expectation.cost, samples) - expansion.at(samples)
        scores = core.scores(expectation, parameters, samples)
        known = delta.expected_gradient(expansion, expectation, parameters)
        rest = known + core.direct_term(expectation, parameters, samples)
        per_sample = score_terms(self.baseline, left, scores) + rest
        return core.summarise(
            per_sample,
            parameters,
            unbiased=self.unbiased,
            independent=self.baseline.coupling == "independent",
            standard_error=standard_error(self.baseline, per_sample, left, scores, rest),
        )
