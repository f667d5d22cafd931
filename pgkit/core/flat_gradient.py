"""One vector for the gradients of many parameters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor


@final
class FlatGradient:
    """A `vector` `[P]` whose pieces, in order and in the shapes of the parameters, serve an optimizer as gradients."""

    def __init__(self, parameters: Sequence[Tensor]) -> None:
        self._parameters = list(parameters)
        self.vector = torch.cat([parameter.detach().reshape(-1) for parameter in self._parameters])
        pieces = self.vector.split([parameter.numel() for parameter in self._parameters])
        self._pieces = [piece.view_as(each) for piece, each in zip(pieces, self._parameters, strict=True)]

    def hand_over(self) -> None:
        """Makes the pieces the gradients of the parameters."""
        for parameter, piece in zip(self._parameters, self._pieces, strict=True):
            parameter.grad = piece
