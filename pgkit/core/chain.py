"""The chain rule from the arguments of a law to its parameters, for the gradients of many samples."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from pgkit.core.arguments import arguments
from pgkit.types import Expectation, Parameters

Rows = Callable[[slice], Mapping[str, Tensor]]
"""The gradients `[n, …]` in each argument of a law, of some neighbouring samples."""

BLOCK = 2**19
"""Numbers of a block of per-sample gradients, 2 MiB in float32."""


def in_blocks(rows: Rows, num_samples: int, expectation: Expectation, parameters: Parameters) -> Tensor:
    """Returns per-sample gradients `[N, P]` in θ from those in the arguments, made and carried over block by block.

    New memory is what a large batch of gradients costs: it is asked for once, for the result, and what leads up to it
    stays in the cache. All samples of a block take one batched backward pass through what makes arguments of θ.
    """
    leaves = {name: value.detach().requires_grad_() for name, value in parameters.items()}
    with torch.enable_grad():
        values = arguments(expectation.law(leaves))
    num_parameters = sum(leaf.numel() for leaf in leaves.values())
    size = max(1, BLOCK // num_parameters)
    if num_samples <= size:
        return torch.cat(_pulled_back(rows(slice(None)), values, leaves), dim=1)
    result = next(iter(parameters.values())).new_empty(num_samples, num_parameters)
    for start in range(0, num_samples, size):
        block = slice(start, min(start + size, num_samples))
        torch.cat(_pulled_back(rows(block), values, leaves), dim=1, out=result[block])
    return result


def _pulled_back(gradients: Mapping[str, Tensor], values: Mapping[str, Tensor], leaves: Parameters) -> list[Tensor]:
    """Returns the gradients in each leaf `[n, p]` of those `[n, …]` in values that are functions of the leaves."""
    names = [name for name in gradients if values[name].requires_grad]
    number = len(next(iter(gradients.values())))
    if not names:
        return [leaf.new_zeros(number, leaf.numel()) for leaf in leaves.values()]
    found = torch.autograd.grad(
        [values[name] for name in names],
        list(leaves.values()),
        [gradients[name] for name in names],
        is_grads_batched=True,
        retain_graph=True,
        allow_unused=True,
    )
    return [
        leaf.new_zeros(number, leaf.numel()) if each is None else each.reshape(number, -1)
        for each, leaf in zip(found, leaves.values(), strict=True)
    ]
