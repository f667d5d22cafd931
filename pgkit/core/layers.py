"""Layers that the batched gradients know: a fast tanh, a repeated parameter, and one they cannot see into."""

from __future__ import annotations

from typing import Any, final

import numpy as np
import torch
from torch import Tensor, nn


@final
class _Tanh(torch.autograd.Function):
    """tanh through numpy, whose vectorised kernel is several times faster than torch's on CPUs."""

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        if x.device.type != "cpu":
            return torch.tanh(x)
        return torch.from_numpy(np.tanh(x.detach().numpy()))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(output)
        ctx.save_for_forward(output)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (y,) = ctx.saved_tensors
        result: Tensor = torch.ops.aten.tanh_backward(grad, y)  # one kernel for grad · (1 − y²)
        return result

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor) -> Tensor:
        (y,) = ctx.saved_tensors
        return tangent - tangent * y * y

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None], x: Tensor) -> tuple[Tensor, int | None]:
        return _Tanh.apply(x), in_dims[0]


@final
class Tanh(nn.Module):
    """The hyperbolic tangent, elementwise; differentiable any number of times and under `torch.func`."""

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = _Tanh.apply(x)
        return result


@final
class Constant(nn.Module):
    """A parameter vector `[K]` that does not depend on the input, repeated for every row of it."""

    def __init__(self, value: Tensor) -> None:
        super().__init__()
        self.value = nn.Parameter(value)

    def forward(self, like: Tensor) -> Tensor:
        """Returns the parameter as `[..., K]` for an input `[..., D]`."""
        return self.value.expand(*like.shape[:-1], -1)


@final
class Rowwise(nn.Module):
    """A network of rows `[M, D]` on inputs with any leading dimensions; what is inside is nobody's business."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, features: Tensor) -> Tensor:
        """Returns the outputs `[..., F]` of inputs `[..., D]`."""
        found: Tensor = self.network(features.reshape(-1, features.shape[-1]))
        return found.reshape(*features.shape[:-1], -1)
