"""Maximum likelihood: what is sampled does not move with the parameters, only the cost does."""

from __future__ import annotations

import math
from typing import final

import torch
from scipy.special import roots_genlaguerre
from torch import Tensor
from torch.distributions import Gamma, Normal

from pgkit.options import Positive
from pgkit.problems.base import Problem
from pgkit.problems.known import as_leaves, flat_gradient
from pgkit.types import Expectation, Parameters


@final
class MaximumLikelihood(Problem):
    """E[−log N(x; mean, scale²)] for x from a gamma law: the normal law that describes it best, with the right moments.

    The law is free of θ, so its scores and paths are 0 and every estimator is the plain Monte Carlo gradient
    E[∇_θ f_θ(x)]. The distance is the excess of the expected cost over its least, in nats; it is exact.
    Source: Robbins and Monro 1951; White 1982 (Econometrica 50:1), for likelihoods of laws that do not hold.
    """

    def __init__(self, *, concentration: Positive = 2.0, rate: Positive = 1.0, target: Positive = 0.001) -> None:
        self.concentration, self.rate, self.target = concentration, rate, target
        self.mean, self.variance = concentration / rate, concentration / rate**2

    def parameters(self) -> dict[str, Tensor]:
        """Returns those of a standard normal law."""
        return {"mean": torch.zeros((), dtype=torch.float64), "log_scale": torch.zeros((), dtype=torch.float64)}

    def expectation(self) -> Expectation:
        """Returns the expected cost at the start."""
        return self.at(self.parameters())

    def at(self, parameters: Parameters) -> Expectation:
        """Returns the expected cost."""
        law = Gamma(torch.tensor(self.concentration, dtype=torch.float64), torch.tensor(self.rate, dtype=torch.float64))
        here = {name: value.detach() for name, value in parameters.items()}
        return Expectation(cost=lambda x: _cost(x, here), law=lambda theta: law, direct_cost=_cost)

    def nodes(self, parameters: Parameters) -> tuple[Tensor, Tensor]:
        """Returns points and weights `[K]` of the Gauss-Laguerre rule of the gamma law."""
        points, weights = (torch.from_numpy(each) for each in roots_genlaguerre(16, self.concentration - 1))
        return points / self.rate, weights / weights.sum()

    def objective(self, parameters: Parameters) -> float:
        """Returns the expected cost, in nats."""
        return float(self._value(parameters))

    def exact_gradient(self, parameters: Parameters) -> Tensor:
        """Returns the gradient `[P]` of the expected cost, that of its closed form."""
        leaves = as_leaves(parameters)
        return flat_gradient(self._value(leaves), leaves)

    def exact_variance(self, estimator: str, parameters: Parameters) -> Tensor | None:
        """Returns the variance of ∇_θ f_θ(x) = ((μ − x)/σ², 1 − (x − μ)²/σ²), which is what these estimators sample."""
        if estimator not in ("score", "pathwise", "measure_valued"):
            return None
        points, weights = self.nodes(parameters)
        away, scale = points - parameters["mean"].detach(), parameters["log_scale"].detach().exp()
        rows = torch.stack([-away / scale**2, 1 - away**2 / scale**2], dim=1)
        return weights @ rows**2 - self.exact_gradient(parameters) ** 2

    def _value(self, parameters: Parameters) -> Tensor:
        """Returns (v + (m − μ)²)/2σ² + log σ + ½ log 2π, m and v being the mean and the variance of the gamma law."""
        mean, log_scale = parameters["mean"], parameters["log_scale"]
        spread = (self.variance + (self.mean - mean) ** 2) * (-2 * log_scale).exp()
        return (spread + math.log(2 * math.pi)) / 2 + log_scale

    def distance(self, parameters: Parameters) -> float:
        """Returns the excess over the least expected cost, in nats."""
        return self.objective(parameters) - (1 + math.log(2 * math.pi * self.variance)) / 2


def _cost(x: Tensor, theta: Parameters) -> Tensor:
    """Returns −log N(x; mean, scale²) of every sample."""
    return -Normal(theta["mean"], theta["log_scale"].exp(), validate_args=False).log_prob(x)
