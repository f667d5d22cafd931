"""Policies with a memory."""

from __future__ import annotations

from abc import ABC
from collections.abc import Callable
from typing import Any, ClassVar, Literal, cast, final

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from pgkit.core.convolutions import Channels, Convolutions
from pgkit.core.recurrence import GRU, LSTM, Recurrence
from pgkit.core.recurrent_network import RecurrentNetwork
from pgkit.options import Count
from pgkit.policies.actor import numpy_actor, torch_actor
from pgkit.policies.base import NetworkPolicy
from pgkit.policies.conditional import ConditionalCategorical
from pgkit.policies.law import MASKED, Array
from pgkit.policies.laws import LawName
from pgkit.types import Observations, map_observations

Advance = Callable[[Any, Array], tuple[Array, Array]]
"""(numpy observations `[L, *obs]`, state `[L, S]`) -> (law parameters `[L, K]`, the next state)."""


class RecurrentPolicy(NetworkPolicy, ABC):
    """π(a_t | s_0 … s_t): a multilayer perceptron into one recurrent layer, and a linear layer from its outputs.

    An image goes through convolutions before them, or is read flat. The state `[N, S]` is an argument. It is zeros at
    the start of an episode, `starts` `[T, N]` says where that is.
    """

    recurrent = True
    layer: ClassVar[type[Recurrence]]

    def __init__(
        self,
        *,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        convolutions: Literal["none", "nature", "impala"] = "none",
        channels: Channels = "auto",
        hidden_sizes: list[Count] = [64],  # noqa: B006 read only
        memory_size: Count = 64,
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
            layers=lambda encoder, outputs: RecurrentNetwork(
                encoder, self.layer(memory_size, init=init), outputs, group="policy", convolutions=convolutions,
                channels=channels, hidden_sizes=hidden_sizes, activation=activation, init=init, output_gain=0.01,
            ),
        )  # fmt: skip

    def forward(self, obs: Observations, starts: Tensor | None = None, state: Tensor | None = None) -> Tensor:
        """Returns the parameters `[T, N, K]` of the action law at every row of columns of observations `[T, N, *obs]`.

        Without `starts` each column is one episode, or goes on with one; without a `state` `[N, S]` it begins with it.
        Raises: ValueError for rows without a time.
        """
        return self.unrolled(obs, starts, state)[0]

    def unrolled(
        self, obs: Observations, starts: Tensor | None = None, state: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Returns the parameters `[T, N, K]` and the state `[N, S]` after the last row."""
        outputs, after = self._remembering(self.encoder(obs), starts, state)
        return self._completed(outputs, obs), after

    def log_prob(
        self, obs: Observations, actions: Tensor, starts: Tensor | None = None, state: Tensor | None = None
    ) -> Tensor:
        """Returns log π(a_t | s_0 … s_t) `[T, N]` of columns of actions as sampled."""
        return self.law.log_prob(self(obs, starts, state), actions)

    def divergence(self, other: NetworkPolicy, obs: Observations) -> Tensor:
        """Returns KL(self || other) `[T, N]` at every row of episodes `[T, N, *obs]`, in nats, without gradients."""
        with torch.no_grad():
            return self.law.kl(self(obs), other(obs))

    def actor(self) -> RecurrentActor:
        """Returns an actor with an empty memory that follows every later update of the parameters.

        It acts in numpy on the parameters' own memory, through torch where they are elsewhere.
        """
        on_cpu = all(parameter.device.type == "cpu" for parameter in self.parameters())
        blank = next(self.parameters()).new_zeros(self._remembering.memory.state_size).cpu().numpy()
        return RecurrentActor(self._in_numpy() if on_cpu else self._in_torch(), blank)

    @property
    def _remembering(self) -> RecurrentNetwork:
        return cast(RecurrentNetwork, self.network)

    def _in_numpy(self) -> Advance:
        gates, memory, head = self._remembering.gates, self._remembering.memory, self._remembering.head
        plain = self.encoder.is_flat_box and not isinstance(gates[0], Convolutions)
        read = numpy_actor(self.encoder, gates, None) if plain else torch_actor(nn.Sequential(self.encoder, gates))
        step, size = memory.stepper(), memory.size
        weight, bias = head.weight.detach().numpy().T, head.bias.detach().numpy()
        tail = None if self.log_std is None else self.log_std.value.detach().numpy()

        def advance(obs: Any, state: Array) -> tuple[Array, Array]:
            after = step(read(obs), state)
            parameters = after[:, :size] @ weight
            parameters += bias
            if tail is not None:
                parameters = np.concatenate((parameters, np.broadcast_to(tail, (len(parameters), len(tail)))), axis=1)
            return self._barred(parameters, obs), after

        return advance

    def _barred(self, parameters: Array, obs: Any) -> Array:
        """Returns the parameters with what is not allowed masked, as in `_completed`."""
        if self.mask is None:
            return parameters
        if isinstance(self.law, ConditionalCategorical):
            return self.law.joined(torch.from_numpy(parameters), torch.from_numpy(obs[self.mask])).numpy()
        parameters[obs[self.mask].reshape(parameters.shape) == 0] = MASKED
        return parameters

    def _in_torch(self) -> Advance:
        device = next(self.parameters()).device

        def advance(obs: Any, state: Array) -> tuple[Array, Array]:
            with torch.inference_mode():
                row = map_observations(lambda x: torch.as_tensor(x, device=device)[None], obs)
                parameters, after = self.unrolled(row, None, torch.as_tensor(state, device=device))
            return parameters[0].cpu().numpy(), after.cpu().numpy()

        return advance


@final
class RecurrentActor:
    """From observations of L lanes to law parameters, carrying the lanes' states `[L, S]` along from `blank` `[S]`.

    What resets a lane takes a row of its own (NEXT_STEP): an episode begins two rows after the one before has ended.
    """

    def __init__(self, advance: Advance, blank: Array) -> None:
        self._advance, self._blank = advance, blank
        self.state: Array | None = None
        """The state `[L, S]` before the next row; None until it has begun."""

    def __call__(self, obs: Any) -> Array:
        """Returns law parameters `[L, K]`, and remembers what it saw."""
        if self.state is None:
            first = next(iter(obs.values())) if isinstance(obs, dict) else obs
            self.begin(np.zeros(len(first), bool))
        assert self.state is not None
        parameters, self.state = self._advance(obs, self.state)
        return parameters

    def begin(self, resetting: Array) -> None:
        """Forgets everything: all lanes begin an episode, or are `resetting` `[L]` and begin one a row later."""
        self.state = np.repeat(self._blank[None], len(resetting), axis=0)
        self._resetting = resetting.copy()

    def follow(self, ended: Array) -> None:
        """Forgets what lanes saw of episodes that are over, once told after each row which lanes ended there `[L]`."""
        if self._resetting.any():
            assert self.state is not None
            self.state[self._resetting] = 0.0
        self._resetting = ended


@final
class GRUPolicy(RecurrentPolicy):
    """A policy with a gated recurrent unit."""

    layer = GRU


@final
class LSTMPolicy(RecurrentPolicy):
    """A policy with a long short-term memory."""

    layer = LSTM
