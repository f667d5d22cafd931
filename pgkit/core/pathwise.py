"""Samples as functions of noise: explicit maps, implicit reparameterisation, and what flows back through both.

A law is reparameterised when x = g_θ(ε) with noise ε that knows nothing of θ, so that ∇E[f] = E[∇_θ f(g_θ(ε))].
Where no such g is at hand, the distribution function F gives its derivative all the same: F(x; θ) stays put while θ
moves, so ∂x/∂θ = −(∂F/∂θ)/q(x). Torch does so for the gamma, beta, Dirichlet and Student laws; von Mises is here.

Source: Kingma and Welling 2014, arXiv:1312.6114; Figurnov, Mohamed and Mnih 2018, arXiv:1805.08498.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.distributions import (
    Cauchy,
    Distribution,
    Independent,
    Laplace,
    LowRankMultivariateNormal,
    MultivariateNormal,
    Normal,
    StudentT,
    VonMises,
)

from pgkit.core.expectation import flattened, one_each
from pgkit.errors import UsageError
from pgkit.types import Parameters


def location_scale(noise: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
    """Returns x = μ + σ ε.

    Shapes: noise `[N, …]`, loc and scale `[…]`.
    """
    return loc + scale * noise


def location_scale_noise(samples: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
    """Returns the noise of location-scale samples, ε = (x − μ)/σ.

    Shapes: samples `[N, …]`, loc and scale `[…]`.
    """
    return (samples - loc) / scale


def gaussian(noise: Tensor, mean: Tensor, cholesky: Tensor) -> Tensor:
    """Returns x = μ + C ε, whose covariance is Σ = C Cᵀ where ε is standard normal.

    Shapes: noise `[N, D]`, mean `[D]`, cholesky `[D, D]`, lower triangular.
    """
    return mean + noise @ cholesky.T


def gaussian_noise(samples: Tensor, mean: Tensor, cholesky: Tensor) -> Tensor:
    """Returns the noise of Gaussian samples, ε = C⁻¹(x − μ).

    Shapes: samples `[N, D]`, mean `[D]`, cholesky `[D, D]`, lower triangular.
    """
    return torch.linalg.solve_triangular(cholesky, (samples - mean).T, upper=False).T


def is_reparameterised(law: Distribution) -> bool:
    """Returns whether samples of a law move smoothly with its arguments."""
    if isinstance(law, Independent):
        return is_reparameterised(law.base_dist)
    # A straight-through law claims to be: its samples are discrete, and the gradients that it invents are biased.
    return isinstance(law, VonMises) or (law.has_rsample and not getattr(law.support, "is_discrete", False))


def rsample(law: Distribution, *sizes: int) -> Tensor:
    """Returns samples `[*sizes, *batch, *event]`, differentiable in the law's arguments."""
    if isinstance(law, Independent):
        return rsample(law.base_dist, *sizes)
    if not isinstance(law, VonMises):
        return law.rsample(torch.Size(sizes))
    samples = law.sample(torch.Size(sizes))
    moved = implicit(samples, law.concentration, von_mises_slope(samples - law.loc.detach(), law.concentration))
    return moved + (law.loc - law.loc.detach())


def implicit(samples: Tensor, argument: Tensor, slope: Tensor) -> Tensor:
    """Returns the samples with ∂x/∂argument = slope attached, their values unchanged.

    Shapes: samples, argument and slope alike; slope is −(∂F/∂argument)/q(x).
    Source: Figurnov, Mohamed and Mnih 2018, arXiv:1805.08498.
    """
    return samples.detach() + slope.detach() * (argument - argument.detach())


def von_mises_slope(angles: Tensor, concentration: Tensor) -> Tensor:
    """Returns ∂z/∂κ = −(∂F/∂κ)/q(z) of von Mises samples, detached.

    With A = I₁(κ)/I₀(κ) and z < 0 it is −∫ (cos t − A) exp(κ(cos t − cos z)) dt over t from −π to z, and odd in z. The
    integrand is smooth and, away from z, negligible, so that a Gauss rule over what is left errs by about 1e-15 for
    any κ: neither a series for small κ nor a normal approximation for large is needed.

    Shapes: angles `[…]` from the centre, concentration `[…]`.
    Source: Figurnov, Mohamed and Mnih 2018, arXiv:1805.08498, for the derivative; the quadrature is ours.
    """
    kappa = concentration.detach().double()
    centred = (angles.detach().double() + math.pi) % (2 * math.pi) - math.pi
    ratio = torch.special.i1e(kappa) / torch.special.i0e(kappa)
    end = -centred.abs()
    start = -torch.arccos((end.cos() - NEGLIGIBLE / kappa).clamp(min=-1))
    total = torch.zeros_like(end)
    for node, weight in zip(*np.polynomial.legendre.leggauss(NODES), strict=True):
        cosine = (start + (end - start) * float(node + 1) / 2).cos()
        total += float(weight) / 2 * (cosine - ratio) * (kappa * (cosine - end.cos())).exp()
    return (centred.sign() * (end - start) * total).to(angles.dtype)


