"""Inner products of single steps' scores, without forming them: with vectors of P, and with themselves.

In a layer's share the score of a step is the outer product D_t A_tᵀ, so its product with a matrix G is D_tᵀ G A_t, and
that of two of them (D·D')(A·A'). A layer that is used twice at a step adds up.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pgkit.core.persample import LayerScores


def products(layers: Sequence[LayerScores], vectors: Tensor) -> Tensor:
    """Returns ⟨s_tn, v_n⟩ of every step of every sample, `[T, N]`.

    Shapes: vectors `[N, P]`.
    """
    result = vectors.new_zeros(layers[0].outputs.shape[:2])
    for layer in layers:
        if layer.bias is not None:
            result += torch.einsum("tno,no->tn", layer.outputs, vectors[:, layer.bias])
        if layer.weight is not None and layer.inputs is not None:
            matrix = vectors[:, layer.weight].unflatten(1, (layer.outputs.shape[2], layer.inputs.shape[2]))
            carried = (layer.outputs.transpose(0, 1) @ matrix).transpose(0, 1)  # [T, N, in]
            result += (carried * layer.inputs).sum(dim=2)
    return result


def squares(layers: Sequence[LayerScores]) -> Tensor:
    """Returns |s_tn|² of every step of every sample, `[T, N]`."""
    result = layers[0].outputs.new_zeros(layers[0].outputs.shape[:2])
    for first in layers:
        for second in layers:
            outputs = (first.outputs * second.outputs).sum(dim=2) if _shared(first, second) else None
            if outputs is None:
                continue
            if first.bias is not None:
                result += outputs
            if first.inputs is not None and second.inputs is not None:
                result += outputs * (first.inputs * second.inputs).sum(dim=2)
    return result


def _shared(first: LayerScores, second: LayerScores) -> bool:
    """Returns whether two uses are of one layer."""
    return (first.weight, first.bias) == (second.weight, second.bias)
