"""CartPole in torch."""

from __future__ import annotations

import math
from typing import final

import torch
from torch import Tensor

GRAVITY = 9.8
POLE_MASS = 0.1
TOTAL_MASS = 1.1
HALF_LENGTH = 0.5
FORCE = 10.0
SECONDS = 0.02
FARTHEST = 2.4
STEEPEST = 12 * 2 * math.pi / 360


@final
class CartPole:
    """Gymnasium's CartPole: place, speed, angle and angular speed, pushed to the left or to the right.

    Source: Barto, Sutton and Anderson 1983 (IEEE SMC 13:834); the equations are Florian's, as in Gymnasium.
    """

    num_states, num_noises = 4, 0
    horizon: int | None = None
    differentiable = False

    def __init__(self, *, sutton_barto_reward: bool = False) -> None:
        self.sutton_barto_reward = sutton_barto_reward

    def start(self, count: int, *, generator: torch.Generator, dtype: torch.dtype, device: torch.device) -> Tensor:
        """Returns states `[count, 4]`, uniform within 0.05 of the middle."""
        return torch.rand(count, 4, generator=generator, dtype=dtype, device=device) * 0.1 - 0.05

    def step(self, state: Tensor, action: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Returns (next states, rewards, whether cart or pole went too far); actions are 0 or 1."""
        angle, spin = state[..., 2], state[..., 3]
        cosine, sine = angle.cos(), angle.sin()
        force = (2 * FORCE) * action.to(state.dtype) - FORCE
        push = (force + (POLE_MASS * HALF_LENGTH) * spin.square() * sine) / TOTAL_MASS
        inertia = HALF_LENGTH * (4 / 3 - (POLE_MASS / TOTAL_MASS) * cosine.square())
        turn = (GRAVITY * sine - cosine * push) / inertia
        pull = push - (POLE_MASS * HALF_LENGTH / TOTAL_MASS) * turn * cosine
        moved = state + SECONDS * torch.stack((state[..., 1], pull, spin, turn), dim=-1)
        terminated = (moved[..., 0].abs() > FARTHEST) | (moved[..., 2].abs() > STEEPEST)
        reward = -terminated.to(state.dtype) if self.sutton_barto_reward else torch.ones_like(angle)
        return moved, reward, terminated

    def observe(self, state: Tensor) -> Tensor:
        """Returns the state."""
        return state

    def state(self, obs: Tensor) -> Tensor:
        """Returns the observation."""
        return obs
