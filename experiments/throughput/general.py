"""The common setting without the fast path: a user's own modules, of which pgkit knows nothing but that they are some.

`policy=custom` acts by the module itself and is differentiated by autograd; the critic has the layers of `critic=value`
with torch's own tanh, in a container that is not the plain one which is recognised.
"""

from __future__ import annotations

from typing import Any, final

import torch
from torch import Tensor, nn

from pgkit.critics.fit import LeastSquares
from pgkit.critics.value import FittedCritic


@final
class Hidden(nn.Module):
    """The hidden layers of the default policy: 2 x 64 tanh units."""

    def __init__(self, *, inputs: int) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(inputs, 64), nn.Linear(64, 64)

    def forward(self, rows: Tensor) -> Tensor:
        return torch.tanh(self.second(torch.tanh(self.first(rows))))


@final
class Layers(nn.Sequential):
    """Layers that are not recognised."""


@final
class Critic(FittedCritic):
    """V(s), fitted by autograd."""

    def __init__(
        self, *, observation_space: Any, generator: torch.Generator, learning_rate: float, steps: int,
        minibatch_size: int,
    ) -> None:  # fmt: skip
        super().__init__(
            outputs=1, observation_space=observation_space, generator=generator, hidden_sizes=[64, 64],
            activation="tanh", normalise_observations=False, learning_rate=learning_rate, steps=steps,
            minibatch_size=minibatch_size,
        )  # fmt: skip
        linear = [layer for layer in self.network.network if isinstance(layer, nn.Linear)]
        self.network.network = Layers(linear[0], nn.Tanh(), linear[1], nn.Tanh(), linear[2])
        self._fit = LeastSquares(self.network.network, self.optimizer)

    def values(self, obs: Any) -> Tensor:
        """Returns V(s) `[T+1, N]`, detached."""
        with torch.no_grad():
            return self.network(obs).squeeze(-1)

    def chosen(self, outputs: Tensor, actions: Tensor) -> Tensor:
        """Returns the one output."""
        return outputs.squeeze(-1)
