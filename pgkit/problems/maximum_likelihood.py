"""Maximum likelihood: what is sampled does not move with the parameters, only the cost does."""

from __future__ import annotations

import math
from typing import final

import torch
from torch import Tensor
from torch.distributions import Gamma, Normal

from pgkit.options import Positive
from pgkit.problems.base import Problem
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

    def objective(self, parameters: Parameters) -> float:
        """Returns the expected cost, in nats."""
        scale = float(parameters["log_scale"].exp())
        spread = (self.variance + (self.mean - float(parameters["mean"])) ** 2) / scale**2
        return (spread + math.log(2 * math.pi)) / 2 + math.log(scale)

    def distance(self, parameters: Parameters) -> float:
        """Returns the excess over the least expected cost, in nats."""
        return self.objective(parameters) - (1 + math.log(2 * math.pi * self.variance)) / 2


def _cost(x: Tensor, theta: Parameters) -> Tensor:
    """Returns −log N(x; mean, scale²) of every sample."""
    return -Normal(theta["mean"], theta["log_scale"].exp(), validate_args=False).log_prob(x)
