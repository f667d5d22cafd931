"""Where networks and batches live: the device that was asked for, and what is moved there."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from pgkit.core.placed import Placed
from pgkit.errors import UsageError


def device_of(name: str, *, local_rank: int = 0) -> torch.device:
    """Returns the device behind `auto`, `cpu`, `cuda` or `cuda:K`; a GPU without a number is that of the local rank.

    Raises: UsageError for a GPU that is not there.
    """
    present = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "cpu" or (name == "auto" and not present):
        return torch.device("cpu")
    if not present:
        raise UsageError(f"device: {name}, but torch sees no CUDA device here, expected cpu or auto")
    _, _, number = name.partition(":")
    index = int(number) if number else local_rank % present
    if index >= present:
        devices = "one CUDA device" if present == 1 else f"{present} CUDA devices"
        expected = "cuda:0" if present == 1 else f"cuda:0 to cuda:{present - 1}"
        raise UsageError(f"device: {name}, but torch sees {devices} here, expected {expected}")
    return torch.device("cuda", index)


def place(*parts: Any, device: torch.device) -> None:
    """Moves every network and tensor that parts of a run hold to a device, in place; optimizers still hold them.

    Generators stay on the host, so that what is drawn does not depend on the device.
    """
    seen: set[int] = set()
    for part in parts:
        _place(part, device, seen)


def _place(part: Any, device: torch.device, seen: set[int]) -> None:
    if id(part) in seen or isinstance(part, Placed | Tensor):
        return
    seen.add(id(part))
    if isinstance(part, nn.Module) and any(each.device != device for each in (*part.parameters(), *part.buffers())):
        part.to(device)
    held: dict[Any, Any] = part if isinstance(part, dict) else vars(part) if _is_ours(part) else {}
    for key, value in list(held.items()):
        if not isinstance(value, Tensor):
            _place(value, device, seen)
        elif value.device != device:
            held[key] = value.to(device)
    if isinstance(part, list | tuple):
        for value in part:
            _place(value, device, seen)


def _is_ours(part: Any) -> bool:
    """Returns whether what a part holds may be looked through: it has attributes, and is nothing of a library."""
    libraries = ("torch", "gymnasium", "numpy", "omegaconf", "hydra", "builtins")
    return hasattr(part, "__dict__") and type(part).__module__.partition(".")[0] not in libraries
