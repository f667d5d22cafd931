"""What a simulator is."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch
from torch import Tensor


@runtime_checkable
class Simulator(Protocol):
    """An environment as pure functions of tensors, in whatever type and on whatever device these are.

    An environment that has an attribute `simulator` with these members can be simulated.

    Shapes: states `[..., S]`, actions `[..., *act]` as the environment takes them, noise `[..., W]` standard normal.
    """

    num_states: int
    """S."""
    num_noises: int
    """W: standard normal numbers that a step takes, 0 where it is deterministic."""
    horizon: int | None
    """Steps after which an episode terminates, whatever the state; None where it does not."""
    differentiable: bool
    """Whether next state and reward are continuous in state and action, noise is added to the state, and no state ends
    an episode: then derivatives along a path estimate those of an expectation."""

    def start(self, count: int, *, generator: torch.Generator, dtype: torch.dtype, device: torch.device) -> Tensor:
        """Returns first states `[count, S]`."""

    def step(self, state: Tensor, action: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Returns (next states `[..., S]`, rewards `[...]`, terminated `[...]` bool)."""

    def observe(self, state: Tensor) -> Tensor:
        """Returns the observations `[..., *obs]` of states."""

    def state(self, obs: Tensor) -> Tensor:
        """Returns states `[..., S]` that go on as those do which were seen."""
