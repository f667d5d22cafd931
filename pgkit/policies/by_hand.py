"""The fast path of a plain policy on plain laws: log-probabilities, entropies and their gradients without autograd."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol, final

import numpy as np
import torch
from torch import Tensor

from pgkit.core.encoder import Encoder
from pgkit.core.perceptron import Evaluation, Perceptron, picked
from pgkit.policies.categorical import Categorical
from pgkit.policies.gaussian import DiagonalGaussian
from pgkit.policies.law import Array, Law
from pgkit.types import Observations


class Reading(Protocol):
    """What a law says of M actions at parameters `[M, K]`: `log_prob` and `entropy` `[M]`, and their derivatives."""

    log_prob: Array

    @property
    def entropy(self) -> Array: ...

    def gradient(self, weight: Array, entropy_weight: float) -> Array:
        """Returns ∂(Σ_i weight_i log π_i + entropy_weight Σ_i H_i) / ∂ parameters, `[M, K]`."""


@final
class CategoricalReading:
    """∂ log π(a) / ∂ logits = 1_a − π and ∂ H / ∂ logits = −π (log π + H)."""

    def __init__(self, logits: Array, actions: Array) -> None:
        # Choices first, [K, M]: what is done to each choice then goes through whole rows of memory.
        self._log_probabilities = np.array(logits.T, order="C")
        self._log_probabilities -= self._log_probabilities.max(axis=0)
        self._exponentials = np.exp(self._log_probabilities)
        self._total = self._exponentials.sum(axis=0)
        self._log_probabilities -= np.log(self._total)
        self._taken = actions, np.arange(len(logits))
        self.log_prob: Array = self._log_probabilities[self._taken]

    @cached_property
    def _probabilities(self) -> Array:
        result: Array = np.divide(self._exponentials, self._total, out=self._exponentials)
        return result

    @cached_property
    def entropy(self) -> Array:
        result: Array = -np.einsum("km,km->m", self._probabilities, self._log_probabilities)
        return result

    def gradient(self, weight: Array, entropy_weight: float) -> Array:
        result: Array = self._probabilities * -weight
        result[self._taken] += weight
        if entropy_weight:
            surprise = self._log_probabilities + self.entropy
            surprise *= self._probabilities
            surprise *= entropy_weight
            result -= surprise
        return np.ascontiguousarray(result.T)


@final
class GaussianReading:
    """With noise z = (a − μ) / σ: ∂ log π / ∂ μ = z / σ, ∂ log π / ∂ log σ = z² − 1, ∂ H / ∂ log σ = 1."""

    def __init__(self, parameters: Array, actions: Array) -> None:
        size = parameters.shape[-1] // 2
        log_std = parameters[:, size:]
        self._inverse = np.exp(-log_std)
        self._noise = (actions.reshape(len(actions), size) - parameters[:, :size]) * self._inverse
        scales = log_std.sum(axis=-1)
        norms = np.einsum("ma,ma->m", self._noise, self._noise)
        self.log_prob: Array = -0.5 * norms - scales - 0.5 * size * math.log(2 * math.pi)
        self.entropy: Array = scales + 0.5 * size * math.log(2 * math.pi * math.e)

    def gradient(self, weight: Array, entropy_weight: float) -> Array:
        noise, column = self._noise, weight[:, None]
        return np.concatenate((column * noise * self._inverse, column * (noise * noise - 1) + entropy_weight), axis=-1)


@dataclass(frozen=True)
class Rows:
    """Features `[M, D]` and actions of rows, in numpy."""

    features: Array
    actions: Array


READINGS: dict[type[Law], type[Any]] = {Categorical: CategoricalReading, DiagonalGaussian: GaussianReading}
"""The laws that are read by hand."""


@final
class ByHand:
    """A policy whose network is a plain perceptron, whose law has a reading, evaluated on rows in numpy.

    Gradients `[P]` are in the order of the policy's parameters: the network's, then the scales that are none of its
    outputs. Equal to autograd up to rounding.
    """

    def __init__(self, *, encoder: Encoder, perceptron: Perceptron, log_std: Tensor | None, reading: type[Any]) -> None:
        self._encoder, self._perceptron, self._reading = encoder, perceptron, reading
        self._log_std = None if log_std is None else log_std.detach().numpy()
        self.num_parameters = perceptron.num_parameters + (0 if self._log_std is None else len(self._log_std))

    def rows(self, obs: Observations, actions: Tensor) -> Rows:
        """Returns observations, encoded, and actions of rows that are looked at more than once."""
        with torch.no_grad():
            features = self._encoder(obs)
        return Rows(features=features.numpy(), actions=actions.numpy())

    def read(self, rows: Rows, index: Array | slice) -> ReadRows:
        """Returns what the policy, as it is now, says of some of the rows."""
        evaluation = self._perceptron.evaluate(picked(rows.features, index))
        return ReadRows(evaluation, self._read(evaluation.outputs, picked(rows.actions, index)), self.num_parameters)

    def log_prob(self, rows: Rows) -> Tensor:
        """Returns log π(a|s) `[M]` of all the rows, which nobody will differentiate."""
        return torch.from_numpy(self._read(self._perceptron.outputs(rows.features), rows.actions).log_prob)

    def _read(self, outputs: Array, actions: Array) -> Reading:
        if self._log_std is not None:
            scales = np.broadcast_to(self._log_std, (len(outputs), len(self._log_std)))
            outputs = np.concatenate((outputs, scales), axis=-1)
        reading: Reading = self._reading(outputs, actions)
        return reading


@final
class ReadRows:
    """Log-probabilities and entropies `[M]` of rows, in nats, and the gradient of any weighted sum of them."""

    def __init__(self, evaluation: Evaluation, reading: Reading, num_parameters: int) -> None:
        self._evaluation, self._reading, self._num_parameters = evaluation, reading, num_parameters
        self.log_prob, self.entropy = torch.from_numpy(reading.log_prob), torch.from_numpy(reading.entropy)

    def gradient(self, weight: Tensor, entropy_weight: float) -> Tensor:
        """Returns ∇ (Σ_i weight_i log π_i + entropy_weight Σ_i H_i), `[P]`."""
        found = self._reading.gradient(weight.numpy(), entropy_weight)
        result = np.empty(self._num_parameters, found.dtype)
        outputs = self._evaluation.outputs.shape[1]
        in_network = len(result) - (found.shape[1] - outputs)
        if in_network < len(result):
            np.add.reduce(found[:, outputs:], axis=0, out=result[in_network:])
            found = np.ascontiguousarray(found[:, :outputs])
        self._evaluation.gradient(found, result[:in_network])
        return torch.from_numpy(result)
