"""Nodes and weights over samples that are vectors or matrices, in coordinates in which every integrand is smooth.

The trapezoidal rule converges exponentially for integrands that are analytic and negligible at the ends of the grid.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch import distributions as td

Rule = tuple[Tensor, Tensor]


def grid(*axes: tuple[float, float, float]) -> Rule:
    """Returns the points `[M, D]` of a grid of (low, high, step) axes, and their volume each, `[M]`."""
    points = torch.cartesian_prod(*[torch.arange(*axis, dtype=torch.float64) for axis in axes])
    points = points.reshape(len(points), -1)
    return points, torch.full((len(points),), math.prod(step for _, _, step in axes), dtype=torch.float64)


def space(law: td.Distribution) -> Rule:
    """Returns nodes over ℝᴰ, about the mean and in units of the covariance of the law."""
    covariance = torch.atleast_2d(getattr(law, "covariance_matrix", torch.diag(law.variance)))
    factor = torch.linalg.cholesky(covariance)
    points, volume = grid(*[(-8.4, 8.4, 0.4)] * len(factor))
    return law.mean + points @ factor.T, volume * factor.diagonal().prod()


def simplex(law: td.Distribution) -> Rule:
    """Returns nodes inside the triangle of three shares, by their log-ratios to the last."""
    ratios, volume = grid(*[(-34.0, 34.0, 0.4)] * 2)
    shares = torch.cat([ratios, torch.zeros(len(ratios), 1)], dim=1).softmax(dim=1)
    return shares, volume * shares.prod(dim=1)


def correlation(law: td.Distribution) -> Rule:
    """Returns nodes over the Cholesky factors of correlation matrices of two variables."""
    ratios, volume = grid((-40.0, 40.0, 0.2))
    r = (ratios[:, 0] / 2).tanh()
    factor = torch.zeros(len(r), 2, 2)
    factor[:, 0, 0], factor[:, 1, 0], factor[:, 1, 1] = 1.0, r, 1 / (ratios[:, 0] / 2).cosh()
    return factor, volume * (1 - r.square()) / 2


def definite(law: td.Distribution) -> Rule:
    """Returns nodes over positive definite matrices `[2, 2]`, by the Bartlett factor A of X = L A Aᵀ Lᵀ."""
    points, volume = grid((-8.0, 2.4, 0.14), (-8.4, 8.4, 0.5), (-10.0, 2.4, 0.14))
    first, middle, last = points[:, 0].exp(), points[:, 1], points[:, 2].exp()
    bartlett = torch.zeros(len(points), 2, 2)
    bartlett[:, 0, 0], bartlett[:, 1, 0], bartlett[:, 1, 1] = first, middle, last
    scale = law._unbroadcasted_scale_tril  # type: ignore[attr-defined]  # torch hands it out with a batch shape only
    factor = scale @ bartlett
    # dX = |L|³ 4 a₁² a₃ da for two dimensions, and da₁ = a₁ d log a₁.
    volume = volume * scale.diagonal().prod() ** 3 * 4 * first.pow(3) * last.square()
    return factor @ factor.mT, volume


NODES: dict[str, Callable[[td.Distribution], Rule]] = {
    "Dirichlet": simplex,
    "Independent": space,
    "LKJCholesky": correlation,
    "LogisticNormal": simplex,
    "LowRankMultivariateNormal": space,
    "MultivariateNormal": space,
    "RelaxedOneHotCategorical": simplex,
    "Wishart": definite,
}
