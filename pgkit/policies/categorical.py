"""Choices among finitely many actions, one or several at a time.

A choice that is not allowed has the logit MASKED: its probability is exactly 0, whatever is computed from it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import final

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from pgkit.core.placed import Placed
from pgkit.policies.law import BARRED, MASKED, Array, Law

BLOCKED = "the action mask allows no action in some state, expected at least one"


@final
class Categorical(Law):
    """One of n actions; the parameters are logits, and actions are indices from 0 whatever the space starts at."""

    def __init__(self, space: spaces.Discrete) -> None:
        self.num_parameters = int(space.n)
        self.dimensions = (self.num_parameters,)
        self.start = int(space.start)

    def fault(self, parameters: Array, acted: Array) -> str | None:
        blocked = self.masks and _blocked(parameters[acted], self.dimensions)
        return super().fault(parameters, acted) or (BLOCKED if blocked else None)

    def noise(self, generator: np.random.Generator, shape: tuple[int, ...]) -> Array:
        """Returns standard Gumbel noise `[*shape, n]`: the largest noisy logit is a draw from the softmax."""
        exponential = generator.standard_exponential((*shape, self.num_parameters), dtype=np.float32)
        return -np.log(np.maximum(exponential, np.float32(1e-30)))

    def sample(self, parameters: Array, noise: Array) -> Array:
        return (parameters + noise).argmax(axis=-1)

    def draw(self, parameters: Tensor, generator: torch.Generator) -> Tensor:
        """Returns actions `[...]` as sampled, drawn where the parameters are."""
        exponential = torch.empty_like(parameters).exponential_(generator=generator)
        return (parameters - exponential.clamp(min=1e-30).log()).argmax(dim=-1)

    def applied(self, actions: Tensor) -> Tensor:
        """Returns the actions as the environment takes them, `[...]`."""
        return actions + self.start if self.start else actions

    def mode(self, parameters: Array) -> Array:
        return parameters.argmax(axis=-1)

    def to_environment(self, actions: Array) -> Array:
        return actions + self.start if self.start else actions

    def encode(self, actions: Tensor) -> Tensor:
        return (actions.unsqueeze(-1) == torch.arange(self.num_parameters, device=actions.device)).to(
            torch.get_default_dtype()
        )

    def mean(self, parameters: Tensor) -> Tensor:
        return torch.softmax(parameters, dim=-1)

    def log_prob_of_dimensions(self, parameters: Tensor, actions: Tensor) -> Tensor:
        return self.log_probabilities(parameters).gather(-1, actions.unsqueeze(-1))

    def log_probabilities(self, parameters: Tensor) -> Tensor:
        """Returns the log-probability of every action, `[..., A]`."""
        return torch.log_softmax(parameters, dim=-1)

    def tempered(self, parameters: Tensor, temperature: float) -> Tensor:
        return parameters / temperature

    def with_uniform(self, parameters: Tensor, share: float) -> Tensor:
        return mixed_with_uniform(parameters, share)

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
        choice = torch.cat([torch.arange(count) for count in self.dimensions])
        dimension = torch.arange(len(counts)).repeat_interleave(counts)
        # Where the logits of each dimension lie, as a table; dimensions with fewer choices point at one beyond the end.
        table = torch.full((len(counts), int(counts.max())), self.num_parameters)
        table[dimension, choice] = torch.arange(self.num_parameters)
        self._choice, self._dimension, self._table = Placed(choice), Placed(dimension), Placed(table)

    def fault(self, parameters: Array, acted: Array) -> str | None:
        blocked = self.masks and _blocked(parameters[acted], self.dimensions)
        return super().fault(parameters, acted) or (BLOCKED if blocked else None)

    def noise(self, generator: np.random.Generator, shape: tuple[int, ...]) -> Array:
        """Returns standard Gumbel noise `[*shape, K]`."""
        exponential = generator.standard_exponential((*shape, self.num_parameters), dtype=np.float32)
        return -np.log(np.maximum(exponential, np.float32(1e-30)))

    def sample(self, parameters: Array, noise: Array) -> Array:
        return self.mode(parameters + noise)

    def mode(self, parameters: Array) -> Array:
        beyond = np.full_like(parameters[..., :1], -np.inf)
        logits = np.concatenate([parameters, beyond], axis=-1)[..., self._table.value.numpy()]
        return logits.argmax(axis=-1).reshape(*parameters.shape[:-1], *self.shape)

    def to_environment(self, actions: Array) -> Array:
        return (actions + self.start).astype(self.dtype)

    def encode(self, actions: Tensor) -> Tensor:
        chosen = self._flat(actions)[..., self._dimension.beside(actions)]
        return (chosen == self._choice.beside(actions)).to(torch.get_default_dtype())

    def mean(self, parameters: Tensor) -> Tensor:
        places = self._dimension.beside(parameters), self._choice.beside(parameters)
        return self._log_probabilities(parameters).exp()[..., *places]

    def log_prob_of_dimensions(self, parameters: Tensor, actions: Tensor) -> Tensor:
        return self._log_probabilities(parameters).gather(-1, self._flat(actions).unsqueeze(-1)).squeeze(-1)

    def tempered(self, parameters: Tensor, temperature: float) -> Tensor:
        return parameters / temperature

    def with_uniform(self, parameters: Tensor, share: float) -> Tensor:
        return torch.cat([mixed_with_uniform(each, share) for each in parameters.split(self.dimensions, -1)], dim=-1)

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
        table = self._table.beside(parameters)
        return torch.log_softmax(torch.cat([parameters, beyond], dim=-1)[..., table], dim=-1)


def masked(logits: Tensor, mask: Tensor) -> Tensor:
    """Returns the logits `[..., K]`, MASKED without gradient where the mask `[..., *]`, of as many numbers, is 0."""
    return torch.where(mask.reshape(logits.shape) != 0, logits, MASKED)


def mixed_with_uniform(logits: Tensor, share: float) -> Tensor:
    """Returns the log-probabilities of (1 − share) softmax + share / n, `[..., n]`, n the choices that are allowed."""
    allowed = logits > BARRED
    even = logits.new_tensor(share).log() - allowed.sum(dim=-1, keepdim=True).to(logits).log()
    mixed = torch.logaddexp(logits.log_softmax(dim=-1) + logits.new_tensor(1 - share).log(), even)
    return torch.where(allowed, mixed, MASKED)


def _blocked(logits: Array, dimensions: Sequence[int]) -> bool:
    """Returns whether a dimension is left without a choice somewhere."""
    parts = np.split(logits, np.cumsum(dimensions)[:-1], axis=-1)
    return any((part.max(axis=-1) < BARRED).any() for part in parts)
