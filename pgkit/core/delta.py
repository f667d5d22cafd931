"""The delta method: a second-order Taylor expansion of the cost at the mean, as a control variate of the score."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, MultivariateNormal, Normal
from torch.func import grad, hessian

from pgkit.core.expectation import one_each
from pgkit.errors import UsageError
from pgkit.types import Expectation, Parameters


class Taylor(NamedTuple):
    """f(m) + ∇f(m)ᵀ(x − m) + ½ (x − m)ᵀ H (x − m); `value` is one number, `slope` `[D]`, `curvature` `[D, D]`."""

    centre: Tensor
    value: Tensor
    slope: Tensor
    curvature: Tensor

    def at(self, samples: Tensor) -> Tensor:
        """Returns the expansion at samples, `[N]`."""
        away = samples.reshape(len(samples), -1) - self.centre.reshape(-1)
        return self.value + away @ self.slope + 0.5 * torch.einsum("nd,de,ne->n", away, self.curvature, away)

    def expected(self, mean: Tensor, covariance: Tensor) -> Tensor:
        """Returns its expectation under any law with this mean `[*event]` and covariance `[D, D]`."""
        away = (mean - self.centre).reshape(-1)
        quadratic = torch.trace(self.curvature @ covariance) + away @ self.curvature @ away
        return self.value + away @ self.slope + 0.5 * quadratic


def is_gaussian(law: Distribution) -> bool:
    """Returns whether a law is a normal one, independent or multivariate."""
    base = law.base_dist if isinstance(law, Independent) else law
    return isinstance(base, Normal | MultivariateNormal) and not (
        isinstance(law, Independent) and isinstance(base, MultivariateNormal)
    )


def covariance(law: Distribution) -> Tensor:
    """Returns the covariance of a Gaussian law over its flattened event, `[D, D]`."""
    if not isinstance(law, MultivariateNormal):
        return law.variance.reshape(-1).diag()
    factor = law.scale_tril.tril()  # what lies above the diagonal is no part of the law, and has no gradient
    return factor @ factor.mT


def taylor(cost: Callable[[Tensor], Tensor], centre: Tensor) -> Taylor:
    """Returns the second-order expansion of a cost at a point.

    Shapes: centre `[*event]`; the cost maps `[N, *event]` to `[N]`.
    Raises: UsageError where the cost has no gradient.
    """

    def one(x: Tensor) -> Tensor:
        return one_each(cost(x[None]), 1)[0]

    probe = centre.detach().clone().requires_grad_()
    with torch.enable_grad():
        value = one(probe)
    if not value.requires_grad:
        raise UsageError("cost: no gradient in its samples, expected a twice differentiable one; or estimator=score")
    size = centre.numel()
    slope, curvature = grad(one)(centre.detach()), hessian(one)(centre.detach())
    return Taylor(centre.detach(), value.detach(), slope.reshape(size), curvature.reshape(size, size))


def expected_gradient(expansion: Taylor, expectation: Expectation, parameters: Parameters) -> Tensor:
    """Returns ∇_θ E[h] of an expansion h at a fixed centre, `[P]`: ∇f(m) in the mean and ½ H in the covariance.

    Shapes: parameters, each of its own.
    Source: Paisley, Blei and Jordan 2012, arXiv:1206.6430.
    """

    def of(theta: Parameters) -> Tensor:
        law = expectation.law(theta)
        return expansion.expected(law.mean, covariance(law))

    gradients = grad(of)({name: value.detach() for name, value in parameters.items()})
    return torch.cat([gradients[name].reshape(-1) for name in parameters])
