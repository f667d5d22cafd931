"""Fisher matrices F = E[∇log p ∇log pᵀ] of a law in its parameters θ, flattened in their own order.

Three roads to one matrix: exact, by closed form or enumeration; the Hessian of KL(p_θ0 ‖ p_θ) at θ = θ0, exact as well
wherever torch knows that divergence; and the empirical mean over samples. Outer products of *gradients*, scores times
advantages, are none of them.
Source: Amari 1998 (Neural Computation 10:251); Martens 2020, arXiv:1412.1193; Kunstner, Balles and Hennig 2019,
arXiv:1905.12558.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import cast

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent
from torch.func import grad, hessian, jacrev, jvp

from pgkit.core.analytic import analytic_kl
from pgkit.core.bonnet_price import is_gaussian
from pgkit.errors import UsageError
from pgkit.types import Parameters, expect

Law = Callable[[Parameters], Distribution]


def exact(law: Law, parameters: Parameters) -> Tensor:
    """Returns E[∇log p ∇log pᵀ] `[P, P]`: in closed form for Gaussians, by enumeration for finitely many values.

    Gaussians: ∂μᵀ Σ⁻¹ ∂μ + ½ tr(Σ⁻¹ ∂Σ Σ⁻¹ ∂Σ).
    Raises: UsageError for any other law.
    """
    point = law(parameters)
    base = point.base_dist if isinstance(point, Independent) else point
    if is_gaussian(point):
        return _of_gaussian(law, parameters)
    if not base.has_enumerate_support:
        raise UsageError(f"fisher: exact for {type(base).__name__}, expected kl_hessian or empirical")
    support = base.enumerate_support()

    def log_prob(flat: Tensor) -> Tensor:
        moved = law(_named(flat, parameters))
        return (moved.base_dist if isinstance(moved, Independent) else moved).log_prob(support)

    flat = _flat(parameters)
    chances = log_prob(flat).exp().reshape(-1)
    slopes = jacrev(log_prob)(flat).reshape(len(chances), -1)
    return slopes.T @ (chances[:, None] * slopes)


def empirical(scores: Tensor) -> Tensor:
    """Returns Σ s sᵀ / N, `[P, P]`.

    Bias: none, for scores of samples of the law itself.
    Shapes: scores `[N, P]`.
    """
    expect("N P .", scores=scores)
    return scores.T @ scores / len(scores)


def kl_hessian(law: Law, parameters: Parameters) -> Tensor:
    """Returns the Hessian of KL(p_θ0 ‖ p_θ) at θ = θ0, `[P, P]`: the Fisher matrix, for every law of known divergence.

    Raises: UsageError where torch knows no closed form of the divergence.
    """
    return hessian(_divergence(law, parameters))(_flat(parameters))


def vector_product(law: Law, parameters: Parameters, vector: Tensor) -> Tensor:
    """Returns F v `[P]` without F: the directional derivative of the gradient of the divergence.

    Shapes: vector `[P]`.
    Raises: UsageError where torch knows no closed form of the divergence.
    Source: Pearlmutter 1994 (Neural Computation 6:147); Schulman et al. 2015, arXiv:1502.05477.
    """
    return cast(Tensor, jvp(grad(_divergence(law, parameters)), (_flat(parameters),), (vector,))[1])


def empirical_vector_product(scores: Tensor, vector: Tensor) -> Tensor:
    """Returns Sᵀ S v / N `[P]` without the matrix.

    Shapes: scores `[N, P]`, vector `[P]`.
    """
    return scores.T @ (scores @ vector) / len(scores)


def curvature(divergence: Tensor, parameters: Sequence[Tensor]) -> Callable[[Tensor], Tensor]:
    """Returns v → H v `[P]`, H the Hessian of a scalar in the parameters, without H; F where it is KL(p_θ0 ‖ p_θ).

    Shapes: divergence a scalar with its graph, v `[P]`.
    Source: Pearlmutter 1994 (Neural Computation 6:147).
    """
    slopes = torch.cat([each.reshape(-1) for each in torch.autograd.grad(divergence, parameters, create_graph=True)])

    def product(vector: Tensor) -> Tensor:
        images = torch.autograd.grad(slopes @ vector.to(slopes.dtype), parameters, retain_graph=True)
        return torch.cat([each.reshape(-1) for each in images]).to(vector.dtype)

    return product


def _divergence(law: Law, parameters: Parameters) -> Callable[[Tensor], Tensor]:
    here = law({name: value.detach() for name, value in parameters.items()})
    return lambda flat: analytic_kl(here, law(_named(flat, parameters)))


def _of_gaussian(law: Law, parameters: Parameters) -> Tensor:
    def moments(flat: Tensor) -> tuple[Tensor, Tensor]:
        moved = law(_named(flat, parameters))
        if hasattr(moved, "covariance_matrix"):
            return moved.mean, moved.covariance_matrix
        return moved.mean.reshape(-1), moved.variance.reshape(-1)

    flat = _flat(parameters)
    mean_slopes, slopes = jacrev(moments)(flat)
    covariance = moments(flat)[1]
    if covariance.dim() == 1:
        whitened = slopes / covariance[:, None]
        return mean_slopes.T @ (mean_slopes / covariance[:, None]) + whitened.T @ whitened / 2
    precision = torch.linalg.inv(covariance)
    whitened = torch.einsum("ij,jkp->ikp", precision, slopes)
    traces = torch.einsum("ijp,jiq->pq", whitened, whitened)
    return mean_slopes.T @ precision @ mean_slopes + traces / 2


def _flat(parameters: Parameters) -> Tensor:
    return torch.cat([value.detach().reshape(-1) for value in parameters.values()])


def _named(flat: Tensor, parameters: Parameters) -> Parameters:
    def pieces() -> Iterator[tuple[str, Tensor]]:
        start = 0
        for name, value in parameters.items():
            yield name, flat[start : start + value.numel()].reshape(value.shape)
            start += value.numel()

    return dict(pieces())
