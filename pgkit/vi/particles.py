"""Groups of K particles with their importance weights, for bounds of the form E log (1/K) Σ_k w_k."""

from __future__ import annotations

from dataclasses import dataclass
from math import log
from typing import final

import torch
from torch import Tensor

from pgkit.core import expectation as core
from pgkit.core import pathwise
from pgkit.core.arguments import repeated
from pgkit.errors import UsageError
from pgkit.types import Expectation, Parameters
from pgkit.vi.elbo import Elbo


def importance_bound(log_weights: Tensor) -> Tensor:
    """Returns log (1/K) Σ_k w_k of each group, `[G]`, in log space.

    Shapes: log_weights `[G, K]`.
    Source: Burda, Grosse and Salakhutdinov 2016, arXiv:1509.00519.
    """
    return log_weights.logsumexp(dim=1) - log(log_weights.shape[1])


def importance_weights(log_weights: Tensor) -> Tensor:
    """Returns w̄_k = w_k / Σ_j w_j, `[G, K]`, in log space until the last step.

    Shapes: log_weights `[G, K]`.
    Source: Burda, Grosse and Salakhutdinov 2016, arXiv:1509.00519.
    """
    return log_weights.softmax(dim=1)


def doubly_reparameterised_weights(log_weights: Tensor) -> Tensor:
    """Returns w̄_k², `[G, K]`: what multiplies the path once the score has been reparameterised too.

    Shapes: log_weights `[G, K]`.
    Source: Tucker et al. 2019, arXiv:1810.04152.
    """
    return importance_weights(log_weights).square()


@final
@dataclass(frozen=True, kw_only=True)
class Particles:
    """Reparameterised samples `[G, K, *event]`, log w `[G, K]` and ∂log w/∂x · ∂x/∂θ `[G, K, P]`, all detached."""

    samples: Tensor
    log_weights: Tensor
    path: Tensor

    @classmethod
    def draw(
        cls, bound: Elbo, parameters: Parameters, num_samples: int, particles: int, generator: torch.Generator
    ) -> Particles:
        """Returns N samples in groups of K; the global generator is left as it was.

        Raises: UsageError where N is no multiple of K.
        """
        if num_samples % particles:
            raise UsageError(f"num_samples: {num_samples}, expected a multiple of estimator.particles={particles}")
        batch, leaves = repeated(bound.law(parameters), num_samples)
        with core.seeded_by(generator):
            moving = pathwise.rsample(batch)
        density = bound.law({name: value.detach() for name, value in parameters.items()})

        def log_weight(x: Tensor) -> Tensor:
            return bound.log_joint(x, parameters) - density.log_prob(x)

        samples, slopes = pathwise.cost_gradient(log_weight, moving)
        gradients = torch.autograd.grad(
            moving, list(leaves.values()), slopes, materialize_grads=True, allow_unused=True
        )
        path = core.to_parameters(dict(zip(leaves, gradients, strict=True)), bound, parameters)
        samples = samples.detach()
        groups = (num_samples // particles, particles)
        return cls(
            samples=samples.unflatten(0, groups),
            log_weights=core.evaluate(log_weight, samples).unflatten(0, groups),
            path=path.unflatten(0, groups),
        )

    def direct(self, bound: Elbo, parameters: Parameters, *, whole: bool) -> Tensor | None:
        """Returns ∇_θ log w at fixed samples `[G, K, P]`, or of its model alone; None where the model is fixed."""
        if not whole and not bound.model_moves:
            return None

        def log_weight(x: Tensor, theta: Parameters) -> Tensor:
            return bound.log_joint(x, theta) - (bound.law(theta).log_prob(x) if whole else 0.0)

        moved = Expectation(cost=bound.cost, law=bound.law, direct_cost=log_weight)
        return core.direct_term(moved, parameters, self.samples.flatten(0, 1)).unflatten(0, self.samples.shape[:2])
