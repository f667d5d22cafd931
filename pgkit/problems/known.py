"""Problems whose gradient is known exactly, and often the variance of an estimator too."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.func import grad, vmap

from pgkit.problems.base import Problem
from pgkit.types import Parameters


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What decides which estimators apply; `outcomes` counts the values of a law that has finitely many."""

    differentiable: bool
    reparameterisable: bool
    discrete: bool
    gaussian: bool
    dimension: int
    outcomes: int | None = None


class KnownProblem(Problem, ABC):
    """A problem with an exact gradient, that of its expectation: uphill, also where the expectation is a cost.

    `differentiable` is said of the cost as a function of the samples.
    """

    differentiable = False

    @abstractmethod
    def exact_gradient(self, parameters: Parameters) -> Tensor:
        """Returns ∇E[f] `[P]`, the parameters flattened in their order."""

    def exact_variance(self, estimator: str, parameters: Parameters) -> Tensor | None:
        """Returns the variance `[P]` of one sample's gradient by an estimator without baseline, None where unknown."""
        return None

    def facts(self) -> Facts:
        """Returns what can be said of the law at its start and of the cost."""
        law = self.expectation().law(self.parameters())
        base = getattr(law, "base_dist", law)
        discrete = bool(getattr(law.support, "is_discrete", False))
        von_mises = type(base).__name__ == "VonMises"  # torch has no rsample for it, pgkit does
        return Facts(
            differentiable=self.differentiable,
            reparameterisable=not discrete and (law.has_rsample or von_mises),
            discrete=discrete,
            gaussian=type(base).__name__ in ("Normal", "MultivariateNormal"),
            dimension=law.event_shape.numel(),
            outcomes=None,
        )


class IntegratedProblem(KnownProblem, ABC):
    """A problem small enough to be integrated: a finite sum, or a quadrature rule that errs by less than 1e-12."""

    @abstractmethod
    def nodes(self, parameters: Parameters) -> tuple[Tensor, Tensor]:
        """Returns points `[K, *event]` and weights `[K]` with E[f] = Σ_k w_k f(x_k), detached."""

    def exact_gradient(self, parameters: Parameters) -> Tensor:
        """Returns Σ_k w_k f(x_k) ∇log p(x_k) `[P]`."""
        return self.moments(parameters)[0]

    def exact_variance(self, estimator: str, parameters: Parameters) -> Tensor | None:
        """Returns the variance of `score`, by the same sum; None for other estimators."""
        if estimator != "score":
            return None
        gradient, second = self.moments(parameters)
        return second - gradient**2

    def objective(self, parameters: Parameters) -> float:
        """Returns E[f]."""
        points, weights = self.nodes(parameters)
        return float((weights * self.expectation().cost(points)).sum())

    def moments(self, parameters: Parameters) -> tuple[Tensor, Tensor]:
        """Returns E[f s] and E[f² s²], both `[P]`, where s is the score."""
        points, weights = self.nodes(parameters)
        signal = self.expectation().cost(points).detach()[:, None] * scores(self, parameters, points)
        return weights @ signal, weights @ signal**2


def scores(problem: Problem, parameters: Parameters, samples: Tensor) -> Tensor:
    """Returns ∇log p(x) `[N, P]`, straight from the law: shares nothing with the estimators."""
    law = problem.expectation().law
    gradients = vmap(grad(lambda theta, x: law(theta).log_prob(x)), in_dims=(None, 0))(dict(parameters), samples)
    return torch.cat([gradients[name].reshape(len(samples), -1) for name in parameters], dim=1)


def flat_gradient(value: Tensor, leaves: Parameters) -> Tensor:
    """Returns the gradient `[P]` of a scalar in leaves, zeros where it does not depend on one."""
    gradients = torch.autograd.grad(value, list(leaves.values()), allow_unused=True, materialize_grads=True)
    return torch.cat([gradient.reshape(-1) for gradient in gradients])


def as_leaves(parameters: Parameters) -> dict[str, Tensor]:
    """Returns copies that gradients can be taken of."""
    return {name: value.detach().clone().requires_grad_() for name, value in parameters.items()}
