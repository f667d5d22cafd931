"""Gaussian laws that draw quadrature nodes for noise: an estimator run on one of them is integrated, not sampled.

A row of `per_sample` is then the estimator at one node, and the weights make its mean and covariance exact for smooth
costs. What the estimator does with its noise stays its own business.
"""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Normal

from pgkit.types import GradientEstimate


@cache
def hermite(num_nodes: int, dimensions: int = 1) -> tuple[Tensor, Tensor]:
    """Returns nodes `[M, dimensions]`, `[M]` in one dimension, and weights `[M]` of the standard normal law."""
    points, weights = (torch.tensor(each) for each in np.polynomial.hermite_e.hermegauss(num_nodes))
    weights = weights / math.sqrt(2 * math.pi)
    if dimensions == 1:
        return points, weights
    return torch.cartesian_prod(*[points] * dimensions), torch.cartesian_prod(*[weights] * dimensions).prod(1)


class Nodes(Normal):
    """A normal law whose noise is what `noise` says, row by row."""

    noise = torch.zeros(0)

    def rsample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008 - torch's own default
        return self.loc + self.scale * self.noise

    def sample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008 - torch's own default
        with torch.no_grad():
            return self.rsample()


def moments(estimate: GradientEstimate | Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Returns mean and variance `[P]` of one sample's gradient under the weights."""
    rows = estimate if isinstance(estimate, Tensor) else estimate.per_sample
    assert rows is not None
    mean = weights @ rows
    return mean, weights @ (rows - mean).square()


def nodes_law(noise: Tensor) -> type[Nodes]:
    """Returns a class of normal laws that draws this noise."""
    return type("Nodes", (Nodes,), {"noise": noise})
