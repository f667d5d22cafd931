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
    return [*module.parameters(), *module.buffers()]
