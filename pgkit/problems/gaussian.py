"""Costs under Gaussian laws: closed forms of the gradient, and exact variances by Gauss-Hermite quadrature.

With u ~ N(m, v): E[u²] = m² + v, E[cos ku] = cos(km) exp(−k²v/2), E[exp u] = exp(m + v/2), E[u⁴] = m⁴ + 6m²v + 3v².
"""

from __future__ import annotations

import math
from typing import Literal, final

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, MultivariateNormal, Normal

from pgkit.core.rao_blackwell import Separable
from pgkit.options import Count, Positive
from pgkit.problems.known import IntegratedProblem, KnownProblem, as_leaves, flat_gradient
from pgkit.types import Expectation, Parameters

Cost = Literal["quadratic", "cosine", "exponential", "quartic"]

_NODES = 96


@final
class GaussianSum(KnownProblem):
    """A cost Σ_d h(x_d) under N(mean, diag(scale²)): noise in every dimension, whichever one is asked about.

    The variance of a score estimate grows with the dimension, that of a pathwise one does not.
    Source: Mohamed et al. 2019, arXiv:1906.10652, section 3, for the comparison; the moments are ours.
    """

    differentiable = True

    def __init__(
        self,
        *,
        cost: Cost,
        dimension: Count,
        scale: Positive,
        learn_scale: bool,
        frequency: Positive = 1.0,
        mean: float = 1.0,
    ) -> None:
        self.cost, self.frequency, self.learn_scale = cost, frequency, learn_scale
        self._mean = torch.full((dimension,), float(mean), dtype=torch.float64)
        self._scale = torch.full((dimension,), float(scale), dtype=torch.float64)

    def parameters(self) -> dict[str, Tensor]:
        """Returns the mean and, if it is learnt, the scale."""
        learnt = {"scale": self._scale.clone()} if self.learn_scale else {}
        return {"mean": self._mean.clone(), **learnt}

    def expectation(self) -> Separable:
        """Returns E[Σ_d h(x_d)], a term for each dimension."""
        return Separable(cost=lambda x: self._h(x).sum(-1), law=self._law, terms=self._h)

    def objective(self, parameters: Parameters) -> float:
        """Returns the expectation by its closed form."""
        return float(self._value(parameters))

    def exact_gradient(self, parameters: Parameters) -> Tensor:
        """Returns the gradient of the closed form."""
        leaves = as_leaves(parameters)
        return flat_gradient(self._value(leaves), leaves)

    def exact_variance(self, estimator: str, parameters: Parameters) -> Tensor | None:
        """Returns the variance of `score`, `termwise_score`, `pathwise` or coupled `measure_valued` derivatives."""
        mean, scale = parameters["mean"].detach(), parameters.get("scale", self._scale).detach()
        if estimator in ("score", "termwise_score"):
            in_mean, in_scale = self._score_second_moments(mean, scale, alone=estimator == "termwise_score")
        elif estimator == "pathwise":
            noise, weights = hermite()
            slope = _slope(self.cost, self.frequency, mean[:, None] + scale[:, None] * noise)
            in_mean, in_scale = slope**2 @ weights, (slope * noise) ** 2 @ weights
        elif estimator == "measure_valued":
            in_mean, in_scale = self._measure_valued_second_moments(mean, scale)
        else:
            return None
        second = torch.cat([in_mean, in_scale] if "scale" in parameters else [in_mean])
        return second - self.exact_gradient(parameters) ** 2

    def _law(self, parameters: Parameters) -> Distribution:
        return Independent(Normal(parameters["mean"], parameters.get("scale", self._scale), validate_args=False), 1)

    def _value(self, parameters: Parameters) -> Tensor:
        return _expected(self.cost, self.frequency, parameters["mean"], parameters.get("scale", self._scale) ** 2).sum()

    def _score_second_moments(self, mean: Tensor, scale: Tensor, *, alone: bool) -> tuple[Tensor, Tensor]:
        """Returns E[f² s²] for f = h_d + R, or h_d alone: the other terms R are independent of the score of x_d."""
        noise, weights = hermite()
        h = _h(self.cost, self.frequency, mean[:, None] + scale[:, None] * noise)
        first, second = h @ weights, h**2 @ weights
        rest, spread = (first.sum() - first) * (not alone), second - first**2
        rest_squared = (spread.sum() - spread) * (not alone) + rest**2
        found = []
        for score in (noise / scale[:, None], (noise**2 - 1) / scale[:, None]):
            mixed = ((h**2 + 2 * rest[:, None] * h + rest_squared[:, None]) * score**2) @ weights
            found.append(mixed)
        return found[0], found[1]

    def _measure_valued_second_moments(self, mean: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
        """Returns c² E[(f₊ − f₋)²], the other dimensions being the same in both.

        Source: Heidergott and Vázquez-Abad 2000; Mohamed et al. 2019, arXiv:1906.10652, section 6.
        """
        mean, scale = mean[:, None], scale[:, None]
        root, weights = (torch.tensor(each) for each in np.polynomial.laguerre.laggauss(_NODES // 2))
        weibull = (2 * root).sqrt()
        gap = self._h(mean + scale * weibull) - self._h(mean - scale * weibull)
        in_mean = gap**2 @ weights / (2 * math.pi * scale[:, 0] ** 2)
        noise, normal = hermite()
        uniform, half = (torch.tensor(each) for each in np.polynomial.legendre.leggauss(_NODES // 2))
        inner = noise[:, None] * (uniform + 1) / 2
        gap = self._h(mean + scale * noise)[..., None] - self._h(mean[..., None] + scale[..., None] * inner)
        in_scale = torch.einsum("dku,k,u->d", gap**2, normal * noise**2, half / 2) / scale[:, 0] ** 2
        return in_mean, in_scale

    def _h(self, x: Tensor) -> Tensor:
        return _h(self.cost, self.frequency, x)


@final
class GaussianProjection(IntegratedProblem):
    """A cost h(Σ_d x_d) under a Gaussian with a full Cholesky factor, of which the lower triangle is learnt."""

    differentiable = True

    def __init__(self, *, cost: Cost, dimension: Count, frequency: Positive = 1.0, mean: float = 0.5) -> None:
        self.cost, self.frequency, self.dimension = cost, frequency, dimension
        self._mean = torch.full((dimension,), float(mean), dtype=torch.float64)
        index = torch.arange(dimension * dimension, dtype=torch.float64).reshape(dimension, dimension)
        self._cholesky = (0.2 * torch.sin(1 + index)).tril(-1) + 0.5 * torch.eye(dimension, dtype=torch.float64)

    def parameters(self) -> dict[str, Tensor]:
        """Returns the mean `[D]` and the Cholesky factor `[D, D]`, whose upper triangle has no gradient."""
        return {"mean": self._mean.clone(), "scale_tril": self._cholesky.clone()}

    def expectation(self) -> Expectation:
        """Returns E[h(Σ_d x_d)]."""
        return Expectation(cost=lambda x: _h(self.cost, self.frequency, x.sum(-1)), law=self._law)

    def exact_gradient(self, parameters: Parameters) -> Tensor:
        """Returns the gradient of the closed form in m = Σ_d mean_d and v = |Cᵀ1|²."""
        leaves = as_leaves(parameters)
        variance = leaves["scale_tril"].tril().sum(0).square().sum()
        value = _expected(self.cost, self.frequency, leaves["mean"].sum(), variance)
        return flat_gradient(value, leaves)

    def exact_variance(self, estimator: str, parameters: Parameters) -> Tensor | None:
        """Returns the variance of `score` or `pathwise`, None in more than three dimensions."""
        if estimator not in ("score", "pathwise") or self.dimension > 3:
            return None
        if estimator == "score":
            return super().exact_variance("score", parameters)
        noise, weights = self._noise()
        factor = parameters["scale_tril"].detach()
        slope = _slope(self.cost, self.frequency, (parameters["mean"].detach() + noise @ factor.T).sum(-1))
        in_mean = slope[:, None].expand(-1, self.dimension)
        in_factor = (slope[:, None, None] * noise[:, None, :]).expand(-1, self.dimension, -1).tril()
        second = weights @ torch.cat([in_mean, in_factor.flatten(1)], dim=1) ** 2
        return second - self.exact_gradient(parameters) ** 2

    def nodes(self, parameters: Parameters) -> tuple[Tensor, Tensor]:
        """Returns the tensor product of Gauss-Hermite rules."""
        noise, weights = self._noise()
        return parameters["mean"].detach() + noise @ parameters["scale_tril"].detach().T, weights

    def objective(self, parameters: Parameters) -> float:
        """Returns the expectation by its closed form."""
        variance = parameters["scale_tril"].tril().sum(0).square().sum()
        return float(_expected(self.cost, self.frequency, parameters["mean"].sum(), variance))

    def _law(self, parameters: Parameters) -> Distribution:
        return MultivariateNormal(parameters["mean"], scale_tril=parameters["scale_tril"], validate_args=False)

    def _noise(self) -> tuple[Tensor, Tensor]:
        return hermite_grid(self.dimension, 24)


def hermite(count: int = _NODES) -> tuple[Tensor, Tensor]:
    """Returns points and weights `[K]` of the Gauss-Hermite rule of a standard normal law."""
    points, weights = np.polynomial.hermite_e.hermegauss(count)
    return torch.tensor(points), torch.tensor(weights / weights.sum())


def hermite_grid(dimension: int, count: int = 8) -> tuple[Tensor, Tensor]:
    """Returns points `[K, D]` and weights `[K]` of the product of such rules, exact below degree 2 count in each."""
    line, weight = hermite(count)
    noise = torch.cartesian_prod(*[line] * dimension).reshape(-1, dimension)
    return noise, torch.cartesian_prod(*[weight] * dimension).reshape(-1, dimension).prod(1)


def _h(cost: Cost, frequency: float, u: Tensor) -> Tensor:
    if cost == "quadratic":
        return u**2
    if cost == "cosine":
        return (frequency * u).cos()
    return u.exp() if cost == "exponential" else u**4


def _slope(cost: Cost, frequency: float, u: Tensor) -> Tensor:
    if cost == "quadratic":
        return 2 * u
    if cost == "cosine":
        return -frequency * (frequency * u).sin()
    return u.exp() if cost == "exponential" else 4 * u**3


def _expected(cost: Cost, frequency: float, mean: Tensor, variance: Tensor) -> Tensor:
    if cost == "quadratic":
        return mean**2 + variance
    if cost == "cosine":
        return (frequency * mean).cos() * (-(frequency**2) * variance / 2).exp()
    return (mean + variance / 2).exp() if cost == "exponential" else mean**4 + 6 * mean**2 * variance + 3 * variance**2
