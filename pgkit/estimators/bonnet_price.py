"""Gaussian gradients by the theorems of Bonnet and Price."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor
from torch.distributions import Distribution

from pgkit.core import bonnet_price
from pgkit.core import expectation as core
from pgkit.core.pathwise import cost_gradient
from pgkit.errors import UsageError
from pgkit.estimators.base import ExpectationEstimator
from pgkit.options import Count
from pgkit.protocols import Baseline
from pgkit.types import Expectation, GradientEstimate, Parameters

TRIALS = 16
"""Samples by which `accepts` finds out whether a cost has the derivatives that are needed."""


@final
class BonnetPrice(ExpectationEstimator):
    """∇_μ E[f] = E[∇f] and ∇_Σ E[f] = ½ E[∇²f] for a Gaussian law and a cost with two derivatives.

    Up to `exact_up_to` dimensions ∇²f is exact, one backward pass a dimension; above, it is estimated without bias
    from `probes` random directions a sample. A law of which only the mean is learned needs no second derivative.

    A cost whose second derivative is 0 but for kinks is refused. One with kinks between curved pieces cannot be told
    from a smooth one, and its kinks are ignored; use `pathwise`.

    Variance: in μ that of `pathwise`; in Σ that of the curvature alone, 0 for a quadratic cost.
    Source: Bonnet 1964; Price 1958; Rezende, Mohamed and Wierstra 2014, arXiv:1401.4082.
    """

    def __init__(self, *, baseline: Baseline, probes: Count = 1, exact_up_to: Count = 32) -> None:
        super().__init__(baseline=baseline)
        self.probes = probes
        self.exact_up_to = exact_up_to

    def accepts(self, expectation: Expectation, parameters: Parameters) -> None:
        """Raises UsageError where the law is not Gaussian, or the cost lacks a derivative."""
        law = self._gaussian(expectation, parameters)
        generator = torch.Generator().manual_seed(0)
        self._gradients(expectation, parameters, core.draw(law, TRIALS, generator), generator)

    def estimate(
        self, expectation: Expectation, parameters: Parameters, *, num_samples: int, generator: torch.Generator
    ) -> GradientEstimate:
        """Returns the mean of (∇f, ½ ∇²f), carried to θ, over N samples, with per-sample gradients."""
        samples = core.draw(self._gaussian(expectation, parameters), num_samples, generator)
        gradients = self._gradients(expectation, parameters, samples, generator)
        per_sample = core.to_parameters(gradients, expectation, parameters)
        per_sample = core.add_direct(per_sample, expectation, parameters, samples)
        return core.summarise(per_sample, parameters, unbiased=True)

    def _gaussian(self, expectation: Expectation, parameters: Parameters) -> Distribution:
        """Returns the law, detached; raises UsageError where it is not Gaussian."""
        with torch.no_grad():
            law = expectation.law(parameters)
        if not bonnet_price.is_gaussian(law):
            name = type(getattr(law, "base_dist", law)).__name__
            raise UsageError(
                f"estimator: bonnet_price for {name}, expected Normal, Independent(Normal) or MultivariateNormal; "
                "use estimator pathwise or score"
            )
        return law

    def _gradients(
        self, expectation: Expectation, parameters: Parameters, samples: Tensor, generator: torch.Generator
    ) -> dict[str, Tensor]:
        """Returns the gradients `[N, …]` in each argument of the law."""
        law = self._gaussian(expectation, parameters)
        if core.learned(expectation, parameters) <= {"loc"}:
            return bonnet_price.argument_gradients(law, cost_gradient(expectation.cost, samples)[1], None)
        probes = None
        if samples[0].numel() > self.exact_up_to:
            bits = torch.randint(2, (self.probes, *samples.shape), generator=generator)
            probes = (2 * bits - 1).to(samples)
        joint = bonnet_price.is_joint(law)
        return bonnet_price.argument_gradients(
            law, *bonnet_price.derivatives(expectation.cost, samples, probes, joint=joint)
        )
