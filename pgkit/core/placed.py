"""Tables that are needed wherever their user's tensors live."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor


@final
class Placed:
    """A constant of any shape that is on the device, and in the type, of whatever it meets; each copy is made once."""

    def __init__(self, value: Tensor) -> None:
        self.value = value
        self._copies: dict[tuple[torch.device, torch.dtype], Tensor] = {}

    def beside(self, like: Tensor) -> Tensor:
        """Returns the constant, in its own type, on the device of `like`.

        Shapes: that of the constant.
        """
        return self._copy(like.device, self.value.dtype)

    def as_of(self, like: Tensor) -> Tensor:
        """Returns the constant on the device and in the type of `like`.

        Shapes: that of the constant.
        """
        return self._copy(like.device, like.dtype)

    def _copy(self, device: torch.device, dtype: torch.dtype) -> Tensor:
        if (device, dtype) not in self._copies:
            with torch.inference_mode(False):  # what was made while acting could not be learnt with
                self._copies[device, dtype] = self.value.to(device, dtype)
        return self._copies[device, dtype]
