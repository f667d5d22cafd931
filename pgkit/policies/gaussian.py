"""Continuous actions by independent normals: as they are, and with what lies beyond the bounds put on them."""

from __future__ import annotations

import math
from abc import ABC
from typing import final

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from pgkit.core.placed import Placed
from pgkit.errors import UsageError
from pgkit.policies.law import Array, Law

FARTHEST = 1e4
"""Standard deviations from the mean beyond which a bound is no further: there is nothing out there."""
NOWHERE = 1e30
"""What stands for a bound that is infinite: infinity has no derivative."""


class BoxLaw(Law, ABC):
    """A law of real vectors, clipped for the environment to its bounds, where it has any."""

    def __init__(self, space: spaces.Box) -> None:
        self.shape = tuple(space.shape)
        self.size = math.prod(self.shape)
        self.dimensions = (1,) * self.size
        self.dtype = space.dtype
        bounded = np.isfinite(space.low).any() or np.isfinite(space.high).any()
        self.bounds = (space.low, space.high) if bounded else None
        self._ends = tuple(Placed(torch.as_tensor(bound)) for bound in self.bounds or ())

    def to_environment(self, actions: Array) -> Array:
        clipped = actions if self.bounds is None else np.clip(actions, *self.bounds)
        return clipped.astype(self.dtype, copy=False)

    def applied(self, actions: Tensor) -> Tensor:
        """Returns the actions as the environment takes them, as a differentiable function `[..., *act]`."""
        return actions.clamp(*(end.as_of(actions) for end in self._ends)) if self._ends else actions

    def encode(self, actions: Tensor) -> Tensor:
        return actions.reshape(*actions.shape[: actions.dim() - len(self.shape)], self.size)

    def with_uniform(self, parameters: Tensor, share: float) -> Tensor:
        raise UsageError("behavior: a share of uniform actions of continuous ones, expected behavior=temperature")

    def _shaped(self, flat: Array) -> Array:
        return flat.reshape(*flat.shape[:-1], *self.shape)


class Normal(BoxLaw, ABC):
    """What is made of independent normals; the parameters are their means, then the logs of their deviations."""

    def __init__(self, space: spaces.Box) -> None:
        super().__init__(space)
        self.num_parameters, self.num_scales = 2 * self.size, self.size

    def noise(self, generator: np.random.Generator, shape: tuple[int, ...]) -> Array:
        """Returns standard normal noise `[*shape, A]`."""
        return generator.standard_normal((*shape, self.size), dtype=np.float32)

    def sample(self, parameters: Array, noise: Array) -> Array:
        return self._shaped(parameters[..., : self.size] + np.exp(parameters[..., self.size :]) * noise)

    def draw(self, parameters: Tensor, generator: torch.Generator) -> Tensor:
        """Returns actions `[..., *act]` as sampled, drawn where the parameters are."""
        mean, log_std = self._split(parameters)
        noise = torch.randn(mean.shape, generator=generator, dtype=mean.dtype, device=mean.device)
        return (mean + log_std.exp() * noise).reshape(*mean.shape[:-1], *self.shape)

    def reparameterised(self, parameters: Tensor, actions: Tensor) -> Tensor:
        """Returns the actions as sampled, `[..., A]`, as functions of the parameters whose noise stays as it was."""
        mean, log_std = self._split(parameters)
        noise = ((actions.reshape(mean.shape) - mean) * (-log_std).exp()).detach()
        return mean + log_std.exp() * noise

    def mode(self, parameters: Array) -> Array:
        return self._shaped(parameters[..., : self.size])

    def mean(self, parameters: Tensor) -> Tensor:
        return parameters[..., : self.size]

    def log_prob_of_dimensions(self, parameters: Tensor, actions: Tensor) -> Tensor:
        mean, log_std = self._split(parameters)
        noise = (actions.reshape(mean.shape) - mean) * (-log_std).exp()
        return -0.5 * noise.square() - log_std - 0.5 * math.log(2 * math.pi)

    def tempered(self, parameters: Tensor, temperature: float) -> Tensor:
        mean, log_std = self._split(parameters)
        return torch.cat([mean, log_std + 0.5 * math.log(temperature)], dim=-1)

    def entropy(self, parameters: Tensor) -> Tensor:
        return (parameters[..., self.size :] + 0.5 * math.log(2 * math.pi * math.e)).sum(dim=-1)

    def kl(self, parameters: Tensor, other: Tensor) -> Tensor:
        return normal_kl(*self._split(parameters), *self._split(other)).sum(dim=-1)

    def _split(self, parameters: Tensor) -> tuple[Tensor, Tensor]:
        return parameters[..., : self.size], parameters[..., self.size :]


@final
class DiagonalGaussian(Normal):
    """Independent normals. Samples are unbounded; the environment gets a copy clipped to its bounds."""


