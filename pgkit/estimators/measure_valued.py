"""The measure-valued estimator of expectations under laws with known weak derivatives."""

from __future__ import annotations

from typing import final

import torch
from torch.distributions import Distribution

from pgkit.core import expectation as core
from pgkit.core import measure_valued
from pgkit.core.arguments import arguments
from pgkit.errors import UsageError
from pgkit.estimators.base import ExpectationEstimator
from pgkit.types import Expectation, GradientEstimate, Parameters


@final
class MeasureValued(ExpectationEstimator):
    """∂E[f]/∂a = c (E_{p⁺}[f] − E_{p⁻}[f]) for every argument a of the law, the two laws sampled from common noise.

    Asks nothing of the cost, and of the law that its coordinates be independent, of a kind in
    `core.measure_valued.KNOWN`. Each sample costs two evaluations for every coordinate of every learned argument.

    Source: Pflug 1996; Mohamed et al. 2020, arXiv:1906.10652, section 6.
    """

    def accepts(self, expectation: Expectation, parameters: Parameters) -> None:
        """Raises UsageError where the law has no weak derivative that is known."""
        self._law(expectation, parameters)

    def estimate(
        self, expectation: Expectation, parameters: Parameters, *, num_samples: int, generator: torch.Generator
    ) -> GradientEstimate:
        """Returns the mean of c (f(x⁺) − f(x⁻)), carried to θ, over N samples, with per-sample gradients."""
        law = self._law(expectation, parameters)
        samples = core.draw(law, num_samples, generator)
        with core.seeded_by(generator), torch.no_grad():
            derivatives = measure_valued.weak_derivatives(law, self._learned(expectation, parameters), num_samples)
        gradients = measure_valued.gradients(expectation.cost, samples, derivatives)
        if gradients:
            per_sample = core.to_parameters(gradients, expectation, parameters)
        else:  # a law that stays as it is: only the cost may move
            per_sample = torch.zeros(num_samples, sum(value.numel() for value in parameters.values())).to(samples.dtype)
        per_sample = core.add_direct(per_sample, expectation, parameters, samples)
        return core.summarise(per_sample, parameters, unbiased=True)

    def _law(self, expectation: Expectation, parameters: Parameters) -> Distribution:
        """Returns the law, detached; raises UsageError where it has no weak derivative that is known."""
        with torch.no_grad():
            law = expectation.law(parameters)
        rebuilt = bool(arguments(law))
        missing = (
            measure_valued.unknown(law, self._learned(expectation, parameters)) if rebuilt else [type(law).__name__]
        )
        if missing:
            names = ", ".join(f"{kind.__name__}.{name}" for kind, name in measure_valued.KNOWN)
            raise UsageError(
                f"estimator: measure_valued for {missing[0]}, expected one of {names}; use estimator score or pathwise"
            )
        return law

    def _learned(self, expectation: Expectation, parameters: Parameters) -> list[str]:
        """Returns the arguments that move with the parameters, in alphabetical order: noise is drawn in it."""
        return sorted(core.learned(expectation, parameters))
