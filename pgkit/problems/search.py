"""Black-box minimisation: a Gaussian search law whose expected cost goes down."""

from __future__ import annotations

import math
from typing import Literal, final

import torch
from torch import Tensor

from pgkit.blackbox.functions import FUNCTIONS
from pgkit.core import families
from pgkit.options import Count, Positive
from pgkit.problems.base import Problem
from pgkit.types import Expectation, Parameters

Covariance = Literal["diagonal", "full"]


@final
class Benchmark(Problem):
    """E[f(x)] under a Gaussian around a mean that starts at `start` in every dimension, with deviation `scale`.

    `objective` is the function at the mean; its minimum is 0. `covariance` is learnt as a diagonal (parameters `mean`
    and `log_scale`) or in full (`mean` and `factor`).
    Source: De Jong 1975; Rosenbrock 1960; Rastrigin 1974, see `pgkit.blackbox.functions`.
    """

    def __init__(
        self,
        *,
        function: Literal["sphere", "rosenbrock", "rastrigin", "step_function"],
        dimension: Count,
        start: float,
        scale: Positive,
        target: float,
        covariance: Covariance = "diagonal",
    ) -> None:
        self._function = FUNCTIONS[function]
        self.dimension, self.start, self.scale, self.covariance = dimension, start, scale, covariance
        self.target = target

    def parameters(self) -> dict[str, Tensor]:
        """Returns the mean and the spread of the search law."""
        return search_parameters(torch.full((self.dimension,), self.start).double(), self.scale, self.covariance)

    def expectation(self) -> Expectation:
        """Returns the expected cost."""
        return Expectation(cost=self._function, law=search_law(self.covariance))

    def objective(self, parameters: Parameters) -> float:
        """Returns the cost of the mean."""
        return float(self._function(parameters["mean"][None]))


def search_parameters(mean: Tensor, scale: float, covariance: Covariance) -> dict[str, Tensor]:
    """Returns the parameters of a search law around `mean` `[D]`, equally wide in every direction."""
    if covariance == "full":
        return {"mean": mean, "factor": scale * torch.eye(len(mean)).to(mean)}
    return {"mean": mean, "log_scale": torch.full_like(mean, math.log(scale))}


def search_law(covariance: Covariance) -> families.Family:
    """Returns the family of search laws with that covariance."""
    return families.free_factor if covariance == "full" else families.mean_field
