"""Critics that are fitted to the targets of each batch, and the one of states."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, Literal, final

import torch
from gymnasium import spaces
from torch import Tensor, nn

from pgkit.core.convolutions import Channels, Convolutional, Convolutions
from pgkit.core.division import Division
from pgkit.core.encoder import Encoder
from pgkit.core.networks import multilayer_perceptron
from pgkit.core.placed import carried
from pgkit.core.running import deviation, merge_moments
from pgkit.critics.fit import DividedLeastSquares, Fitted, LeastSquares
from pgkit.options import Count, Positive
from pgkit.types import Measured, Observations, Rows, Trajectories


@final
class ValueNetwork(nn.Module):
    """One or several values of s in the running unit of their targets, so that one learning rate serves any rewards.

    When the unit moves, the last layer is rescaled so that no prediction does.
    Source: van Hasselt et al. 2016, arXiv:1602.07714 (PopArt).
    """

    count: Tensor
    mean: Tensor
    squares: Tensor

    def __init__(self, encoder: Encoder, network: nn.Sequential) -> None:
        super().__init__()
        self.encoder, self.network = encoder, network
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))
        self.register_buffer("mean", torch.zeros(1, dtype=torch.float64))
        self.register_buffer("squares", torch.zeros(1, dtype=torch.float64))

    def forward(self, obs: Observations) -> Tensor:
        """Returns the values `[..., K]` in the units of the targets."""
        return self.of_inputs(self.encoder(obs))

    def of_inputs(self, inputs: Tensor) -> Tensor:
        """Returns the values `[..., K]` of what the network reads."""
        return self.in_units(self.network(inputs))

    def in_units(self, outputs: Tensor) -> Tensor:
        """Returns outputs of the network in the units of the targets."""
        return outputs * self._spread.to(outputs.dtype) + self.mean.to(outputs.dtype)

    @property
    def spread(self) -> float:
        """The standard deviation of the targets so far: the unit of the last layer."""
        return float(self._spread)

    @property
    def _spread(self) -> Tensor:
        """The same as a tensor `[1]`: on a device nobody waits for it."""
        return deviation(self.count, self.squares)

    def squared_units(self, loss: Tensor) -> Tensor:
        """Returns a loss in the squared unit of the targets, a scalar."""
        return loss.double() * self._spread.square().squeeze()

    def absorb(self, targets: Tensor) -> Tensor:
        """Moves the unit to include targets `[M]`, keeping every prediction, and returns them in the new unit.

        The first unit is adopted as it is: an untrained network has no prediction worth keeping, and in a unit far
        from its own it would start with weights far too large or a bias far away.
        """
        untrained, old_mean, old_spread = self.count == 0, self.mean.clone(), self._spread
        merged = merge_moments(self.count, self.mean, self.squares, targets[:, None])
        for buffer, value in zip((self.count, self.mean, self.squares), merged, strict=True):
            buffer.copy_(value)
        last, mean, spread = self.network[-1], self.mean, self._spread
        assert isinstance(last, nn.Linear)
        kind = last.bias.dtype
        with torch.no_grad():
            moved = (last.bias * old_spread.to(kind) + (old_mean - mean).to(kind)) / spread.to(kind)
            last.weight.mul_(torch.where(untrained, 1.0, old_spread / spread).to(kind))
            last.bias.copy_(torch.where(untrained, last.bias, moved))
        return (targets - mean.to(targets.dtype)) / spread.to(targets.dtype)


class FittedCritic(ABC):
    """Fits a network of K values a state to the targets of each batch by minibatch least squares, after being read."""

    tags = ("critic/loss",)

    def __init__(
        self,
        *,
        outputs: int,
        action_inputs: int = 0,
        convolutions: Literal["none"] | Convolutional = "none",
        channels: Channels = "auto",
        observation_space: spaces.Space[Any],
        generator: torch.Generator,
        hidden_sizes: list[Count],
        activation: Literal["tanh", "relu", "silu"],
        normalise_observations: bool,
        learning_rate: Positive,
        steps: Count,
        minibatch_size: Count,
        clip: Positive | None = None,
    ) -> None:
        encoder = Encoder(observation_space, normalise=normalise_observations, images="scale")
        first: list[nn.Module] = []
        inputs = encoder.features + action_inputs
        if convolutions != "none":
            seeing = Convolutions(
                encoder.leaves, encoder.places, kind=convolutions, channels=channels, init="orthogonal", group="critic"
            )
            first, inputs = [seeing], seeing.num_features + action_inputs
        rest = multilayer_perceptron(
            inputs, hidden_sizes, outputs, activation=activation, init="orthogonal", output_gain=1.0
        )
        layers = nn.Sequential(*first, *rest)
        self.network = ValueNetwork(encoder, layers)
        self.optimizer = torch.optim.Adam(layers.parameters(), lr=learning_rate, fused=True)
        self._fit: LeastSquares | DividedLeastSquares = LeastSquares(layers, self.optimizer)
        self.generator = generator
        self.steps, self.minibatch_size, self.clip = steps, minibatch_size, clip

    def divide(self, division: Division) -> None:
        """Shares the gradients of the fit with other processes that hold the same batches."""
        self._fit = DividedLeastSquares(LeastSquares(self.network.network, self.optimizer), division)

    def inputs(self, rows: Rows) -> Tensor:
        """Returns what the network reads of some transitions, `[M, …]`: their observations, encoded."""
        result: Tensor = self.network.encoder(rows.obs)
        return result

    @abstractmethod
    def chosen(self, outputs: Tensor, actions: Tensor) -> Tensor:
        """Returns, of outputs `[M, K]`, those `[M]` that the targets of these actions are for."""

    @property
    def num_features(self) -> int:
        """Numbers that the last layer reads."""
        last = self.network.network[-1]
        assert isinstance(last, nn.Linear)
        return last.in_features

    def features(self, obs: Observations) -> Tensor:
        """Returns what the last layer reads, `[..., K]`, detached."""
        with torch.no_grad():
            result: Tensor = self.network.network[:-1](self.network.encoder(obs))
        return result

    def update(
        self, trajectories: Trajectories, targets: Tensor, mask: Tensor, weight: Tensor | None = None
    ) -> Measured:
        """Takes `steps` gradient steps towards the targets; reports their mean loss in squared target units.

        Weights are used relative to their mean: only their ratios say how targets count.
        Shapes: targets, mask, weight `[T, N]`.
        """
        rows = trajectories.rows(None if mask is trajectories.mask else mask.reshape(-1).nonzero().squeeze(-1))
        if len(rows.index) == 0:
            return {"critic/loss": None}
        goal = self.network.absorb(targets.reshape(-1)[rows.index])
        with torch.no_grad():
            inputs = self.inputs(rows)
        counts = None if weight is None else _relative(weight.reshape(-1)[rows.index])
        before = None if self.clip is None else self.chosen(self._fit.outputs(inputs), rows.actions)
        fitted = Fitted(inputs=inputs, goal=goal, weight=counts, before=before, clip=self.clip)
        size = min(self.minibatch_size, len(goal))
        total = goal.new_zeros(())
        for index in carried(torch.randint(len(goal), (self.steps, size), generator=self.generator), goal):
            total += self._fit.step(fitted, index, lambda outputs, index: self.chosen(outputs, rows.actions[index]))
        self.network.encoder.update(rows)
        return {"critic/loss": self.network.squared_units(total / self.steps)}

    def state_dict(self) -> dict[str, Any]:
        """Returns the network with its moments, the optimizer and the minibatch generator."""
        return {
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "generator": self.generator.get_state(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Puts them back."""
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.generator.set_state(state["generator"])


