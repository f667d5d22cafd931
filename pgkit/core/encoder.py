"""From observations as the environment gave them to the features of a network."""

from __future__ import annotations

import math
from typing import Any, Literal, final

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from pgkit.core.running import deviation, merge_moments
from pgkit.core.spaces import leaves
from pgkit.errors import UsageError
from pgkit.types import Observations, Rows

CLIP = 10.0
"""Normalised features are clipped to ±10 standard deviations."""


@final
class Encoder(nn.Module):
    """Flattens, scales and optionally normalises observations: `[..., *obs]` to `[..., features]`.

    A Box is flattened in C order, uint8 images divided by 255; Discrete and MultiDiscrete become one-hot; Dict and
    Tuple are concatenated in the order of their space, each entry at its own of `places`. Moments stand still until
    `update` and are part of the state.
    """

    def __init__(self, space: spaces.Space[Any], *, normalise: bool, images: Literal["scale", "refuse"]) -> None:
        super().__init__()
        self.leaves = leaves(space)
        self.normalise = normalise
        if images == "refuse" and any(_is_image(leaf) for leaf in self.leaves.values()):
            raise UsageError("policy.images: refuse, expected scale for an observation space of uint8")
        self.places: dict[str, slice] = {}
        self.features = 0
        for name, leaf in self.leaves.items():
            self.places[name] = slice(self.features, self.features + _width(leaf))
            self.features = self.places[name].stop
        for name, initial in (("mean", torch.zeros), ("squares", torch.zeros)):
            self.register_buffer(name, initial(self.features, dtype=torch.float64))
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))
        # Derived from the moments, in the type of the network.
        self.register_buffer("scale", torch.ones(self.features))

    mean: Tensor
    squares: Tensor
    count: Tensor
    scale: Tensor

    @property
    def is_flat_box(self) -> bool:
        """Whether an observation is one Box of numbers that needs no encoding but flattening and normalisation."""
        only = next(iter(self.leaves.values()))
        return len(self.leaves) == 1 and isinstance(only, spaces.Box) and not _is_image(only)

    def forward(self, obs: Observations) -> Tensor:
        """Returns features `[..., D]` in the type of the network."""
        if not self.normalise:
            return self.flatten(obs, self.scale.dtype)
        # The mean is taken off in double precision: a large one would leave single precision nothing of the rest.
        centred = (self.flatten(obs, torch.float64) - self.mean).to(self.scale.dtype)
        return (centred * self.scale).clamp(-CLIP, CLIP)

    def flatten(self, obs: Observations, dtype: torch.dtype) -> Tensor:
        """Returns the features before normalisation."""
        named = obs if isinstance(obs, dict) else {"": obs}
        parts = [_encode(named[key], leaf, dtype) for key, leaf in self.leaves.items()]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)

    def update(self, rows: Rows) -> None:
        """Advances the moments by a batch, once it has been used; does nothing unless normalising."""
        if not self.normalise:
            return
        with torch.no_grad():
            merged = merge_moments(self.count, self.mean, self.squares, self.flatten(rows.obs, torch.float64))
            for buffer, value in zip((self.count, self.mean, self.squares), merged, strict=True):
                buffer.copy_(value)
            self.scale.copy_(1 / deviation(self.count, self.squares))


def _is_image(space: spaces.Space[Any]) -> bool:
    return isinstance(space, spaces.Box) and space.dtype == np.uint8


def _width(space: spaces.Space[Any]) -> int:
    if isinstance(space, spaces.Discrete):
        return int(space.n)
    if isinstance(space, spaces.MultiDiscrete):
        return int(space.nvec.sum())
    return math.prod(space.shape or ())


def _encode(x: Tensor, space: spaces.Space[Any], dtype: torch.dtype) -> Tensor:
    if isinstance(space, spaces.Discrete):
        return _one_hot(x.long() - int(space.start), int(space.n), dtype)
    lead = x.shape[: x.dim() - len(space.shape or ())]
    flat = x.reshape(*lead, math.prod(space.shape or ()))  # a batch may have no row that counts
    if isinstance(space, spaces.MultiDiscrete):
        counts = space.nvec.reshape(-1).tolist()
        starts = space.start.reshape(-1).tolist()
        parts = [_one_hot(flat[..., i].long() - starts[i], n, dtype) for i, n in enumerate(counts)]
        return torch.cat(parts, dim=-1)
    return flat.to(dtype) / 255 if _is_image(space) else flat.to(dtype)


def _one_hot(index: Tensor, count: int, dtype: torch.dtype) -> Tensor:
    # torch's own one_hot looks at its values, which torch.func.vmap forbids; this too refuses what is out of range.
    return nn.functional.embedding(index, torch.eye(count, dtype=dtype, device=index.device))
