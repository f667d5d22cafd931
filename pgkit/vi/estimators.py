"""Gradients of evidence bounds: sticking the landing, the importance-weighted bound, doubly reparameterised."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor

from pgkit.core import expectation as core
from pgkit.core import pathwise
from pgkit.core.arguments import arguments
from pgkit.errors import UsageError
from pgkit.estimators.base import ExpectationEstimator
from pgkit.estimators.pathwise import Pathwise
from pgkit.estimators.rao_blackwell import TermwiseScore
from pgkit.options import Count
from pgkit.protocols import Baseline
from pgkit.types import Expectation, GradientEstimate, Parameters
from pgkit.vi.elbo import Elbo
from pgkit.vi.particles import Particles, doubly_reparameterised_weights, importance_weights


@final
class StickingTheLanding(ExpectationEstimator):
    """∇ELBO = E_ε[∇_x(log p − log q)(x) ∂x/∂θ], along the path alone: its variance is 0 where q is the posterior.

    Source: Roeder, Wu and Duvenaud 2017, arXiv:1703.09194.
    """

    def __init__(self, *, baseline: Baseline) -> None:
        super().__init__(baseline=baseline)
        self._pathwise = Pathwise(baseline=baseline)

    def accepts(self, expectation: Expectation, parameters: Parameters) -> None:
        """Raises UsageError for anything but a bound with a reparameterised law."""
        self._pathwise.accepts(bound("sticking_the_landing", expectation).path_only(), parameters)

    def estimate(
        self, expectation: Expectation, parameters: Parameters, *, num_samples: int, generator: torch.Generator
    ) -> GradientEstimate:
        """Returns the mean over N samples, with per-sample gradients."""
        alone = bound("sticking_the_landing", expectation).path_only()
        return self._pathwise.estimate(alone, parameters, num_samples=num_samples, generator=generator)


@final
class BlanketScore(ExpectationEstimator):
    """∇ELBO = E_q[Σ_d ∇log q_d(x_d) (f_d(x) − b_d)], f_d the terms of the bound in the Markov blanket of x_d alone.

    Rao-Blackwellised black-box variational inference, for a q that is a product; log q is not differentiated.
    Source: Ranganath, Gerrish and Blei 2014, arXiv:1401.0118, section 3.1.
    """

    takes_baseline = True

    def __init__(self, *, baseline: Baseline) -> None:
        super().__init__(baseline=baseline)
        self.unbiased = baseline.unbiased

    def accepts(self, expectation: Expectation, parameters: Parameters) -> None:
        """Raises UsageError for anything but a bound whose terms are known by factor."""
        estimator, apart = self._termwise(expectation)
        estimator.accepts(apart, parameters)

    def estimate(
        self, expectation: Expectation, parameters: Parameters, *, num_samples: int, generator: torch.Generator
    ) -> GradientEstimate:
        """Returns the mean over N samples, with per-sample gradients."""
        estimator, apart = self._termwise(expectation)
        return estimator.estimate(apart, parameters, num_samples=num_samples, generator=generator)

    def _termwise(self, expectation: Expectation) -> tuple[TermwiseScore, Expectation]:
        found = bound("blanket_score", expectation)
        if found.terms is None:
            raise UsageError("estimator: blanket_score for a bound that is not apart by factors, expected a mean field")
        direct = found.log_joint if found.model_moves else None
        apart = Expectation(cost=found.terms, law=found.law, direct_cost=direct)
        return TermwiseScore(baseline=self.baseline, terms=[list(each) for each in found.blankets]), apart


@final
class ImportanceWeighted(ExpectationEstimator):
    """∇L_K with L_K = E log (1/K) Σ_k w_k, w = p/q: Σ_k w̄_k ∇log w_k, through path and density alike.

    Bias: none for L_K, which is at least the ELBO. `per_sample` has a row for each group of K particles.
    Variance: its signal-to-noise ratio falls as 1/√K for the parameters of q (Rainforth et al. 2018, arXiv:1802.04537).
    Source: Burda, Grosse and Salakhutdinov 2016, arXiv:1509.00519.
    """

    def __init__(self, *, baseline: Baseline, particles: Count = 5) -> None:
        super().__init__(baseline=baseline)
        self.particles = particles

    def accepts(self, expectation: Expectation, parameters: Parameters) -> None:
        """Raises UsageError for anything but a bound with a reparameterised law."""
        reparameterised("importance_weighted", expectation, parameters)

    def estimate(
        self, expectation: Expectation, parameters: Parameters, *, num_samples: int, generator: torch.Generator
    ) -> GradientEstimate:
        """Returns the mean over N/K groups of K particles, with the gradients of the groups."""
        bounded = reparameterised("importance_weighted", expectation, parameters)
        drawn = Particles.draw(bounded, parameters, num_samples, self.particles, generator)
        weights = importance_weights(drawn.log_weights)
        return _grouped(weights, weights, drawn, drawn.direct(bounded, parameters, whole=True), parameters)


@final
class DoublyReparameterised(ExpectationEstimator):
    """∇L_K = E[Σ_k w̄_k² (∂log w_k/∂x_k)(∂x_k/∂θ)], and Σ_k w̄_k ∇log p_θ where the model is learnt.

    Bias: none for L_K. With K = 1 it is sticking the landing. `per_sample` has a row for each group of K particles.
    Source: Tucker et al. 2019, arXiv:1810.04152.
    """

    def __init__(self, *, baseline: Baseline, particles: Count = 5) -> None:
        super().__init__(baseline=baseline)
        self.particles = particles

    def accepts(self, expectation: Expectation, parameters: Parameters) -> None:
        """Raises UsageError for anything but a bound with a reparameterised law."""
        reparameterised("doubly_reparameterised", expectation, parameters)

    def estimate(
        self, expectation: Expectation, parameters: Parameters, *, num_samples: int, generator: torch.Generator
    ) -> GradientEstimate:
        """Returns the mean over N/K groups of K particles, with the gradients of the groups."""
        bounded = reparameterised("doubly_reparameterised", expectation, parameters)
        drawn = Particles.draw(bounded, parameters, num_samples, self.particles, generator)
        squared = doubly_reparameterised_weights(drawn.log_weights)
        model = drawn.direct(bounded, parameters, whole=False)
        return _grouped(squared, importance_weights(drawn.log_weights), drawn, model, parameters)


def bound(name: str, expectation: Expectation) -> Elbo:
    """Returns the expectation, which is an evidence bound; raises UsageError where it is not."""
    if not isinstance(expectation, Elbo):
        raise UsageError(f"estimator: {name} for an expectation that is no evidence bound, expected pathwise or score")
    return expectation


def reparameterised(name: str, expectation: Expectation, parameters: Parameters) -> Elbo:
    """Returns the bound; raises UsageError where it is none, or its law is not reparameterised by its arguments."""
    found = bound(name, expectation)
    law = found.law(parameters)
    if not pathwise.is_reparameterised(law) or not arguments(law):
        raise UsageError(f"estimator: {name} for {type(law).__name__}, which is not reparameterised, expected score")
    return found


def _grouped(
    of_path: Tensor, of_density: Tensor, drawn: Particles, direct: Tensor | None, parameters: Parameters
) -> GradientEstimate:
    """Returns the weighted sums over the particles of each group; weights `[G, K]`, gradients `[G, K, P]`."""
    gradients = torch.einsum("gk,gkp->gp", of_path, drawn.path)
    if direct is not None:
        gradients = gradients + torch.einsum("gk,gkp->gp", of_density, direct)
    return core.summarise(
        gradients,
        parameters,
        unbiased=True,
        metrics={"weights/ess_fraction": float((1 / of_density.square().sum(1)).mean()) / of_density.shape[1]},
    )
