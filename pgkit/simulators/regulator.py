"""The linear quadratic regulator in torch."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor

from pgkit.core.linear_quadratic import LinearQuadratic
from pgkit.core.placed import Placed


@final
class Regulator:
    """A mass held in place by a force: linear dynamics with normal noise, quadratic costs, an end at the horizon."""

    differentiable = True

    def __init__(self, dynamics: LinearQuadratic) -> None:
        self.dynamics = dynamics
        self.num_states = self.num_noises = dynamics.num_states
        self.horizon: int | None = dynamics.horizon
        parts = (dynamics.transition, dynamics.input, dynamics.state_cost, dynamics.control_cost)
        self._matrices = [Placed(torch.tensor(part, dtype=torch.float64)) for part in parts]

    def start(self, count: int, *, generator: torch.Generator, dtype: torch.dtype, device: torch.device) -> Tensor:
        """Returns normal states `[count, S]`."""
        normal = torch.randn(count, self.num_states, generator=generator, dtype=dtype, device=device)
        return self.dynamics.start_scale * normal

    def step(self, state: Tensor, action: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Returns (next states, rewards, never terminated: the horizon ends an episode)."""
        moves, steers, state_cost, control_cost = (matrix.as_of(state) for matrix in self._matrices)
        cost = ((state @ state_cost) * state).sum(dim=-1) + ((action @ control_cost) * action).sum(dim=-1)
        moved = state @ moves.T + action @ steers.T + self.dynamics.state_scale * noise
        return moved, -cost, torch.zeros_like(cost, dtype=torch.bool)

    def observe(self, state: Tensor) -> Tensor:
        """Returns the state."""
        return state

    def state(self, obs: Tensor) -> Tensor:
        """Returns the observation."""
        return obs
