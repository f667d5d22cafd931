"""The chain rule from the arguments of a law to its parameters, for the gradients of many samples."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor
from torch.func import vjp, vmap

from pgkit.core.arguments import arguments
from pgkit.types import Expectation, Parameters

Rows = Callable[[slice], Mapping[str, Tensor]]
"""The gradients `[n, …]` in each argument of a law, of some neighbouring samples."""

BLOCK = 2**20
"""Numbers of a block of per-sample gradients, 4 MiB in float32."""


def in_blocks(rows: Rows, num_samples: int, expectation: Expectation, parameters: Parameters) -> Tensor:
    """Returns per-sample gradients `[N, P]` in θ from those in the arguments, made and carried over block by block.

    New memory is what a large batch of gradients costs: it is asked for once, for the result, and what leads up to it
    stays in the cache.
    """
    num_parameters = sum(value.numel() for value in parameters.values())
    size = max(1, BLOCK // num_parameters)
    pull_back = _pull_back(rows(slice(0, 0)), expectation, parameters)
    if num_samples <= size:
        return torch.cat(pull_back(rows(slice(None))), dim=1)
    result = next(iter(parameters.values())).new_empty(num_samples, num_parameters)
    for start in range(0, num_samples, size):
        block = slice(start, min(start + size, num_samples))
        torch.cat(pull_back(rows(block)), dim=1, out=result[block])
    return result


def _pull_back(
    names: Iterable[str], expectation: Expectation, parameters: Parameters
) -> Callable[[Mapping[str, Tensor]], list[Tensor]]:
    """Returns the function from gradients `[N, …]` in the arguments named to those in each parameter, `[N, p]`."""

    def of_law(theta: dict[str, Tensor]) -> dict[str, Tensor]:
        values = arguments(expectation.law(theta))
        return {name: values[name] for name in names}

    batched = vmap(vjp(of_law, {name: value.detach() for name, value in parameters.items()})[1])

    def pull_back(gradients: Mapping[str, Tensor]) -> list[Tensor]:
        (pulled,) = batched(dict(gradients))
        return [pulled[name].reshape(len(pulled[name]), -1) for name in parameters]

    return pull_back
