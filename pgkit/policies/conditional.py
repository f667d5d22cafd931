"""Several choices at a time, where what is allowed in one dimension depends on what was chosen in those before it."""

from __future__ import annotations

import math
from typing import final

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from pgkit.core.placed import Placed
from pgkit.policies.categorical import BLOCKED, mixed_with_uniform
from pgkit.policies.law import BARRED, MASKED, Array, Law


@final
class ConditionalCategorical(Law):
    """One choice in each dimension, in turn: π(a) = Π_d softmax over what a_1 … a_{d−1} leave allowed of logits_d.

    A network puts out logits dimension by dimension; the parameters are what `joined` makes of them and of a table of
    allowed actions, the log-probability of every whole action, C of them, the last dimension running fastest. So
    everything is exact: the table is as large. A choice is allowed where the table allows a way to go on from it.
    Temperatures and uniform shares are of whole actions. Actions are indices from 0 whatever the space starts at.
    """

    def __init__(self, space: spaces.MultiDiscrete) -> None:
        self.counts = tuple(int(count) for count in space.nvec)
        self.num_parameters = math.prod(self.counts)
        self.dimensions = (self.num_parameters,)
        self.start, self.dtype = space.start, space.dtype
        self._strides = Placed(torch.tensor([math.prod(self.counts[d + 1 :]) for d in range(len(self.counts))]))

    @property
    def num_outputs(self) -> int:
        """The choices of all dimensions."""
        return sum(self.counts)

    def joined(self, logits: Tensor, table: Tensor) -> Tensor:
        """Returns the log-probability of every action `[..., C]`, MASKED without gradient where `table` is 0.

        Shapes: logits `[..., K]`, those of one dimension after the other; table `[..., n_1, …, n_D]`.
        """
        lead = logits.shape[:-1]
        allowed = table.reshape(*lead, *self.counts) != 0
        total = logits.new_zeros(lead)
        for place, own in enumerate(logits.split(self.counts, dim=-1)):
            rest = tuple(range(len(lead) + place + 1, allowed.dim()))
            possible = allowed.sum(dim=rest) > 0 if rest else allowed
            own = own.reshape(*lead, *[1] * place, -1)
            total = total.unsqueeze(-1) + torch.where(possible, own, MASKED).log_softmax(dim=-1)
        return torch.where(allowed, total, MASKED).flatten(len(lead))

    def fault(self, parameters: Array, acted: Array) -> str | None:
        blocked = (parameters[acted].max(axis=-1) < BARRED).any() if acted.any() else False
        return super().fault(parameters, acted) or (BLOCKED if blocked else None)

    def noise(self, generator: np.random.Generator, shape: tuple[int, ...]) -> Array:
        """Returns standard Gumbel noise `[*shape, C]`: the largest noisy log-probability is a draw."""
        exponential = generator.standard_exponential((*shape, self.num_parameters), dtype=np.float32)
        return -np.log(np.maximum(exponential, np.float32(1e-30)))

    def sample(self, parameters: Array, noise: Array) -> Array:
        return self.mode(parameters + noise)

    def mode(self, parameters: Array) -> Array:
        return np.stack(np.unravel_index(parameters.argmax(axis=-1), self.counts), axis=-1)

    def to_environment(self, actions: Array) -> Array:
        return (actions + self.start).astype(self.dtype)

    def encode(self, actions: Tensor) -> Tensor:
        every = torch.arange(self.num_parameters, device=actions.device)
        return (self._flat(actions).unsqueeze(-1) == every).to(torch.get_default_dtype())

    def mean(self, parameters: Tensor) -> Tensor:
        return torch.softmax(parameters, dim=-1)

    def log_prob_of_dimensions(self, parameters: Tensor, actions: Tensor) -> Tensor:
        """Returns the log-probability of the whole action, `[..., 1]`: its dimensions depend on each other."""
        return parameters.log_softmax(dim=-1).gather(-1, self._flat(actions).unsqueeze(-1))

    def tempered(self, parameters: Tensor, temperature: float) -> Tensor:
        return parameters / temperature

    def with_uniform(self, parameters: Tensor, share: float) -> Tensor:
        return mixed_with_uniform(parameters, share)

    def entropy(self, parameters: Tensor) -> Tensor:
        log_prob = parameters.log_softmax(dim=-1)
        return -(log_prob.exp() * log_prob).sum(dim=-1)

    def kl(self, parameters: Tensor, other: Tensor) -> Tensor:
        log_p, log_q = parameters.log_softmax(dim=-1), other.log_softmax(dim=-1)
        return (log_p.exp() * (log_p - log_q)).sum(dim=-1)

    def _flat(self, actions: Tensor) -> Tensor:
        """Returns the number of each action, `[...]`."""
        return (actions * self._strides.beside(actions)).sum(dim=-1)