@final
class ClippedGaussian(Normal):
    """Independent normals as the environment sees them: a density between the bounds, and on each what lies beyond.

    Every action beyond a bound has the log-probability of being beyond it, so that the score no longer carries the
    noise of a number that the environment never sees. Entropy and divergence are of that mixed law, exact.
    Source: Fujita and Maeda 2018, arXiv:1802.07564.
    """

    def __init__(self, space: spaces.Box) -> None:
        super().__init__(space)
        if self.bounds is None:
            raise UsageError(f"policy.law: clipped_gaussian for actions {space} without bounds, expected gaussian")
        self._low, self._high = (
            Placed(torch.as_tensor(bound.reshape(-1), dtype=torch.float64).clamp(-NOWHERE, NOWHERE))
            for bound in self.bounds
        )

    def encode(self, actions: Tensor) -> Tensor:
        """Returns the actions as the environment gets them, `[..., A]`: critics know of no others."""
        flat = super().encode(actions)
        return flat.clamp(self._low.as_of(flat), self._high.as_of(flat))

    def mean(self, parameters: Tensor) -> Tensor:
        mean, log_std = self._split(parameters)
        below, above = self._scaled(mean, log_std)
        inside = mean * _mass(below, above) + log_std.exp() * (_density(below) - _density(above))
        beyond = self._low.as_of(mean) * torch.special.ndtr(below) + self._high.as_of(mean) * torch.special.ndtr(-above)
        return beyond + inside

    def log_prob_of_dimensions(self, parameters: Tensor, actions: Tensor) -> Tensor:
        density = super().log_prob_of_dimensions(parameters, actions)
        flat = actions.reshape(density.shape)
        log_below, log_above = self._log_beyond(*self._split(parameters))
        result = torch.where(flat <= self._low.as_of(flat), log_below, density)
        return torch.where(flat >= self._high.as_of(flat), log_above, result)

    def entropy(self, parameters: Tensor) -> Tensor:
        mean, log_std = self._split(parameters)
        below, above = self._scaled(mean, log_std)
        square = _mass(below, above) + below * _density(below) - above * _density(above)
        inside = (log_std + 0.5 * math.log(2 * math.pi)) * _mass(below, above) + 0.5 * square
        beyond = sum(each.exp() * each for each in self._log_beyond(mean, log_std))
        return (inside - beyond).sum(dim=-1)

    def kl(self, parameters: Tensor, other: Tensor) -> Tensor:
        mean, log_std = self._split(parameters)
        other_mean, other_log_std = self._split(other)
        below, above = self._scaled(mean, log_std)
        # Moments of the standard normal between the bounds, and z of the other law as a line in z of this one.
        zeroth, first = _mass(below, above), _density(below) - _density(above)
        second = zeroth + below * _density(below) - above * _density(above)
        shift, ratio = (mean - other_mean) * (-other_log_std).exp(), (log_std - other_log_std).exp()
        square = shift.square() * zeroth + 2 * shift * ratio * first + ratio.square() * second
        inside = (other_log_std - log_std) * zeroth + 0.5 * (square - second)
        ours, theirs = self._log_beyond(mean, log_std), self._log_beyond(other_mean, other_log_std)
        beyond = sum(p.exp() * (p - q) for p, q in zip(ours, theirs, strict=True))
        return (inside + beyond).sum(dim=-1)

    def _scaled(self, mean: Tensor, log_std: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the bounds in standard deviations from the mean."""
        below, above = ((bound.as_of(mean) - mean) * (-log_std).exp() for bound in (self._low, self._high))
        return below.clamp(-FARTHEST, FARTHEST), above.clamp(-FARTHEST, FARTHEST)

    def _log_beyond(self, mean: Tensor, log_std: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the log-probabilities of the lower and of the upper bound."""
        below, above = self._scaled(mean, log_std)
        return _log_ndtr(below), _log_ndtr(-above)


def normal_kl(mean: Tensor, log_std: Tensor, other_mean: Tensor, other_log_std: Tensor) -> Tensor:
    """Returns KL(N || N') of normals, elementwise."""
    ratio = (2 * (log_std - other_log_std)).exp() + (mean - other_mean).square() * (-2 * other_log_std).exp()
    return other_log_std - log_std + 0.5 * (ratio - 1)


def _density(z: Tensor) -> Tensor:
    return (-0.5 * z.square()).exp() / math.sqrt(2 * math.pi)


def _mass(below: Tensor, above: Tensor) -> Tensor:
    return torch.special.ndtr(above) - torch.special.ndtr(below)


def _log_ndtr(z: Tensor) -> Tensor:
    """Returns log Φ(z); torch's own has no rule for vmap."""
    low, high = z.clamp(max=-1.0), z.clamp(min=-1.0)
    tail = (0.5 * torch.special.erfcx(-low / math.sqrt(2))).log() - 0.5 * low.square()
    return torch.where(z < -1, tail, torch.log1p(-0.5 * torch.erfc(high / math.sqrt(2))))