@final
class ValueCritic(FittedCritic):
    """Fits V(s) to the returns of each batch.

    `clip`, in standard deviations of the returns so far, bounds what the fit to one batch gains by a value that moves:
    further than that from the value at collection, it is pulled no more.
    Source: the clip is from the code of Schulman et al. 2017, see Huang et al. 2022 (ICLR Blog Track).
    """

    def __init__(
        self,
        *,
        observation_space: spaces.Space[Any],
        generator: torch.Generator,
        convolutions: Literal["none", "nature", "impala"] = "none",
        channels: Channels = "auto",
        hidden_sizes: list[Count] = [64, 64],  # noqa: B006 read only
        activation: Literal["tanh", "relu", "silu"] = "tanh",
        normalise_observations: bool = False,
        learning_rate: Positive = 1e-3,
        steps: Count = 40,
        minibatch_size: Count = 256,
        clip: Positive | None = None,
    ) -> None:
        super().__init__(
            outputs=1, observation_space=observation_space, generator=generator, convolutions=convolutions,
            channels=channels, hidden_sizes=hidden_sizes, activation=activation,
            normalise_observations=normalise_observations, learning_rate=learning_rate,
            steps=steps, minibatch_size=minibatch_size, clip=clip,
        )  # fmt: skip

    def values(self, obs: Observations) -> Tensor:
        """Returns V(s) `[T+1, N]`, detached."""
        with torch.no_grad():
            inputs = self.network.encoder(obs)
        return self.network.in_units(self._fit.outputs(inputs)).squeeze(-1)

    def chosen(self, outputs: Tensor, actions: Tensor) -> Tensor:
        """Returns the one output, whatever the action."""
        return outputs.squeeze(-1)


def _relative(weight: Tensor) -> Tensor:
    """Returns weights whose mean is 1; all 0 where they are."""
    return weight / weight.mean().clamp(min=torch.finfo(weight.dtype).tiny)
