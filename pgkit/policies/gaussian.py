"""Continuous actions: independent normals."""

from __future__ import annotations

import math
from typing import final

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from pgkit.errors import UsageError
from pgkit.policies.law import Array, Law


@final
class DiagonalGaussian(Law):
    """Independent normals; the parameters are the means, then the logs of the standard deviations.

    Samples are unbounded; the environment gets a copy clipped to its bounds, where it has any.
    """

    def __init__(self, space: spaces.Box) -> None:
        self.shape = tuple(space.shape)
        self.size = math.prod(self.shape)
        self.num_parameters = 2 * self.size
        self.dimensions = (1,) * self.size
        self.dtype = space.dtype
        bounded = np.isfinite(space.low).any() or np.isfinite(space.high).any()
        self.bounds = (space.low, space.high) if bounded else None

    def noise(self, generator: np.random.Generator, shape: tuple[int, ...]) -> Array:
        """Returns standard normal noise `[*shape, A]`."""
        return generator.standard_normal((*shape, self.size), dtype=np.float32)

    def sample(self, parameters: Array, noise: Array) -> Array:
        actions = parameters[..., : self.size] + np.exp(parameters[..., self.size :]) * noise
        return actions.reshape(*parameters.shape[:-1], *self.shape)

    def mode(self, parameters: Array) -> Array:
        return parameters[..., : self.size].reshape(*parameters.shape[:-1], *self.shape)

    def to_environment(self, actions: Array) -> Array:
        clipped = actions if self.bounds is None else np.clip(actions, *self.bounds)
        return clipped.astype(self.dtype, copy=False)

    def encode(self, actions: Tensor) -> Tensor:
        return actions.reshape(*actions.shape[: actions.dim() - len(self.shape)], self.size)

    def mean(self, parameters: Tensor) -> Tensor:
        return parameters[..., : self.size]

    def log_prob_of_dimensions(self, parameters: Tensor, actions: Tensor) -> Tensor:
        mean, log_std = parameters[..., : self.size], parameters[..., self.size :]
        noise = (actions.reshape(mean.shape) - mean) * (-log_std).exp()
        return -0.5 * noise.square() - log_std - 0.5 * math.log(2 * math.pi)

    def tempered(self, parameters: Tensor, temperature: float) -> Tensor:
        mean, log_std = parameters[..., : self.size], parameters[..., self.size :]
        return torch.cat([mean, log_std + 0.5 * math.log(temperature)], dim=-1)

    def with_uniform(self, parameters: Tensor, share: float) -> Tensor:
        raise UsageError("behavior: a share of uniform actions of a Gaussian, expected behavior=temperature")

    def entropy(self, parameters: Tensor) -> Tensor:
        return (parameters[..., self.size :] + 0.5 * math.log(2 * math.pi * math.e)).sum(dim=-1)

    def kl(self, parameters: Tensor, other: Tensor) -> Tensor:
        mean_p, log_p = parameters[..., : self.size], parameters[..., self.size :]
        mean_q, log_q = other[..., : self.size], other[..., self.size :]
        ratio = (2 * (log_p - log_q)).exp() + (mean_p - mean_q).square() * (-2 * log_q).exp()
        return (log_q - log_p + 0.5 * (ratio - 1)).sum(dim=-1)
