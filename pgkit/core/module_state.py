"""The tensors of a module."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def overwritten(module: nn.Module, other: nn.Module) -> nn.Module:
    """Returns `module`, with the parameters and buffers of another of its kind written over its own in place."""
    with torch.no_grad():
        torch._foreach_copy_(_tensors(module), _tensors(other))
    return module


def _tensors(module: nn.Module) -> list[Tensor]:
    parts = (entries for part in module.modules() for entries in (part._parameters, part._buffers))
    return [tensor for entries in parts for tensor in entries.values() if tensor is not None]
