"""Laws of one action given the numbers a network puts out: pure functions of parameters `[..., K]`.

Sampling is numpy, from base noise drawn beforehand, so that no tensor library sits in the step loop and the same noise
always gives the same action; what is differentiated is torch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

Array = np.ndarray[Any, Any]
MASKED = -1e9
"""The logit of a choice that is not allowed: its probability is 0, and 0 times its logarithm is 0, not nan."""
BARRED = MASKED / 1000
"""Logits below this were masked, whatever was done to them since, such as a temperature."""


class Law(ABC):
    """A family of distributions over actions. `parameters` are `[..., K]`; results are `[...]`, in nats."""

    num_parameters: int
    """K."""
    dimensions: Sequence[int]
    """How many numbers each of D independent dimensions of an action is encoded in, E in all."""
    masks: bool = False
    """Whether choices may be masked, in which case the policy says so."""
    num_scales: int = 0
    """How many of the last parameters are logarithms of scales, which need not depend on the observation."""

    @property
    def num_outputs(self) -> int:
        """How many numbers a network puts out for it, constant scales included: K, unless a mask adds to them."""
        return self.num_parameters

    def initial(self, log_std: float) -> Tensor:
        """Returns the outputs `[K]` that an untrained policy starts from, scales at `log_std`."""
        start = torch.zeros(self.num_outputs)
        start[self.num_outputs - self.num_scales :] = log_std
        return start

    def fault(self, parameters: Array, acted: Array) -> str | None:
        """Returns what is wrong with parameters `[..., K]`, None where they will do; `acted` `[...]`: which count."""
        if np.isfinite(parameters).all():
            return None
        return "parameters of the action law are not finite, expected finite numbers"

    def allowed(self, parameters: Array) -> Array | None:
        """Returns which choices were allowed `[..., K]`, None where nothing is ever masked."""
        return parameters > BARRED if self.masks else None

    @abstractmethod
    def noise(self, generator: np.random.Generator, shape: tuple[int, ...]) -> Array:
        """Returns base noise for `shape` actions, `[*shape, …]` in float32."""

    @abstractmethod
    def sample(self, parameters: Array, noise: Array) -> Array:
        """Returns the actions `[..., *act]` that the noise picks."""

    @abstractmethod
    def mode(self, parameters: Array) -> Array:
        """Returns the most probable actions `[..., *act]`, or what the law takes for them."""

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
    def tempered(self, parameters: Tensor, temperature: float) -> Tensor:
        """Returns the parameters of π^(1/τ), normalised, or of a law about as bold where that is of another family."""

    @abstractmethod
    def with_uniform(self, parameters: Tensor, share: float) -> Tensor:
        """Returns the parameters of (1 − share) π + share · uniform, each dimension on its own.

        Raises: UsageError for a law without such a mixture.
        """

    @abstractmethod
    def entropy(self, parameters: Tensor) -> Tensor:
        """Returns the (differential) entropy, or a bound of it that the law names."""

    @abstractmethod
    def kl(self, parameters: Tensor, other: Tensor) -> Tensor:
        """Returns KL(parameters || other), or a bound of it that the law names; 0 where they are the same."""
