"""The score-function estimator of any expectation."""

from __future__ import annotations

from typing import final

import torch
from torch.distributions import Distribution
from torch.distributions.constraints import dependent_property

from pgkit.core import expectation as core
from pgkit.errors import UsageError
from pgkit.estimators.base import ExpectationEstimator
from pgkit.types import Expectation, Factors, GradientEstimate, Parameters


@final
class Score(ExpectationEstimator):
    """∇E[f] = E[(f(x) − b) ∇log p_θ(x)]: needs nothing of the cost, and a law whose support does not move with θ.

    Variance: grows with the size of f, not of its gradient; what a baseline is for.
    Source: Glynn 1990; Williams 1992; Mohamed et al. 2019, arXiv:1906.10652.
    """

    takes_baseline = True

    def accepts(self, expectation: Expectation, parameters: Parameters) -> None:
        """Raises UsageError where the support of the law moves with the parameters."""
        if moving_support(expectation.law(parameters)):
            raise UsageError(
                "estimator: score for a law whose support moves with the parameters, where it is silently wrong; "
                "expected pathwise"
            )

    def estimate(
        self, expectation: Expectation, parameters: Parameters, *, num_samples: int, generator: torch.Generator
    ) -> GradientEstimate:
        """Returns the mean of (f − b) ∇log p over N samples, with per-sample gradients."""
        self.accepts(expectation, parameters)
        samples = core.draw(expectation.law(parameters), num_samples, generator)
        costs = core.evaluate(expectation.cost, samples)[None]
        factors = Factors(signal=costs, log_weight=torch.zeros_like(costs), mask=torch.ones_like(costs).bool())
        coefficients = (costs - self.baseline.value(factors))[0]
        self.baseline.update(factors)
        per_sample = coefficients[:, None] * core.scores(expectation, parameters, samples)
        per_sample = per_sample + core.direct_term(expectation, parameters, samples)
        independent = self.baseline.coupling == "independent"
        return core.summarise(per_sample, parameters, unbiased=self.baseline.unbiased, independent=independent)


def moving_support(law: Distribution) -> bool:
    """Returns whether the support of a law depends on its arguments, as that of a uniform with learned bounds."""
    try:
        base = law.base_dist if hasattr(law, "base_dist") and hasattr(law, "reinterpreted_batch_ndims") else law
        declared = type(base).__dict__.get("support")
        return isinstance(declared, dependent_property) and type(base).__name__ in _MOVING
    except NotImplementedError:
        return False


_MOVING = ("Uniform", "Pareto", "GeneralizedPareto")
"""Torch's laws whose support is a function of what is learned; others depend on counts or shapes alone."""
