"""Tables that are needed wherever their user's tensors live, and numbers on their way there and back."""

from __future__ import annotations

from collections.abc import Sequence
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


def carried(values: Tensor, like: Tensor) -> Tensor:
    """Returns values of the host on the device of `like`; the host does not wait for what the device has yet to do.

    Shapes: any.
    """
    if like.device.type == "cuda" and values.device.type == "cpu":
        values = values.pin_memory()  # what lies elsewhere is copied by the host, once the device is done
    return values.to(like.device, non_blocking=True)


def told(numbers: Sequence[Tensor | float]) -> list[float]:
    """Returns single numbers as floats; the host waits once for all that are on a device.

    Shapes: tensors of one number each, those that are on a device all on the same.
    """
    away = [each.detach().reshape(()).double() for each in numbers if isinstance(each, Tensor) and _is_away(each)]
    found = iter(torch.stack(away).tolist() if away else ())
    return [next(found) if _is_away(each) else float(each) for each in numbers]


def _is_away(number: Tensor | float) -> bool:
    return isinstance(number, Tensor) and number.device.type != "cpu"
