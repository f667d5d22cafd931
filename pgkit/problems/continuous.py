"""Costs under laws that are not Gaussian, with quadrature rules made for them."""

from __future__ import annotations

import math
from typing import final

import torch
from scipy import special
from torch import Tensor
from torch.distributions import Beta, Gamma, VonMises

from pgkit.options import Positive
from pgkit.problems.known import IntegratedProblem
from pgkit.types import Expectation, Parameters

_NODES = 60


class _Scalar(IntegratedProblem):
    """A smooth cost of one positive-parametered variable."""

    differentiable = True

    def __init__(self, **start: float) -> None:
        self._start = start

    def parameters(self) -> dict[str, Tensor]:
        """Returns the law's own arguments."""
        return {name: torch.tensor(float(value), dtype=torch.float64) for name, value in self._start.items()}


@final
class GammaCost(_Scalar):
    """The cost x² of a gamma variable: E = a (a + 1) / b²."""

    def __init__(self, *, concentration: Positive = 2.5, rate: Positive = 1.5) -> None:
        super().__init__(concentration=concentration, rate=rate)

    def expectation(self) -> Expectation:
        """Returns E[x²]."""
        return Expectation(
            cost=torch.square, law=lambda theta: Gamma(theta["concentration"], theta["rate"], validate_args=False)
        )

    def nodes(self, parameters: Parameters) -> tuple[Tensor, Tensor]:
        """Returns the generalised Gauss-Laguerre rule."""
        roots, weights = special.roots_genlaguerre(_NODES, float(parameters["concentration"]) - 1)
        return torch.tensor(roots) / parameters["rate"].detach(), torch.tensor(weights / weights.sum())


@final
class BetaCost(_Scalar):
    """The cost x² of a beta variable: E = a (a + 1) / ((a + b) (a + b + 1))."""

    def __init__(self, *, concentration1: Positive = 2.0, concentration0: Positive = 3.0) -> None:
        super().__init__(concentration1=concentration1, concentration0=concentration0)

    def expectation(self) -> Expectation:
        """Returns E[x²]."""
        return Expectation(
            cost=torch.square,
            law=lambda theta: Beta(theta["concentration1"], theta["concentration0"], validate_args=False),
        )

    def nodes(self, parameters: Parameters) -> tuple[Tensor, Tensor]:
        """Returns the Gauss-Jacobi rule."""
        low, high = (float(parameters[name]) - 1 for name in ("concentration0", "concentration1"))
        roots, weights = special.roots_jacobi(_NODES, low, high)
        return torch.tensor((roots + 1) / 2), torch.tensor(weights / weights.sum())


@final
class VonMisesCost(_Scalar):
    """The cost cos x of an angle: E = cos(loc) I₁(κ) / I₀(κ)."""

    def __init__(self, *, loc: float = 0.7, concentration: Positive = 1.5) -> None:
        super().__init__(loc=loc, concentration=concentration)

    def expectation(self) -> Expectation:
        """Returns E[cos x]."""
        return Expectation(
            cost=torch.cos, law=lambda theta: VonMises(theta["loc"], theta["concentration"], validate_args=False)
        )

    def nodes(self, parameters: Parameters) -> tuple[Tensor, Tensor]:
        """Returns the trapezium rule, which is exact to rounding for periodic functions."""
        angles = -math.pi + 2 * math.pi * torch.arange(4 * _NODES, dtype=torch.float64) / (4 * _NODES)
        weights = (parameters["concentration"].detach() * torch.cos(angles - parameters["loc"].detach())).exp()
        return angles, weights / weights.sum()
