"""A policy over a multilayer perceptron."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, final

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from pgkit.core.encoder import Encoder
from pgkit.core.layers import Constant
from pgkit.core.networks import multilayer_perceptron
from pgkit.options import Count
from pgkit.policies.actor import numpy_actor, torch_actor
from pgkit.policies.laws import DiagonalGaussian, law_of
from pgkit.types import Observations, Rows, map_observations


@final
class MLPPolicy(nn.Module):
    """π(a|s) by a multilayer perceptron: categorical over discrete, diagonal Gaussian over Box actions."""

    def __init__(
        self,
        *,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        hidden_sizes: list[Count] = [64, 64],  # noqa: B006 read only
        activation: Literal["tanh", "relu", "silu"] = "tanh",
        init: Literal["orthogonal", "default"] = "orthogonal",
        initial_log_std: float = 0.0,
        normalise_observations: bool = False,
        images: Literal["scale", "refuse"] = "scale",
    ) -> None:
        super().__init__()
        self.law = law_of(action_space)
        self.encoder = Encoder(observation_space, normalise=normalise_observations, images=images)
        gaussian = isinstance(self.law, DiagonalGaussian)
        outputs = self.law.num_parameters // 2 if gaussian else self.law.num_parameters
        self.network = multilayer_perceptron(
            self.encoder.features, hidden_sizes, outputs, activation=activation, init=init, output_gain=0.01
        )
        self.log_std = Constant(torch.full((outputs,), float(initial_log_std))) if gaussian else None

    def forward(self, obs: Observations) -> Tensor:
        """Returns the parameters `[..., K]` of the action law at each observation."""
        features: Tensor = self.network(self.encoder(obs))
        return features if self.log_std is None else torch.cat((features, self.log_std(features)), dim=-1)

    def log_prob(self, obs: Observations, actions: Tensor) -> Tensor:
        """Returns log π(a|s) `[...]` of actions as sampled; over a trajectory its sum is log p(τ) without dynamics."""
        return self.law.log_prob(self(obs), actions)

    def divergence(self, other: MLPPolicy, obs: Observations) -> Tensor:
        """Returns KL(self || other) `[M]` at observations `[M, *obs]`, in nats, without gradients."""
        arrays: Any = map_observations(lambda x: x.cpu().numpy(), obs)  # type: ignore[arg-type, return-value]  # to numpy
        mine, theirs = (torch.from_numpy(policy.actor()(arrays)) for policy in (self, other))
        return self.law.kl(mine, theirs)

    def actor(self) -> Callable[[Any], np.ndarray]:
        """Returns a function from numpy observations to law parameters `[N, K]` that follows every later update.

        A plain network on a flat Box acts in numpy on the parameters' own memory; anything else acts through torch.
        """
        on_cpu = all(parameter.device.type == "cpu" for parameter in self.parameters())
        if on_cpu and self.encoder.is_flat_box:
            return numpy_actor(self.encoder, self.network, None if self.log_std is None else self.log_std.value)
        return torch_actor(self)

    def update(self, rows: Rows) -> None:
        """Advances the observation moments, once the batch has been used."""
        self.encoder.update(rows)
