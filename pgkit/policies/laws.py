"""Laws of one action given the numbers a network puts out: pure functions of parameters `[..., K]`.

Sampling is numpy, from base noise drawn beforehand, so that no tensor library sits in the step loop and the same noise
always gives the same action; what is differentiated is torch.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
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
    dimensions: Sequence[int]
    """How many numbers each of D independent dimensions of an action is encoded in, E in all."""

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
    def encode(self, actions: Tensor) -> Tensor:
        """Returns the actions as sampled in numbers that have a mean, `[..., E]`."""

    @abstractmethod
    def mean(self, parameters: Tensor) -> Tensor:
        """Returns the mean of the encoded actions, `[..., E]`, differentiable."""

    @abstractmethod
    def log_prob_of_dimensions(self, parameters: Tensor, actions: Tensor) -> Tensor:
        """Returns the log-probability (density) of every dimension of the actions as sampled, `[..., D]`."""

    def log_prob(self, parameters: Tensor, actions: Tensor) -> Tensor:
        """Returns the log-probability (density) of the actions as sampled."""
        return self.log_prob_of_dimensions(parameters, actions).sum(dim=-1)

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
        self.dimensions = (self.num_parameters,)
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

    def encode(self, actions: Tensor) -> Tensor:
        return (actions.unsqueeze(-1) == torch.arange(self.num_parameters)).to(torch.get_default_dtype())

    def mean(self, parameters: Tensor) -> Tensor:
        return torch.softmax(parameters, dim=-1)

    def log_prob_of_dimensions(self, parameters: Tensor, actions: Tensor) -> Tensor:
        return self.log_probabilities(parameters).gather(-1, actions.unsqueeze(-1))

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
class IndependentCategorical(Law):
    """One of several choices in each dimension, independently; the parameters are the logits, dimension by dimension.

    Actions are indices from 0 whatever the space starts at; a bit is a choice between two.
    """

    def __init__(self, space: spaces.MultiDiscrete | spaces.MultiBinary) -> None:
        self.shape, self.dtype = tuple(space.shape), space.dtype
        if isinstance(space, spaces.MultiDiscrete):
            self.dimensions, self.start = tuple(space.nvec.reshape(-1).tolist()), space.start
        else:
            self.dimensions, self.start = (2,) * math.prod(self.shape), np.zeros(self.shape, dtype=int)
        self.num_parameters = sum(self.dimensions)
        counts = torch.tensor(self.dimensions)
        self._choice = torch.cat([torch.arange(count) for count in self.dimensions])
        self._dimension = torch.arange(len(counts)).repeat_interleave(counts)
        # Where the logits of each dimension lie, as a table; dimensions with fewer choices point at one beyond the end.
        self._table = torch.full((len(counts), int(counts.max())), self.num_parameters)
        self._table[self._dimension, self._choice] = torch.arange(self.num_parameters)

    def noise(self, generator: np.random.Generator, shape: tuple[int, ...]) -> Array:
        """Returns standard Gumbel noise `[*shape, K]`."""
        exponential = generator.standard_exponential((*shape, self.num_parameters), dtype=np.float32)
        return -np.log(np.maximum(exponential, np.float32(1e-30)))

    def sample(self, parameters: Array, noise: Array) -> Array:
        return self.mode(parameters + noise)

    def mode(self, parameters: Array) -> Array:
        beyond = np.full_like(parameters[..., :1], -np.inf)
        logits = np.concatenate([parameters, beyond], axis=-1)[..., self._table.numpy()]
        return logits.argmax(axis=-1).reshape(*parameters.shape[:-1], *self.shape)

    def to_environment(self, actions: Array) -> Array:
        return (actions + self.start).astype(self.dtype)

    def encode(self, actions: Tensor) -> Tensor:
        chosen = self._flat(actions)[..., self._dimension]
        return (chosen == self._choice).to(torch.get_default_dtype())

    def mean(self, parameters: Tensor) -> Tensor:
        return self._log_probabilities(parameters).exp()[..., self._dimension, self._choice]

    def log_prob_of_dimensions(self, parameters: Tensor, actions: Tensor) -> Tensor:
        return self._log_probabilities(parameters).gather(-1, self._flat(actions).unsqueeze(-1)).squeeze(-1)

    def entropy(self, parameters: Tensor) -> Tensor:
        log_prob = self._log_probabilities(parameters)
        return -(log_prob.exp() * log_prob).sum(dim=(-2, -1))

    def kl(self, parameters: Tensor, other: Tensor) -> Tensor:
        log_p, log_q = self._log_probabilities(parameters), self._log_probabilities(other)
        return (log_p.exp() * (log_p - log_q)).sum(dim=(-2, -1))

    def _flat(self, actions: Tensor) -> Tensor:
        return actions.reshape(*actions.shape[: actions.dim() - len(self.shape)], -1)

    def _log_probabilities(self, parameters: Tensor) -> Tensor:
        """Returns those of every choice, `[..., D, most choices]`; what is no choice is all but impossible, not -inf:
        0 · inf would be nan."""
        beyond = torch.full_like(parameters[..., :1], -1e30)
        return torch.log_softmax(torch.cat([parameters, beyond], dim=-1)[..., self._table], dim=-1)


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

    def entropy(self, parameters: Tensor) -> Tensor:
        return (parameters[..., self.size :] + 0.5 * math.log(2 * math.pi * math.e)).sum(dim=-1)

    def kl(self, parameters: Tensor, other: Tensor) -> Tensor:
        mean_p, log_p = parameters[..., : self.size], parameters[..., self.size :]
        mean_q, log_q = other[..., : self.size], other[..., self.size :]
        ratio = (2 * (log_p - log_q)).exp() + (mean_p - mean_q).square() * (-2 * log_q).exp()
        return (log_q - log_p + 0.5 * (ratio - 1)).sum(dim=-1)


def law_of(space: spaces.Space[Any]) -> Law:
    """Returns the law for an action space: categorical for the discrete ones, diagonal Gaussian for Box.

    Raises: UsageError for any other space.
    """
    if isinstance(space, spaces.MultiDiscrete | spaces.MultiBinary):
        return IndependentCategorical(space)
    if isinstance(space, spaces.Discrete):
        return Categorical(space)
    if isinstance(space, spaces.Box):
        return DiagonalGaussian(space)
    raise UsageError(f"env.id: action space {space}, expected Discrete, MultiDiscrete, MultiBinary or Box")
