"""Gaussian gradients by the derivatives of the cost: Bonnet's theorem for the mean, Price's for the covariance.

For x ~ N(μ, Σ) ∇_μ E[f] = E[∇f] and, in the unconstrained symmetric convention, ∇_Σ E[f] = ½ E[∇²f]. In terms of
characteristic functions: a derivative in μ_j multiplies the transform of f by i k_j, one in Σ_jl by −½ k_j k_l, and
these are the transforms of ∂_j f and of ½ ∂_j ∂_l f.

Source: Bonnet 1964 (Annales des Télécommunications 19:203); Price 1958 (IRE Transactions on Information Theory 4:69);
Opper and Archambeau 2009 (Neural Computation 21:786); Rezende, Mohamed and Wierstra 2014, arXiv:1401.4082.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, LowRankMultivariateNormal, MultivariateNormal, Normal

from pgkit.core.arguments import repeated
from pgkit.core.pathwise import cost_gradient
from pgkit.errors import UsageError


def is_gaussian(law: Distribution) -> bool:
    """Returns whether a law is a normal one, diagonal or not."""
    return isinstance(law.base_dist if isinstance(law, Independent) else law, Normal) or is_joint(law)


def argument_gradients(law: Distribution, slopes: Tensor, curvatures: Tensor | None) -> dict[str, Tensor]:
    """Returns the gradients `[N, …]` in each argument of a Gaussian, from those in its mean and covariance.

    Half of the curvature is the gradient in Σ; the rest is the chain rule, so that in the Cholesky factor it becomes
    the lower triangle of ∇²f C and in a deviation σ_j it is σ_j ∂²f/∂x_j².

    Shapes: slopes ∇f `[N, *event]`; curvatures ∇²f `[N, D, D]`, its diagonal `[N, *event]` where the law is diagonal,
    or None where nothing but the mean is learned.
    """
    batch, leaves = repeated(law, len(slopes))
    outputs, cotangents = [batch.mean], [slopes]
    if curvatures is not None:
        outputs.append(batch.covariance_matrix if isinstance(batch, JOINT) else batch.variance)
        cotangents.append(curvatures / 2)
    gradients = torch.autograd.grad(
        outputs, list(leaves.values()), cotangents, materialize_grads=True, allow_unused=True
    )
    return dict(zip(leaves, gradients, strict=True))


def is_joint(law: Distribution) -> bool:
    """Returns whether a Gaussian has a covariance matrix, and not only variances."""
    return isinstance(law, JOINT)


JOINT = (MultivariateNormal, LowRankMultivariateNormal)


def derivatives(
    cost: Callable[[Tensor], Tensor], samples: Tensor, probes: Tensor | None, *, joint: bool
) -> tuple[Tensor, Tensor]:
    """Returns ∇f `[N, *event]` and ∇²f, as a matrix `[N, D, D]` where `joint`, else its diagonal `[N, *event]`.

    With probes v of mean 0 and covariance I, ∇²f is estimated without bias by its symmetrised product with v vᵀ, which
    takes one backward pass a probe instead of D. With signs for probes the diagonal has no variance where ∇²f is
    diagonal itself.

    Shapes: samples `[N, *event]`, probes `[K, N, *event]` or None for the exact matrix.
    Raises: UsageError where the cost has no gradient, or no second derivative but 0 while its gradient varies.
    Source: Hutchinson 1990 (Communications in Statistics 19:433), for the probes.
    """
    leaf, slopes = cost_gradient(cost, samples, create_graph=True)
    directions = _unit_vectors(leaf) if probes is None else probes
    products = _hessian_products(slopes, leaf, directions)
    slopes = slopes.detach()
    if not products.any() and (slopes != slopes[:1]).any():
        raise UsageError(
            "cost: piecewise linear, so that its second derivative misses its kinks, expected a smooth one; "
            "use estimator pathwise"
        )
    if not joint:
        return slopes, (directions * products).sum(0) / (1 if probes is None else len(probes))
    if probes is None:
        return slopes, products.transpose(0, 1)
    outer = torch.einsum("kni,knj->nij", probes, products) / len(probes)
    return slopes, (outer + outer.mT) / 2


def _unit_vectors(samples: Tensor) -> Tensor:
    """Returns `[D, N, *event]`, every coordinate's direction for every sample."""
    size = samples[0].numel()
    unit = torch.eye(size, dtype=samples.dtype, device=samples.device).reshape(size, 1, *samples.shape[1:])
    return unit.expand(size, *samples.shape)


def _hessian_products(slopes: Tensor, leaf: Tensor, directions: Tensor) -> Tensor:
    if not slopes.requires_grad:
        return torch.zeros_like(directions)  # the cost is linear
    found = torch.autograd.grad(slopes, leaf, directions, is_grads_batched=True, allow_unused=True)[0]
    return torch.zeros_like(directions) if found is None else found
