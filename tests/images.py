"""A plug-in: a convolutional policy, and an environment that it has to look at."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, final

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from pgkit.options import Count
from pgkit.policies.actor import torch_actor
from pgkit.policies.laws import law_of
from pgkit.types import Rows

SIDE = 8


class Glimpse(gymnasium.Env[Any, Any]):
    """Five pictures an episode, each noisy, with a bright spot on one side; the action that names it pays 1."""

    observation_space: spaces.Space[Any] = spaces.Box(0, 255, (SIDE, SIDE, 1), np.uint8)
    action_space: spaces.Space[Any] = spaces.Discrete(2)

    def _picture(self) -> np.ndarray:
        picture = self.np_random.integers(0, 60, (SIDE, SIDE, 1), dtype=np.uint8)
        self.right = int(self.np_random.integers(2))
        row, column = self.np_random.integers(SIDE // 2, size=2)
        picture[2 * row, column + self.right * SIDE // 2] = 255
        return picture

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.time = 0
        return self._picture(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.time += 1
        reward = float(int(action) == self.right)
        return self._picture(), reward, self.time == 5, False, {}


gymnasium.register("Glimpse-v0", entry_point=f"{__name__}:Glimpse")


@final
class ConvolutionalPolicy(nn.Module):
    """π(a|s) by two convolutions and a linear layer, over pictures `[..., H, W, C]` of bytes."""

    def __init__(self, *, observation_space: spaces.Box, action_space: spaces.Space[Any], channels: Count = 4) -> None:
        super().__init__()
        height, width, colours = observation_space.shape
        self.law = law_of(action_space)
        self.features = nn.Sequential(
            nn.Conv2d(colours, channels, 3, stride=2, padding=1),
            nn.SiLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.SiLU(),
            nn.Flatten(),
        )
        self.head = nn.Linear(channels * math.ceil(height / 2) * math.ceil(width / 2), self.law.num_parameters)

    def forward(self, obs: Tensor) -> Tensor:
        """Returns the parameters of the law `[..., K]`."""
        lead = obs.shape[:-3]
        pictures = obs.reshape(-1, *obs.shape[-3:]).permute(0, 3, 1, 2).to(self.head.weight.dtype) / 255
        result: Tensor = self.head(self.features(pictures)).reshape(*lead, -1)
        return result

    def log_prob(self, obs: Tensor, actions: Tensor) -> Tensor:
        return self.law.log_prob(self(obs), actions)

    def divergence(self, other: ConvolutionalPolicy, obs: Tensor) -> Tensor:
        with torch.no_grad():
            return self.law.kl(self(obs), other(obs))

    def actor(self) -> Callable[[Any], np.ndarray]:
        return torch_actor(self)

    def update(self, rows: Rows) -> None:
        """Does nothing: pictures are not normalised."""
