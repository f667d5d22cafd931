"""Laws of one action given the numbers a network puts out: pure functions of parameters `[..., K]`.

Sampling is numpy, from base noise drawn beforehand, so that no tensor library sits in the step loop and the same noise
always gives the same action; what is differentiated is torch.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any, final

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from pgkit.errors import UsageError

Array = np.ndarray[Any, Any]


class Law(ABC):
    """A family of distributions over actions. `parameters` are `[..., K]`; results are `[...]`, in nats."""

    num_parameters: int
    """K."""

    @abstractmethod
    def noise(self, generator: np.random.Generator, shape: tuple[int, ...]) -> Array:
        """Returns base noise for `shape` actions, `[*shape, …]` in float32."""

    @abstractmethod
    def sample(self, parameters: Array, noise: Array) -> Array:
        """Returns the actions `[..., *act]` that the noise picks."""

    @abstractmethod
    def mode(self, parameters: Array) -> Array:
        """Returns the most probable actions `[..., *act]`."""

    @abstractmethod
    def to_environment(self, actions: Array) -> Array:
        """Returns the actions as the environment takes them; the ones given are left as sampled."""

    @abstractmethod
    def log_prob(self, parameters: Tensor, actions: Tensor) -> Tensor:
        """Returns the log-probability (density) of the actions as sampled."""

    @abstractmethod
    def entropy(self, parameters: Tensor) -> Tensor:
        """Returns the (differential) entropy."""

    @abstractmethod
    def kl(self, parameters: Tensor, other: Tensor) -> Tensor:
        """Returns KL(parameters || other)."""


@final
class Categorical(Law):
    """One of n actions; the parameters are logits, and actions are indices from 0 whatever the space starts at."""

    def __init__(self, space: spaces.Discrete) -> None:
        self.num_parameters = int(space.n)
        self.start = int(space.start)

    def noise(self, generator: np.random.Generator, shape: tuple[int, ...]) -> Array:
        """Returns standard Gumbel noise `[*shape, n]`: the largest noisy logit is a draw from the softmax."""
        exponential = generator.standard_exponential((*shape, self.num_parameters), dtype=np.float32)
        return -np.log(np.maximum(exponential, np.float32(1e-30)))

    def sample(self, parameters: Array, noise: Array) -> Array:
        return (parameters + noise).argmax(axis=-1)

    def mode(self, parameters: Array) -> Array:
        return parameters.argmax(axis=-1)

    def to_environment(self, actions: Array) -> Array:
        return actions + self.start if self.start else actions

    def log_prob(self, parameters: Tensor, actions: Tensor) -> Tensor:
        return self.log_probabilities(parameters).gather(-1, actions.unsqueeze(-1)).squeeze(-1)

    def log_probabilities(self, parameters: Tensor) -> Tensor:
        """Returns the log-probability of every action, `[..., A]`."""
        return torch.log_softmax(parameters, dim=-1)

    def entropy(self, parameters: Tensor) -> Tensor:
        log_prob = torch.log_softmax(parameters, dim=-1)
        return -(log_prob.exp() * log_prob).sum(dim=-1)

    def kl(self, parameters: Tensor, other: Tensor) -> Tensor:
        log_p, log_q = torch.log_softmax(parameters, dim=-1), torch.log_softmax(other, dim=-1)
        return (log_p.exp() * (log_p - log_q)).sum(dim=-1)


@final
class DiagonalGaussian(Law):
    """Independent normals; the parameters are the means, then the logs of the standard deviations.

    Samples are unbounded; the environment gets a copy clipped to its bounds, where it has any.
    """

    def __init__(self, space: spaces.Box) -> None:
        self.shape = tuple(space.shape)
        self.size = math.prod(self.shape)
        self.num_parameters = 2 * self.size
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

    def log_prob(self, parameters: Tensor, actions: Tensor) -> Tensor:
        mean, log_std = parameters[..., : self.size], parameters[..., self.size :]
        noise = (actions.reshape(mean.shape) - mean) * (-log_std).exp()
        return (-0.5 * noise.square() - log_std - 0.5 * math.log(2 * math.pi)).sum(dim=-1)

    def entropy(self, parameters: Tensor) -> Tensor:
        return (parameters[..., self.size :] + 0.5 * math.log(2 * math.pi * math.e)).sum(dim=-1)

    def kl(self, parameters: Tensor, other: Tensor) -> Tensor:
        mean_p, log_p = parameters[..., : self.size], parameters[..., self.size :]
        mean_q, log_q = other[..., : self.size], other[..., self.size :]
        ratio = (2 * (log_p - log_q)).exp() + (mean_p - mean_q).square() * (-2 * log_q).exp()
        return (log_q - log_p + 0.5 * (ratio - 1)).sum(dim=-1)


def law_of(space: spaces.Space[Any]) -> Law:
    """Returns the law for an action space: categorical for Discrete, diagonal Gaussian for Box.

    Raises: UsageError for any other space.
    """
    if isinstance(space, spaces.Discrete):
        return Categorical(space)
    if isinstance(space, spaces.Box):
        return DiagonalGaussian(space)
    raise UsageError(f"env.id: action space {space}, expected Discrete or Box")
