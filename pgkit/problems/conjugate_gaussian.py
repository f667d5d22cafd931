"""Bayesian linear regression with known noise: its posterior is Gaussian and everything about it is known."""

from __future__ import annotations

import math
from typing import Literal, final

import torch
from torch import Tensor

from pgkit.core import families
from pgkit.options import Count, Index, Positive
from pgkit.problems.base import Problem
from pgkit.problems.known import as_leaves, flat_gradient
from pgkit.types import Parameters
from pgkit.vi.elbo import Elbo, Entropy, elbo, with_blankets

Approximation = Literal["mean_field", "full_rank"]


@final
class ConjugateGaussian(Problem):
    """The ELBO of y_i ~ N(a_iᵀx, noise²) with x ~ N(0, I) and a Gaussian q; to be maximised.

    Posterior: precision Λ = I + AᵀA/noise², mean m = Λ⁻¹Aᵀy/noise². ELBO(q) = log p(y) − KL(q ‖ posterior), exactly.
    The distance is the divergence from the posterior that is in excess of the least that the family allows, in nats: 0
    for the posterior itself (`full_rank`), for N(m, diag(1/Λ_dd)) (`mean_field`).
    Source: Bishop 2006 (Pattern Recognition and Machine Learning), sections 3.3 and 10.1.
    """

    maximise = True

    def __init__(
        self,
        *,
        dimension: Count = 5,
        observations: Count = 20,
        noise: Positive = 1.0,
        family: Approximation = "full_rank",
        entropy: Entropy = "detached",
        batch_size: Count | None = None,
        target: Positive = 0.01,
        data_seed: Index = 0,
    ) -> None:
        generator = torch.Generator().manual_seed(data_seed)
        self.inputs = torch.randn(observations, dimension, generator=generator, dtype=torch.float64)
        truth = torch.randn(dimension, generator=generator, dtype=torch.float64)
        self.outputs = self.inputs @ truth + noise * torch.randn(observations, generator=generator).double()
        self.noise, self.family, self.entropy, self.batch_size = noise, family, entropy, batch_size
        self.target = target
        self.precision = torch.eye(dimension).double() + self.inputs.T @ self.inputs / noise**2
        self.mean = torch.linalg.solve(self.precision, self.inputs.T @ self.outputs) / noise**2
        self.law = families.full_rank if family == "full_rank" else families.mean_field

    def parameters(self) -> dict[str, Tensor]:
        """Returns those of a standard normal q, the prior."""
        return gaussian_start(len(self.mean), self.family)

    def expectation(self) -> Elbo:
        """Returns the bound at the start."""
        return self.at(self.parameters())

    def at(self, parameters: Parameters) -> Elbo:
        """Returns the bound over all observations."""
        return self._bound(parameters, torch.arange(len(self.outputs)))

    def minibatch(self, parameters: Parameters, generator: torch.Generator) -> Elbo:
        """Returns the bound with the likelihood of `batch_size` observations, drawn anew and scaled up."""
        return self._bound(parameters, rows(len(self.outputs), self.batch_size, generator))

    def objective(self, parameters: Parameters) -> float:
        """Returns the ELBO, exactly, in nats."""
        return self.log_evidence() - self._divergence(parameters)

    def exact_gradient(self, parameters: Parameters) -> Tensor:
        """Returns the gradient `[P]` of the ELBO, that of −KL(q ‖ posterior), which is a closed form."""
        leaves = as_leaves(parameters)
        law = families.as_multivariate(self.law(leaves))
        return flat_gradient(-families.gaussian_kl(law, self.mean, self.precision), leaves)

    def distance(self, parameters: Parameters) -> float:
        """Returns KL(q ‖ posterior) less the least that the family allows, in nats."""
        return self._divergence(parameters) - self._divergence(self.optimum())

    def optimum(self) -> dict[str, Tensor]:
        """Returns the parameters of the family's best approximation."""
        if self.family == "mean_field":
            return {"mean": self.mean.clone(), "log_scale": -self.precision.diagonal().log() / 2}
        lower = torch.linalg.cholesky(torch.linalg.inv(self.precision))
        return {"mean": self.mean.clone(), "factor": lower.tril(-1) + torch.diag(lower.diagonal().log())}

    def log_evidence(self) -> float:
        """Returns log p(y), in nats."""
        total = self.outputs.square().sum() / self.noise**2
        log_norm = len(self.outputs) * math.log(2 * math.pi * self.noise**2) + torch.logdet(self.precision)
        return float(-(log_norm + total - self.mean @ self.precision @ self.mean) / 2)

    def _bound(self, parameters: Parameters, index: Tensor) -> Elbo:
        inputs, outputs, scale = self.inputs[index], self.outputs[index], len(self.outputs) / len(index)
        normal = torch.distributions.Normal(0.0, 1.0)

        def log_likelihood(x: Tensor) -> Tensor:
            residuals = (outputs - x @ inputs.T) / self.noise
            return scale * (normal.log_prob(residuals) - math.log(self.noise)).sum(-1)

        def log_joint(x: Tensor, theta: Parameters) -> Tensor:
            return normal.log_prob(x).sum(-1) + log_likelihood(x)

        bound = elbo(log_joint, self.law, parameters, entropy=self.entropy)
        law = self.law({name: value.detach() for name, value in parameters.items()})
        return with_blankets(bound, log_prior=normal.log_prob, log_likelihood=log_likelihood, law=law)

    def _divergence(self, parameters: Parameters) -> float:
        law = families.as_multivariate(self.law(parameters))
        return float(families.gaussian_kl(law, self.mean, self.precision))


def gaussian_start(dimension: int, family: Approximation) -> dict[str, Tensor]:
    """Returns the parameters of a standard normal law in a family."""
    zeros = torch.zeros(dimension, dtype=torch.float64)
    if family == "mean_field":
        return {"mean": zeros, "log_scale": zeros.clone()}
    return {"mean": zeros, "factor": torch.zeros(dimension, dimension, dtype=torch.float64)}


def rows(count: int, batch_size: int | None, generator: torch.Generator) -> Tensor:
    """Returns the indices of a minibatch, without replacement; all where there is no batch size or it is as large."""
    if batch_size is None or batch_size >= count:
        return torch.arange(count)
    return torch.randperm(count, generator=generator)[:batch_size]
