"""A policy that sees."""

from __future__ import annotations

from typing import Any, final

from gymnasium import spaces
from torch import nn

from pgkit.core.convolutions import Channels, Convolutional, Convolutions
from pgkit.core.encoder import Encoder
from pgkit.core.networks import Activation, Initialisation, multilayer_perceptron
from pgkit.options import Count
from pgkit.policies.actor import torch_actor
from pgkit.policies.base import Actor, NetworkPolicy
from pgkit.policies.laws import LawName


@final
class CNNPolicy(NetworkPolicy):
    """π(a|s) by convolutions over the image in the observation, then a multilayer perceptron over them and the rest."""

    def __init__(
        self,
        *,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        convolutions: Convolutional = "nature",
        channels: Channels = "auto",
        hidden_sizes: list[Count] = [512],  # noqa: B006 read only
        activation: Activation = "relu",
        init: Initialisation = "orthogonal",
        law: LawName = "auto",
        components: Count = 5,
        state_dependent_std: bool = False,
        initial_log_std: float = 0.0,
        action_mask: str | None = "action_mask",
    ) -> None:
        def layers(encoder: Encoder, outputs: int) -> nn.Sequential:
            first = Convolutions(
                encoder.leaves, encoder.places, kind=convolutions, channels=channels, init=init, group="policy"
            )
            rest = multilayer_perceptron(
                first.num_features, hidden_sizes, outputs, activation=activation, init=init, output_gain=0.01
            )
            return nn.Sequential(first, *rest)

        super().__init__(
            observation_space=observation_space, action_space=action_space, law=law, components=components,
            state_dependent_std=state_dependent_std, initial_log_std=initial_log_std, action_mask=action_mask,
            normalise_observations=False, images="scale", layers=layers,
        )  # fmt: skip

    def actor(self) -> Actor:
        """Returns a function from numpy observations to law parameters `[N, K]` that follows every later update."""
        return torch_actor(self)
