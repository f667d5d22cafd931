"""Networks as a user would write them, good and bad."""

from __future__ import annotations

from typing import Any

import torch
from gymnasium import spaces
from torch import Tensor, nn


class Gated(nn.Module):
    """Numbers, each with a gate."""

    def __init__(self, *, inputs: int, width: int = 16) -> None:
        super().__init__()
        self.value, self.gate = nn.Linear(inputs, width), nn.Linear(inputs, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.value(x) * torch.sigmoid(self.gate(x))


class Pairs(nn.Module):
    """One Linear layer for every pair of numbers: its inputs are several a row."""

    def __init__(self, *, observation_space: spaces.Space[Any]) -> None:
        super().__init__()
        self.pairs = int(observation_space.shape[0]) // 2  # type: ignore[index]  # a Box
        self.layer = nn.Linear(2, 3)

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.layer(x.reshape(len(x), self.pairs, 2))).flatten(1)


class Ties(nn.Module):
    """Knows the mean of the batch."""

    def forward(self, x: Tensor) -> Tensor:
        return x - x.mean(dim=0)


class Column(nn.Module):
    """Forgets a dimension."""

    def forward(self, x: Tensor) -> Tensor:
        return x.sum(dim=1)


class NoModule:
    """Is nothing of torch's."""
