"""Natural gradients layer by layer, each layer's Fisher matrix taken for a Kronecker product (K-FAC).

With the score of a step D Aᵀ in a layer's weight, F = E[A Aᵀ ⊗ D Dᵀ] is replaced by E[A Aᵀ] ⊗ E[D Dᵀ], whose inverse is
that of two small matrices.
Source: Martens and Grosse 2015, arXiv:1503.05671; Wu et al. 2017, arXiv:1708.05144, for policies.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pgkit.scoring import LayerScores
from pgkit.types import expect


def solve_kronecker(layers: Sequence[LayerScores], mask: Tensor, gradient: Tensor, *, damping: float) -> Tensor:
    """Returns (F̂ + λI)⁻¹ g `[P]`, F̂ a Kronecker product in each layer and 0 between layers.

    λ is shared between the two factors of a layer in the ratio of their mean eigenvalues, so that it is λ times the
    identity up to terms of higher order; what has no inputs, a constant, is solved exactly.
    Bias: inputs and output gradients of a layer are taken for independent, layers for unrelated.
    Shapes: mask `[T, N]`, gradient `[P]`.
    Source: Martens and Grosse 2015, arXiv:1503.05671, section 6.3, for the damping.
    """
    expect("P", gradient=gradient)
    count = max(int(mask.sum()), 1)
    result = torch.zeros_like(gradient)
    for layer in layers:
        outputs = layer.outputs[mask].to(gradient.dtype)
        if layer.inputs is None:
            assert layer.bias is not None
            fisher = outputs.T @ outputs / count
            result[layer.bias] = _solve(fisher, gradient[layer.bias][:, None], damping)[:, 0]
            continue
        inputs = layer.inputs[mask].to(gradient.dtype)
        pieces = [] if layer.weight is None else [gradient[layer.weight].reshape(outputs.shape[1], -1)]
        if layer.bias is not None:
            # A bias is a weight whose input is always 1.
            ones = inputs.new_ones(len(inputs), 1)
            inputs = torch.cat([inputs, ones], dim=1) if pieces else ones
            pieces.append(gradient[layer.bias][:, None])
        wanted = torch.cat(pieces, dim=1)  # [out, in + 1]
        seen, sent = inputs.T @ inputs / count, outputs.T @ outputs / count
        root = damping**0.5
        balance = _balance(seen, sent)
        solved = _solve(seen, _solve(sent, wanted, root / balance).T, root * balance).T
        if layer.weight is not None:
            size = layer.weight.stop - layer.weight.start
            result[layer.weight] = solved[:, : size // len(solved)].reshape(-1)
        if layer.bias is not None:
            result[layer.bias] = solved[:, -1]
    return result


def _balance(seen: Tensor, sent: Tensor) -> float:
    """Returns the root of the ratio of the mean eigenvalues of both factors, 1 where either is 0."""
    of_inputs, of_outputs = float(seen.diagonal().mean()), float(sent.diagonal().mean())
    return (of_inputs / of_outputs) ** 0.5 if of_inputs > 0 and of_outputs > 0 else 1.0


def _solve(matrix: Tensor, right: Tensor, damping: float) -> Tensor:
    """Returns (matrix + damping I)⁻¹ right; what a singular matrix does not see stays 0."""
    damped = matrix + damping * torch.eye(len(matrix), dtype=matrix.dtype, device=matrix.device)
    factor, failed = torch.linalg.cholesky_ex(damped)
    return torch.linalg.pinv(damped) @ right if failed else torch.cholesky_solve(right, factor)
