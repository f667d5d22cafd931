"""Networks for images: what comes out of an encoder, flat, seen as an image again."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal, final

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from pgkit.core.networks import Initialisation
from pgkit.errors import UsageError

Convolutional = Literal["nature", "impala"]
Channels = Literal["auto", "first", "last"]

SMALLEST = 36
"""Pixels a side, the fewest that the strides of `nature` leave one of."""


@final
class Convolutions(nn.Module):
    """Convolutions over the one image in flat features `[..., D]`; every other feature is passed on behind theirs.

    `nature`: three layers with strides; `impala`: three stages of a convolution, a maximum over neighbours and two
    residual blocks, for images of any size. An image is `[H, W]`, or has its channels first or last, which `auto` tells
    by the shorter side; a stack of frames before these becomes channels too.

    Raises: UsageError where there is no image or several, where its channels cannot be told, or it is too small.
    Source: Mnih et al. 2015 (Nature 518:529); Espeholt et al. 2018, arXiv:1802.01561, figure 3.
    """

    def __init__(
        self,
        leaves: Mapping[str, spaces.Space[Any]],
        places: Mapping[str, slice],
        *,
        kind: Convolutional,
        channels: Channels,
        init: Initialisation,
        group: str,
    ) -> None:
        super().__init__()
        images = [name for name, leaf in leaves.items() if _is_image(leaf)]
        if len(images) != 1:
            found = f"{len(images)} images" if images else "no image"
            raise UsageError(f"{group}: a network for images and {found} in the observation, expected one")
        self.place, self.shape = places[images[0]], tuple(leaves[images[0]].shape or ())
        self.first = len(self.shape) == 2 or _channels_first(self.shape, channels, group)
        height, width, depth = self._size()
        if kind == "nature" and min(height, width) < SMALLEST:
            raise UsageError(
                f"{group}: nature for images of {height} x {width}, expected at least {SMALLEST} x {SMALLEST}; impala "
                "takes any"
            )
        self.layers = _nature(depth) if kind == "nature" else _impala(depth)
        if init == "orthogonal":
            for layer in self.layers.modules():
                if isinstance(layer, nn.Conv2d) and layer.bias is not None:
                    nn.init.orthogonal_(layer.weight, gain=math.sqrt(2))
                    nn.init.zeros_(layer.bias)
        with torch.no_grad():
            own = self.layers(torch.zeros(1, depth, height, width)).numel()
        self.num_features: int = own + max(place.stop for place in places.values()) - math.prod(self.shape)

    def forward(self, features: Tensor) -> Tensor:
        """Returns the outputs of the convolutions, then the features beside the image, `[..., F]`."""
        lead = features.shape[:-1]
        image = features[..., self.place].reshape(-1, *self.shape)
        if not self.first:
            image = image.movedim(-1, -3)
        found: Tensor = self.layers(image.reshape(-1, *self._size()[2:], *image.shape[-2:]))
        beside = torch.cat([features[..., : self.place.start], features[..., self.place.stop :]], dim=-1)
        return torch.cat([found.reshape(*lead, self.num_features - beside.shape[-1]), beside], dim=-1)

    def _size(self) -> tuple[int, int, int]:
        """Returns height, width and all channels, those of stacked frames too."""
        height, width = self.shape[-2:] if self.first else self.shape[-3:-1]
        return height, width, math.prod(self.shape) // (height * width)


@final
class Residual(nn.Module):
    """x + f(x), f two convolutions with rectifiers before them."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.ReLU(), nn.Conv2d(depth, depth, 3, padding=1), nn.ReLU(), nn.Conv2d(depth, depth, 3, padding=1)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Returns an image of the same shape."""
        result: Tensor = x + self.layers(x)
        return result


def _nature(depth: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(depth, 32, 8, stride=4), nn.ReLU(),
        nn.Conv2d(32, 64, 4, stride=2), nn.ReLU(),
        nn.Conv2d(64, 64, 3), nn.ReLU(), nn.Flatten(),
    )  # fmt: skip


def _impala(depth: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for before, after in ((depth, 16), (16, 32), (32, 32)):
        layers += [nn.Conv2d(before, after, 3, padding=1), nn.MaxPool2d(3, stride=2, padding=1)]
        layers += [Residual(after), Residual(after)]
    return nn.Sequential(*layers, nn.ReLU(), nn.Flatten())


def _is_image(space: spaces.Space[Any]) -> bool:
    if not isinstance(space, spaces.Box):
        return False
    return len(space.shape) in (3, 4) or (len(space.shape) == 2 and space.dtype == np.uint8)


def _channels_first(shape: tuple[int, ...], channels: Channels, group: str) -> bool:
    if channels != "auto":
        return channels == "first"
    if shape[-3] == shape[-1]:
        raise UsageError(f"{group}.channels: auto for images of shape {shape}, expected first or last")
    return shape[-3] < shape[-1]
