"""Bayesian linear regression with known noise: its posterior is Gaussian and everything about it is known."""

from __future__ import annotations

import math
from typing import Literal, final

import torch
from torch import Tensor

from pgkit.core import families
from pgkit.options import Count, Index, Positive
from pgkit.problems.base import Problem
from pgkit.problems.gaussian import hermite_grid
from pgkit.problems.known import as_leaves, flat_gradient, scores
from pgkit.types import Parameters
from pgkit.vi.elbo import Elbo, Entropy, elbo, with_blankets

Approximation = Literal["mean_field", "full_rank"]

_LARGEST = 4
"""Dimensions that are integrated over, node by node."""


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
        start_scale: Positive = 1.0,
        target: Positive = 0.01,
        data_seed: Index = 0,
    ) -> None:
        generator = torch.Generator().manual_seed(data_seed)
        self.inputs = torch.randn(observations, dimension, generator=generator, dtype=torch.float64)
        truth = torch.randn(dimension, generator=generator, dtype=torch.float64)
        self.outputs = self.inputs @ truth + noise * torch.randn(observations, generator=generator).double()
        self.noise, self.family, self.entropy, self.batch_size = noise, family, entropy, batch_size
        self.start_scale, self.target = start_scale, target
        self.precision = torch.eye(dimension).double() + self.inputs.T @ self.inputs / noise**2
        self.mean = torch.linalg.solve(self.precision, self.inputs.T @ self.outputs) / noise**2
        self.law = families.full_rank if family == "full_rank" else families.mean_field

    def parameters(self) -> dict[str, Tensor]:
        """Returns those of a normal q about 0, the prior itself where `start_scale` is 1."""
        return gaussian_start(len(self.mean), self.family, self.start_scale)

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

    def exact_variance(self, estimator: str, parameters: Parameters) -> Tensor | None:
        """Returns the variance `[P]` of `score`, and in a mean field that of `blanket_score` and of the path, with the
        entropy detached and in four dimensions at most; None otherwise.

        Cost and scores are polynomials in the noise, which the Gauss-Hermite rule integrates without error.
        """
        if self.entropy != "detached" or len(self.mean) > _LARGEST or estimator not in self._known():
            return None
        bound, law = self.at(parameters), families.as_multivariate(self.law(parameters))
        noise, weights = hermite_grid(len(self.mean))
        x = law.loc + noise @ law.scale_tril.T
        if estimator in ("pathwise", "sticking_the_landing"):
            leaf = x.clone().requires_grad_()
            (slope,) = torch.autograd.grad(bound.cost(leaf).sum(), leaf)
            found = torch.cat([slope, slope * (x - law.loc)], dim=1)
        elif estimator == "score":
            found = bound.cost(x)[:, None] * scores(self, parameters, x)
        else:
            assert bound.terms is not None
            terms = bound.terms(x)
            credit = terms[:, :-1] + terms[:, -1:]
            found = torch.cat([credit * noise / law.stddev, credit * (noise**2 - 1)], dim=1)
        return weights @ found**2 - self.exact_gradient(parameters) ** 2

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

    def _known(self) -> tuple[str, ...]:
        factors = ("blanket_score", "pathwise", "sticking_the_landing")
        return ("score", *factors) if self.family == "mean_field" else ("score",)

    def _divergence(self, parameters: Parameters) -> float:
        law = families.as_multivariate(self.law(parameters))
        return float(families.gaussian_kl(law, self.mean, self.precision))


def gaussian_start(dimension: int, family: Approximation, scale: float = 1.0) -> dict[str, Tensor]:
    """Returns the parameters of N(0, scale² I) in a family."""
    zeros, wide = torch.zeros(dimension, dtype=torch.float64), torch.full((dimension,), math.log(scale)).double()
    return {"mean": zeros, "log_scale": wide} if family == "mean_field" else {"mean": zeros, "factor": torch.diag(wide)}


def rows(count: int, batch_size: int | None, generator: torch.Generator) -> Tensor:
    """Returns the indices of a minibatch, without replacement; all where there is no batch size or it is as large."""
    if batch_size is None or batch_size >= count:
        return torch.arange(count)
    return torch.randperm(count, generator=generator)[:batch_size]
