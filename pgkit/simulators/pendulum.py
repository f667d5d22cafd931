"""The pendulum in torch."""

from __future__ import annotations

import math
from typing import final

import torch
from torch import Tensor

TORQUE = 2.0
FASTEST = 8.0
SECONDS = 0.05


@final
class Pendulum:
    """Gymnasium's Pendulum: angle from the top and angular speed, turned by a torque; mass and length are 1.

    Torques and speeds are clipped, and the reward has a kink where the pendulum hangs straight down: all is continuous,
    so that derivatives along a path are right but for a set of paths that has no probability.
    """

    num_states, num_noises = 2, 0
    horizon: int | None = None
    differentiable = True

    def __init__(self, *, g: float = 10.0) -> None:
        self.gravity = g

    def start(self, count: int, *, generator: torch.Generator, dtype: torch.dtype, device: torch.device) -> Tensor:
        """Returns states `[count, 2]`: any angle, speeds within 1."""
        uniform = 2 * torch.rand(count, 2, generator=generator, dtype=dtype, device=device) - 1
        return torch.stack((math.pi * uniform[:, 0], uniform[:, 1]), dim=-1)

    def step(self, state: Tensor, action: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Returns (next states, rewards, never terminated); actions `[..., 1]` are torques."""
        angle, speed = state[..., 0], state[..., 1]
        torque = action[..., 0].clamp(-TORQUE, TORQUE)
        tilt = torch.remainder(angle + math.pi, 2 * math.pi) - math.pi
        reward = -(tilt.square() + 0.1 * speed.square() + 0.001 * torque.square())
        faster = (speed + SECONDS * (1.5 * self.gravity * angle.sin() + 3 * torque)).clamp(-FASTEST, FASTEST)
        moved = torch.stack((angle + SECONDS * faster, faster), dim=-1)
        return moved, reward, torch.zeros_like(angle, dtype=torch.bool)

    def observe(self, state: Tensor) -> Tensor:
        """Returns cosine and sine of the angle, and the speed, `[..., 3]`."""
        angle, speed = state[..., 0], state[..., 1]
        return torch.stack((angle.cos(), angle.sin(), speed), dim=-1)

    def state(self, obs: Tensor) -> Tensor:
        """Returns the angle within π, and the speed."""
        return torch.stack((torch.atan2(obs[..., 1], obs[..., 0]), obs[..., 2]), dim=-1)
