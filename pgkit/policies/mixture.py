"""Continuous actions by a mixture of normals: several ways to act in one state."""

from __future__ import annotations

import math
from typing import final

import numpy as np
import torch
from gymnasium import spaces
from scipy import special
from torch import Tensor

from pgkit.policies.gaussian import BoxLaw, normal_kl
from pgkit.policies.law import Array


@final
class GaussianMixture(BoxLaw):
    """C normals with diagonal covariances over the whole action; the parameters are logits, means, log deviations.

    Its dimensions are not independent, so the action counts as one. Neither entropy nor divergence has a closed form:
    the one given is a lower bound, the other that of component and action together, an upper bound, with which a trust
    region keeps its promise; both are exact where components lie far apart. The mode is taken to be the densest of the
    means; a temperature flattens the logits and widens the components.
    Source: Bishop 1994 (Neural Computing Research Group, NCRG/94/004); Kolchinsky and Tracey 2017, arXiv:1706.02419.
    """

    def __init__(self, space: spaces.Box, *, components: int) -> None:
        super().__init__(space)
        self.components = components
        self.dimensions = (self.size,)
        self.num_scales = components * self.size
        self.num_parameters = components + 2 * self.num_scales

    def initial(self, log_std: float) -> Tensor:
        """Returns equal weights, and means at evenly spaced quantiles of a normal as wide as each component."""
        start = super().initial(log_std)
        quantiles = special.ndtri((np.arange(self.components) + 0.5) / self.components)
        means = torch.as_tensor(math.exp(log_std) * quantiles, dtype=start.dtype)
        start[self.components : self.components + self.num_scales] = means.repeat_interleave(self.size)
        return start

    def noise(self, generator: np.random.Generator, shape: tuple[int, ...]) -> Array:
        """Returns standard Gumbel noise for the choice of a component, then standard normal noise, `[*shape, C+A]`."""
        exponential = generator.standard_exponential((*shape, self.components), dtype=np.float32)
        normal = generator.standard_normal((*shape, self.size), dtype=np.float32)
        return np.concatenate([-np.log(np.maximum(exponential, np.float32(1e-30))), normal], axis=-1)

    def sample(self, parameters: Array, noise: Array) -> Array:
        logits, means, log_stds = self._arrays(parameters)
        chosen = (logits + noise[..., : self.components]).argmax(axis=-1)[..., None, None]
        mean, log_std = (np.take_along_axis(each, chosen, axis=-2)[..., 0, :] for each in (means, log_stds))
        return self._shaped(mean + np.exp(log_std) * noise[..., self.components :])

    def mode(self, parameters: Array) -> Array:
        logits, means, log_stds = self._arrays(parameters)
        apart = (means[..., :, None, :] - means[..., None, :, :]) * np.exp(-log_stds)[..., None, :, :]
        terms = (-0.5 * np.square(apart) - log_stds[..., None, :, :]).sum(axis=-1) + logits[..., None, :]
        densest = np.logaddexp.reduce(terms, axis=-1).argmax(axis=-1)[..., None, None]
        return self._shaped(np.take_along_axis(means, densest, axis=-2)[..., 0, :])

    def mean(self, parameters: Tensor) -> Tensor:
        log_weights, means, _ = self._split(parameters)
        return (log_weights.exp()[..., None] * means).sum(dim=-2)

    def log_prob_of_dimensions(self, parameters: Tensor, actions: Tensor) -> Tensor:
        log_weights, means, log_stds = self._split(parameters)
        noise = (self.encode(actions)[..., None, :] - means) * (-log_stds).exp()
        densities = (-0.5 * noise.square() - log_stds - 0.5 * math.log(2 * math.pi)).sum(dim=-1)
        return torch.logsumexp(log_weights + densities, dim=-1, keepdim=True)

    def tempered(self, parameters: Tensor, temperature: float) -> Tensor:
        logits, means, log_stds = parameters.split((self.components, self.num_scales, self.num_scales), dim=-1)
        return torch.cat([logits / temperature, means, log_stds + 0.5 * math.log(temperature)], dim=-1)

    def entropy(self, parameters: Tensor) -> Tensor:
        log_weights, means, log_stds = self._split(parameters)
        first, second = log_stds[..., :, None, :], log_stds[..., None, :, :]
        apart = (means[..., :, None, :] - means[..., None, :, :]).square()
        total = torch.logaddexp(2 * first, 2 * second)  # log of the sum of both variances
        distance = (0.25 * apart * (-total).exp() + 0.5 * (total - math.log(2) - first - second)).sum(dim=-1)
        own = (log_stds + 0.5 * math.log(2 * math.pi * math.e)).sum(dim=-1)
        overlap = torch.logsumexp(log_weights[..., None, :] - distance, dim=-1)
        return (log_weights.exp() * (own - overlap)).sum(dim=-1)

    def kl(self, parameters: Tensor, other: Tensor) -> Tensor:
        log_weights, means, log_stds = self._split(parameters)
        other_weights, other_means, other_stds = self._split(other)
        each = normal_kl(means, log_stds, other_means, other_stds).sum(dim=-1)
        return (log_weights.exp() * (log_weights - other_weights + each)).sum(dim=-1)

    def _split(self, parameters: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Returns log weights `[..., C]`, means and log deviations `[..., C, A]`."""
        logits, means, log_stds = parameters.split((self.components, self.num_scales, self.num_scales), dim=-1)
        shape = (self.components, self.size)
        return torch.log_softmax(logits, dim=-1), means.unflatten(-1, shape), log_stds.unflatten(-1, shape)

    def _arrays(self, parameters: Array) -> tuple[Array, Array, Array]:
        logits, means, log_stds = np.split(parameters, (self.components, self.components + self.num_scales), axis=-1)
        shape = (*parameters.shape[:-1], self.components, self.size)
        return logits, means.reshape(shape), log_stds.reshape(shape)
