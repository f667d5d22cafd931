"""A policy over a multilayer perceptron."""

from __future__ import annotations

from typing import Any, Literal, final

from gymnasium import spaces

from pgkit.core.networks import multilayer_perceptron
from pgkit.core.perceptron import Perceptron
from pgkit.options import Count
from pgkit.policies.actor import masked_actor, numpy_actor, torch_actor
from pgkit.policies.base import Actor, NetworkPolicy
from pgkit.policies.by_hand import READINGS, ByHand
from pgkit.policies.conditional import ConditionalCategorical
from pgkit.policies.laws import LawName


@final
class MLPPolicy(NetworkPolicy):
    """π(a|s) by a multilayer perceptron: categorical over discrete, by default diagonal Gaussian over Box actions."""

    def __init__(
        self,
        *,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        hidden_sizes: list[Count] = [64, 64],  # noqa: B006 read only
        activation: Literal["tanh", "relu", "silu"] = "tanh",
        init: Literal["orthogonal", "default"] = "orthogonal",
        law: LawName = "auto",
        components: Count = 5,
        state_dependent_std: bool = False,
        initial_log_std: float = 0.0,
        action_mask: str | None = "action_mask",
        normalise_observations: bool = False,
        images: Literal["scale", "refuse"] = "scale",
    ) -> None:
        super().__init__(
            observation_space=observation_space, action_space=action_space, law=law, components=components,
            state_dependent_std=state_dependent_std, initial_log_std=initial_log_std, action_mask=action_mask,
            normalise_observations=normalise_observations, images=images,
            layers=lambda encoder, outputs: multilayer_perceptron(
                encoder.features, hidden_sizes, outputs, activation=activation, init=init, output_gain=0.01
            ),
        )  # fmt: skip

    def actor(self) -> Actor:
        """Returns a function from numpy observations to law parameters `[N, K]` that follows every later update.

        A plain network on a flat Box acts in numpy on the parameters' own memory; anything else acts through torch.
        """
        on_cpu = all(parameter.device.type == "cpu" for parameter in self.parameters())
        if not on_cpu or not self.encoder.is_flat_box or isinstance(self.law, ConditionalCategorical):
            return torch_actor(self)
        act = numpy_actor(self.encoder, self.network, None if self.log_std is None else self.log_std.value)
        return act if self.mask is None else masked_actor(act, self.mask)

    def by_hand(self) -> ByHand | None:
        """Returns this policy evaluated and differentiated in numpy, several times as fast on small batches.

        None where the network, the law or the observations are not plain enough: then autograd is the way.
        """
        perceptron = Perceptron.of(self.network)
        reading = READINGS.get(type(self.law))
        if perceptron is None or reading is None or self.mask is not None or not self.encoder.is_flat_box:
            return None
        log_std = None if self.log_std is None else self.log_std.value
        return ByHand(encoder=self.encoder, perceptron=perceptron, log_std=log_std, reading=reading)
