"""Costs under laws that are not Gaussian, with quadrature rules made for them.

The trapezium rule converges exponentially for functions that are analytic and fade away at both ends, or are periodic.
Positive variables are therefore integrated over their logarithm and fractions over their logit, where a score, which
holds log x, is smooth too.

Source: Trefethen and Weideman 2014 (SIAM Review 56:385).
"""

from __future__ import annotations

import math
from abc import ABC
from typing import final

import torch
from torch import Tensor
from torch.distributions import Beta, Gamma, VonMises

from pgkit.options import Positive
from pgkit.problems.known import IntegratedProblem, as_leaves, flat_gradient
from pgkit.types import Expectation, Parameters

_NODES = 1200


class _Scalar(IntegratedProblem, ABC):
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
        """Returns the trapezium rule in y = log x."""
        a, b = parameters["concentration"].detach(), parameters["rate"].detach()
        y = torch.linspace(-60 / float(a), 6, _NODES, dtype=torch.float64)
        return y.exp() / b, (a * y - y.exp()).softmax(0)


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
        """Returns the trapezium rule in y = logit x."""
        a, b = parameters["concentration1"].detach(), parameters["concentration0"].detach()
        y = torch.linspace(-60 / float(a), 60 / float(b), _NODES, dtype=torch.float64)
        sigmoid = torch.nn.functional.logsigmoid
        return y.sigmoid(), (a * sigmoid(y) + b * sigmoid(-y)).softmax(0)


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

    def exact_gradient(self, parameters: Parameters) -> Tensor:
        """Returns the gradient of the closed form: torch's own normaliser is a polynomial that errs by 1e-8."""
        leaves = as_leaves(parameters)
        concentration = leaves["concentration"]
        resultant = torch.special.i1e(concentration) / torch.special.i0e(concentration)
        return flat_gradient(leaves["loc"].cos() * resultant, leaves)

    def nodes(self, parameters: Parameters) -> tuple[Tensor, Tensor]:
        """Returns the trapezium rule in the angle."""
        angles = -math.pi + 2 * math.pi * torch.arange(_NODES, dtype=torch.float64) / _NODES
        weights = (parameters["concentration"].detach() * torch.cos(angles - parameters["loc"].detach())).exp()
        return angles, weights / weights.sum()
