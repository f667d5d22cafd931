"""Networks with a memory, of policies and of critics."""

from __future__ import annotations

from typing import Literal, cast, final

from torch import Tensor, nn

from pgkit.core.convolutions import Channels, Convolutional, Convolutions
from pgkit.core.encoder import Encoder
from pgkit.core.networks import Activation, Initialisation, multilayer_perceptron
from pgkit.core.recurrence import Recurrence


@final
class RecurrentNetwork(nn.Sequential):
    """What gates read of features, one recurrent layer, and a linear layer from its outputs.

    Gates read the features through a multilayer perceptron, after convolutions where there is an image to be seen.
    """

    def __init__(
        self,
        encoder: Encoder,
        memory: Recurrence,
        outputs: int,
        *,
        group: str,
        convolutions: Literal["none"] | Convolutional,
        channels: Channels,
        hidden_sizes: list[int],
        activation: Activation,
        init: Initialisation,
        output_gain: float,
    ) -> None:
        seeing: list[Convolutions] = []
        if convolutions != "none":
            seeing.append(
                Convolutions(
                    encoder.leaves, encoder.places, kind=convolutions, channels=channels, init=init, group=group
                )
            )
        inputs = seeing[0].num_features if seeing else encoder.features
        gates = multilayer_perceptron(
            inputs, hidden_sizes, memory.num_gates * memory.size, activation=activation, init=init, output_gain=1.0
        )
        head = multilayer_perceptron(
            memory.size, [], outputs, activation=activation, init=init, output_gain=output_gain
        )
        super().__init__(nn.Sequential(*seeing, *gates), memory, *head)

    def forward(
        self, features: Tensor, starts: Tensor | None = None, state: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Returns the outputs `[T, N, K]` and the state `[N, S]` after the last row.

        The memory is empty before every row in `starts`; without a `state` it is before row 0.
        Shapes: features `[T, N, D]`; starts `[T, N]` bool; state `[N, S]`.
        Raises: ValueError for rows without a time.
        """
        if features.dim() != 3:
            raise ValueError(f"obs: {features.dim() - 1} leading dimensions, expected [T, N, …] for a memory")
        outputs, after = self.memory(self.gates(features), starts, state)
        return self.head(outputs), after

    @property
    def gates(self) -> nn.Sequential:
        """From features to what gates read."""
        return cast(nn.Sequential, self[0])

    @property
    def memory(self) -> Recurrence:
        """The recurrent layer."""
        return cast(Recurrence, self[1])

    @property
    def head(self) -> nn.Linear:
        """The linear layer from its outputs."""
        return cast(nn.Linear, self[2])
