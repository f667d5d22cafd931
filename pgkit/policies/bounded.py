"""Continuous actions on finite bounds: normals squashed by tanh, and Beta."""

from __future__ import annotations

import math
from typing import final

import numpy as np
import torch
from gymnasium import spaces
from scipy import special
from torch import Tensor
from torch.nn.functional import softplus

from pgkit.core.placed import Placed
from pgkit.errors import UsageError
from pgkit.policies.gaussian import BoxLaw, Normal
from pgkit.policies.law import Array

NODES = Placed(torch.linspace(-6, 6, 41, dtype=torch.float64))
WEIGHTS = Placed(torch.softmax(-0.5 * NODES.value.square(), dim=0))
"""Means under the standard normal by the trapezoidal rule, which converges geometrically for smooth functions."""


@final
class SquashedGaussian(Normal):
    """tanh of independent normals, stretched to the bounds; the parameters are those of the normals.

    Actions as sampled are those before tanh, none of which is lost where tanh rounds to 1. Densities are of what the
    environment gets. The entropy has no closed form: it is that of the normals plus E[log da/du] by quadrature, right
    to 1e-6 up to deviations of 2 and to 1e-3 up to 4. The divergence is exact: no bijection changes it. The mode is
    taken to be the median, as a density may peak at a bound; a temperature widens the normals.
    Source: Haarnoja et al. 2018, arXiv:1801.01290, appendix C.
    """

    def __init__(self, space: spaces.Box) -> None:
        super().__init__(space)
        self.low, self.high = finite_bounds(space, "squashed_gaussian")
        self._ends = tuple(Placed(torch.as_tensor(bound)) for bound in (self.low, self.high))
        self._log_half_width = Placed(torch.as_tensor((self.high - self.low).reshape(-1) / 2).log())

    def to_environment(self, actions: Array) -> Array:
        return stretched(np.tanh(actions, dtype=np.float64) / 2 + 0.5, self.low, self.high).astype(self.dtype)

    def applied(self, actions: Tensor) -> Tensor:
        """Returns the actions as the environment takes them, as a differentiable function `[..., *act]`."""
        low, high = (end.as_of(actions) for end in self._ends)
        return low + (high - low) * (actions.tanh() / 2 + 0.5)

    def log_prob_of_dimensions(self, parameters: Tensor, actions: Tensor) -> Tensor:
        before = super().log_prob_of_dimensions(parameters, actions)
        return before - _log_slope(actions.reshape(before.shape)) - self._log_half_width.as_of(before)

    def entropy(self, parameters: Tensor) -> Tensor:
        mean, log_std = self._split(parameters)
        nodes = mean[..., None] + log_std.exp()[..., None] * NODES.as_of(mean)
        stretch = _log_slope(nodes) @ WEIGHTS.as_of(mean) + self._log_half_width.as_of(mean)
        return super().entropy(parameters) + stretch.sum(dim=-1)


