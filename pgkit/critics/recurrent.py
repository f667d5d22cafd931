"""A critic with a memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, final

import torch
from gymnasium import spaces
from torch import Tensor

from pgkit.core.convolutions import Channels
from pgkit.core.encoder import Encoder
from pgkit.core.recurrence import GRU, LSTM
from pgkit.core.recurrent_network import RecurrentNetwork
from pgkit.critics.value import ValueNetwork
from pgkit.options import Count, Positive
from pgkit.types import Measured, Observations, Trajectories, map_observations


@final
@dataclass(frozen=True)
class _Columns:
    """Columns to be fitted: features `[T, N, D]`; starts, goals, weights (0 outside the mask) and values before
    `[T, N]`; state `[N, S]`."""

    features: Tensor
    starts: Tensor | None
    state: Tensor | None
    goal: Tensor
    weight: Tensor
    before: Tensor | None = None

    def at(self, columns: Tensor, num_steps: int) -> _Columns:
        """Returns the first rows of some columns."""

        def rows(x: Tensor | None) -> Tensor | None:
            return None if x is None else x[:num_steps, columns]

        return _Columns(
            features=self.features[:num_steps, columns],
            starts=rows(self.starts),
            state=None if self.state is None else self.state[columns],
            goal=self.goal[:num_steps, columns],
            weight=self.weight[:num_steps, columns],
            before=rows(self.before),
        )


@final
class RecurrentValueCritic:
    """Fits V(s_0 … s_t) to the returns of each batch: what is expected, given all that the episode has shown so far.

    Whole episodes begin with an empty memory. A slab goes on with `state` `[N, S]`, the memory of every lane before
    its first row, which is made anew by the network as it is once the slab before has been learnt from: its values are
    all of one network, whose memory is older parameters' only as far back as one slab before. Gradients end there.
    `clip` is that of `pgkit.critics.value.ValueCritic`.
    Source: Hausknecht and Stone 2015, arXiv:1507.06527; Kapturowski et al. 2019 (ICLR), for states of older parameters.
    """

    recurrent = True
    tags = ("critic/loss",)

    def __init__(
        self,
        *,
        observation_space: spaces.Space[Any],
        generator: torch.Generator,
        memory: Literal["gru", "lstm"] = "gru",
        memory_size: Count = 64,
        convolutions: Literal["none", "nature", "impala"] = "none",
        channels: Channels = "auto",
        hidden_sizes: list[Count] = [64],  # noqa: B006 read only
        activation: Literal["tanh", "relu", "silu"] = "tanh",
        normalise_observations: bool = False,
        learning_rate: Positive = 1e-3,
        steps: Count = 40,
        minibatch_size: Count = 256,
        clip: Positive | None = None,
    ) -> None:
        encoder = Encoder(observation_space, normalise=normalise_observations, images="scale")
        layer = (GRU if memory == "gru" else LSTM)(memory_size, init="orthogonal")
        self._layers = RecurrentNetwork(
            encoder, layer, 1, group="critic", convolutions=convolutions, channels=channels,
            hidden_sizes=hidden_sizes, activation=activation, init="orthogonal", output_gain=1.0,
        )  # fmt: skip
        self.network = ValueNetwork(encoder, self._layers)
        self.optimizer = torch.optim.Adam(self._layers.parameters(), lr=learning_rate, fused=True)
        self.generator = generator
        self.steps, self.minibatch_size, self.clip = steps, minibatch_size, clip
        self.state: Tensor | None = None
        """The state `[N, S]` before row 0 of the next slab; None where every lane begins an episode."""

    def values(self, obs: Observations, starts: Tensor | None = None) -> Tensor:
        """Returns V(s_0 … s_t) `[T+1, N]`, detached.

        Without `starts` `[T, N]` every column is one whole episode; with them it belongs to the next slab. What is said
        of the last row goes on with the episode before it, as a bootstrap does.
        """
        with torch.no_grad():
            features = self.network.encoder(obs)
            begins = None if starts is None else torch.cat([starts, torch.zeros_like(starts[:1])])
            outputs, _ = self._layers(features, begins, self._before(starts))
        return self.network.in_units(outputs).squeeze(-1)

    def update(
        self, trajectories: Trajectories, targets: Tensor, mask: Tensor, weight: Tensor | None = None
    ) -> Measured:
        """Takes `steps` gradient steps towards the targets; reports their mean loss in squared target units.

        Each step is on whole columns, about `minibatch_size` rows of them, and an unbiased estimate of that on all.
        Shapes: targets, mask, weight `[T, N]`.
        """
        starts = None if trajectories.whole_episodes else trajectories.starts
        obs = map_observations(lambda x: x[:-1], trajectories.obs)
        rows = trajectories.rows(mask.reshape(-1).nonzero().squeeze(-1))
        loss = None
        if len(rows.index):
            goal, counts = torch.zeros_like(targets), mask.to(targets.dtype)
            goal[mask] = self.network.absorb(targets[mask])
            if weight is not None:
                counts[mask] = _relative(weight[mask])
            columns = _Columns(self.network.encoder(obs), starts, self._before(starts), goal, counts)
            if self.clip is not None:
                with torch.no_grad():
                    columns = replace(columns, before=self._outputs(columns))
            loss = self._fit(columns, mask)
            self.network.encoder.update(rows)
        if starts is not None:
            with torch.no_grad():
                _, self.state = self._layers(self.network.encoder(obs), starts, self._before(starts))
        return {"critic/loss": loss}

    def _before(self, starts: Tensor | None) -> Tensor | None:
        """Returns the state before row 0: nothing is remembered where columns are whole episodes."""
        return None if starts is None or self.state is None else self.state.to(self.network.encoder.scale)

    def _fit(self, columns: _Columns, mask: Tensor) -> Tensor:
        """Returns the mean loss of the steps, in squared target units."""
        live = mask.any(dim=0).nonzero().squeeze(-1).cpu()
        lengths = (mask * torch.arange(1, len(mask) + 1, device=mask.device)[:, None]).amax(dim=0).cpu()
        num_rows = int(mask.sum())
        size = min(len(live), max(1, round(self.minibatch_size * len(live) / num_rows)))
        total = columns.goal.new_zeros(())
        for _ in range(self.steps):
            some = live[torch.randperm(len(live), generator=self.generator)[:size]]
            loss = self._loss(columns.at(some, int(lengths[some].max()))) * (len(live) / (size * num_rows))
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            total += loss.detach()
        return self.network.squared_units(total / self.steps)

    def _loss(self, columns: _Columns) -> Tensor:
        """Returns the weighted sum of squared errors, in the unit of the network."""
        predicted = self._outputs(columns)
        errors = (predicted - columns.goal).square()
        if self.clip is not None and columns.before is not None:
            held = columns.before + (predicted - columns.before).clamp(-self.clip, self.clip)
            errors = torch.maximum(errors, (held - columns.goal).square())
        return (columns.weight * errors).sum()

    def _outputs(self, columns: _Columns) -> Tensor:
        result: Tensor = self._layers(columns.features, columns.starts, columns.state)[0].squeeze(-1)
        return result

    def state_dict(self) -> dict[str, Any]:
        """Returns the network with its moments, the optimizer, the minibatch generator and what is remembered."""
        return {
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "generator": self.generator.get_state(),
            "state": self.state,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Puts them back."""
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.generator.set_state(state["generator"])
        self.state = state["state"]


def _relative(weight: Tensor) -> Tensor:
    """Returns weights whose mean is 1; all 0 where they are."""
    return weight / weight.mean().clamp(min=torch.finfo(weight.dtype).tiny)