NODES = 24
NEGLIGIBLE = 36.0
"""Nodes of the Gauss rule, and the exponent beyond which the integrand counts as 0: exp(−36) is 2e-16."""


def centre(law: Distribution) -> Tensor:
    """Returns the point μ that a law is symmetric about, `[*batch, *event]`: 2μ − x is then as likely as x.

    Raises: UsageError where there is none.
    Source: Hammersley and Morton 1956 (Proc. Cambridge Phil. Soc. 52:449), for antithetic samples.
    """
    base = law.base_dist if isinstance(law, Independent) else law
    if not isinstance(base, SYMMETRIC):
        names = ", ".join(sorted(kind.__name__ for kind in SYMMETRIC))
        raise UsageError(f"estimator.antithetic: true for {type(base).__name__}, expected one of {names}")
    return base.loc


def to_draw(num_samples: int, *, antithetic: bool) -> int:
    """Returns how many samples to draw: half of them where the others are their reflections.

    Raises: UsageError where an odd number is to be halved.
    """
    if antithetic and num_samples % 2:
        raise UsageError(f"num_samples: {num_samples}, expected an even number with estimator.antithetic=true")
    return num_samples // 2 if antithetic else num_samples


SYMMETRIC = (Cauchy, Laplace, LowRankMultivariateNormal, MultivariateNormal, Normal, StudentT, VonMises)


def cost_gradient(
    cost: Callable[[Tensor], Tensor], samples: Tensor, *, create_graph: bool = False
) -> tuple[Tensor, Tensor]:
    """Returns the samples as a leaf and the gradient of the cost at each of them, both `[N, *event]`.

    Shapes: samples `[N, *event]`.
    Raises: UsageError where the cost has no gradient, or one that is 0 everywhere while the cost differs.
    """
    leaf = samples.detach().requires_grad_()
    costs = _differentiable(cost, leaf)
    (gradient,) = torch.autograd.grad(costs.sum(), leaf, create_graph=create_graph, allow_unused=True)
    return leaf, _told(gradient, costs)


def cost_gradients(cost: Callable[[Tensor], Tensor], samples: Tensor, leaves: Parameters) -> tuple[Tensor, Tensor]:
    """Returns the gradient of the cost at each sample `[N, *event]`, and of its sum in the leaves `[P]`, in one pass.

    Shapes: samples `[N, *event]`, made of the leaves; leaves, each of its own.
    Raises: UsageError where the cost has no gradient, or changes its samples in place.
    """
    moving = samples if samples.requires_grad else samples.detach().requires_grad_()
    version = moving._version
    costs = _differentiable(cost, moving)
    if moving._version != version:
        raise UsageError("cost: changes its samples in place, expected one that leaves them as they are")
    gradient, *summed = torch.autograd.grad(costs.sum(), [moving, *leaves.values()], allow_unused=True)
    return _told(gradient, costs), flattened(summed, leaves)


def _differentiable(cost: Callable[[Tensor], Tensor], samples: Tensor) -> Tensor:
    """Returns the costs `[N]` of samples that want a gradient; raises UsageError where they have none."""
    with torch.enable_grad():
        try:
            costs = one_each(cost(samples), len(samples))
        except RuntimeError as error:
            if "requires grad" not in str(error):
                raise
            raise UsageError(NO_GRADIENT) from error  # it left torch for numpy
    if not costs.requires_grad:
        raise UsageError(NO_GRADIENT)
    return costs


def _told(gradient: Tensor | None, costs: Tensor) -> Tensor:
    """Returns the gradient; raises UsageError where there is none, or one that is 0 while the costs differ."""
    # One number mostly tells; all are read where it does not.
    flat = gradient is None or (gradient.reshape(-1)[0].item() == 0 and not gradient.any())
    if gradient is None or (flat and costs.detach().min() < costs.detach().max()):
        raise UsageError(NO_GRADIENT)
    return gradient


NO_GRADIENT = (
    "cost: piecewise constant or without a gradient in the samples, expected a differentiable one; "
    "use estimator score or measure_valued"
)