@final
class Beta(BoxLaw):
    """Independent Beta laws, stretched to the bounds; α and β are 1 + softplus of the parameters, all α first.

    Above 1 each has a single peak inside. Actions as sampled are log x − log (1 − x) of x in (0, 1), of which none
    rounds to a bound; critics see x. Density, entropy and divergence are of what the environment gets, exact.
    Source: Chou, Maturana and Scherer 2017 (ICML, PMLR 70:834).
    """

    def __init__(self, space: spaces.Box) -> None:
        super().__init__(space)
        self.low, self.high = finite_bounds(space, "beta")
        self.num_parameters = 2 * self.size
        self._log_width = Placed(torch.as_tensor((self.high - self.low).reshape(-1)).log())

    def noise(self, generator: np.random.Generator, shape: tuple[int, ...]) -> Array:
        """Returns standard normal noise `[*shape, A]`; its quantiles become those of the actions."""
        return generator.standard_normal((*shape, self.size), dtype=np.float32)

    def sample(self, parameters: Array, noise: Array) -> Array:
        alpha, beta = (1 + np.logaddexp(0, each, dtype=np.float64) for each in np.split(parameters, 2, axis=-1))
        # From the nearer end, so that no tail is rounded away.
        lower = noise < 0
        first, second = np.where(lower, alpha, beta), np.where(lower, beta, alpha)
        x = special.betaincinv(first, second, special.ndtr(-np.abs(noise.astype(np.float64))))
        logits = np.log(np.maximum(x, 1e-300)) - np.log1p(-np.minimum(x, 1 - 1e-16))
        return self._shaped(np.where(lower, logits, -logits).astype(parameters.dtype))

    def mode(self, parameters: Array) -> Array:
        first, second = np.split(np.maximum(parameters, -80), 2, axis=-1)
        return self._shaped(np.log(np.logaddexp(0, first)) - np.log(np.logaddexp(0, second)))

    def to_environment(self, actions: Array) -> Array:
        return stretched(special.expit(actions.astype(np.float64)), self.low, self.high).astype(self.dtype)

    def encode(self, actions: Tensor) -> Tensor:
        return super().encode(actions).sigmoid()

    def mean(self, parameters: Tensor) -> Tensor:
        alpha, beta = _concentrations(parameters)
        return (alpha / (alpha + beta)).to(parameters.dtype)

    def log_prob_of_dimensions(self, parameters: Tensor, actions: Tensor) -> Tensor:
        alpha, beta = _concentrations(parameters)
        logits = actions.reshape(alpha.shape).to(alpha)
        density = -(alpha - 1) * softplus(-logits) - (beta - 1) * softplus(logits) - _log_beta(alpha, beta)
        return (density - self._log_width.as_of(density)).to(parameters.dtype)

    def tempered(self, parameters: Tensor, temperature: float) -> Tensor:
        share = (softplus(parameters) / temperature).clamp(min=torch.finfo(parameters.dtype).tiny)
        return share + torch.log(-torch.expm1(-share))  # the inverse of softplus

    def entropy(self, parameters: Tensor) -> Tensor:
        alpha, beta = _concentrations(parameters)
        total = (alpha + beta - 2) * torch.digamma(alpha + beta)
        peaks = (alpha - 1) * torch.digamma(alpha) + (beta - 1) * torch.digamma(beta)
        entropy = _log_beta(alpha, beta) + total - peaks + self._log_width.as_of(alpha)
        return entropy.sum(dim=-1).to(parameters.dtype)

    def kl(self, parameters: Tensor, other: Tensor) -> Tensor:
        alpha, beta = _concentrations(parameters)
        others = _concentrations(other)
        more, rest = alpha - others[0], beta - others[1]
        means = more * torch.digamma(alpha) + rest * torch.digamma(beta) - (more + rest) * torch.digamma(alpha + beta)
        return (_log_beta(*others) - _log_beta(alpha, beta) + means).sum(dim=-1).to(parameters.dtype)


def finite_bounds(space: spaces.Box, law: str) -> tuple[Array, Array]:
    """Returns the bounds in double precision.

    Raises: UsageError for bounds that are infinite, one-sided or equal.
    """
    low, high = space.low.astype(np.float64), space.high.astype(np.float64)
    if not np.isfinite(high - low).all():
        raise UsageError(f"policy.law: {law} for actions {space} of infinite bounds, expected gaussian or mixture")
    if not (low < high).all():
        raise UsageError(f"policy.law: {law} for actions {space} of equal bounds, expected gaussian or mixture")
    return low, high


def stretched(share: Array, low: Array, high: Array) -> Array:
    """Returns numbers from 0 to 1 stretched to the bounds, never beyond them by rounding."""
    return np.clip(low + share * (high - low), low, high)


def _log_slope(x: Tensor) -> Tensor:
    """Returns log (1 − tanh² x), finite wherever x is."""
    return 2 * (math.log(2) - x - softplus(-2 * x))


def _concentrations(parameters: Tensor) -> tuple[Tensor, Tensor]:
    # Differences of log-gamma functions: single precision would lose them where α and β are large.
    alpha, beta = (1 + softplus(parameters.double())).chunk(2, dim=-1)
    return alpha, beta


def _log_beta(alpha: Tensor, beta: Tensor) -> Tensor:
    return torch.lgamma(alpha) + torch.lgamma(beta) - torch.lgamma(alpha + beta)
