"""Gradients of every sample's own surrogate, for many coefficient vectors at once.

With s_t = ∇log p_t the score of one step, the gradient of sample n under coefficients c is g_n = Σ_t c_tn s_tn. One
backward pass through Σ log p yields, for each layer, the gradient D `[T, N, out]` with respect to its output at every
step; together with the layer's input A `[T, N, in]` it holds all the scores, because the weight's share of s_t is the
outer product D_t A_tᵀ. So g_n = (c_n ∘ D_n)ᵀ A_n: one batched product, however many coefficient vectors there are.
Source: Goodfellow 2015, arXiv:1510.01799, for the factored form.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from pgkit.core.layers import Constant, Rowwise
from pgkit.types import expect

CACHE = 2**18
"""Numbers of an intermediate that is read again at once: a megabyte in float32."""


@dataclass(frozen=True, kw_only=True)
class LayerScores:
    """One use of one layer: `outputs` D `[T, N, out]`, `inputs` A `[T, N, in]` where it has a weight; where its
    parameters lie in the flat vector P."""

    outputs: Tensor
    inputs: Tensor | None
    weight: slice | None
    bias: slice | None

    def columns(self, index: slice) -> LayerScores:
        """Returns the scores of some samples, as views."""
        inputs = None if self.inputs is None else self.inputs[:, index]
        return replace(self, outputs=self.outputs[:, index], inputs=inputs)


def layout(module: nn.Module) -> dict[str, slice]:
    """Returns where each trainable parameter lies in the flat vector `[P]`, by name, in the module's own order."""
    slices: dict[str, slice] = {}
    start = 0
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            slices[name] = slice(start, start + parameter.numel())
            start += parameter.numel()
    return slices


def layers_of(layout: Mapping[str, slice]) -> dict[str, list[slice]]:
    """Returns where the parameters of each layer lie in P, by its name.

    A layer is a module: its weight and bias share the prefix of their names; a parameter without one is its own.
    """
    layers: dict[str, list[slice]] = {}
    for name, place in layout.items():
        layers.setdefault(name.rpartition(".")[0] or name, []).append(place)
    return layers


def factors_into_layers(module: nn.Module) -> bool:
    """Returns whether every trainable parameter belongs to a layer that `layer_scores` knows: Linear or Constant."""
    known = {
        id(parameter)
        for layer in module.modules()
        if isinstance(layer, nn.Linear | Constant)
        for parameter in layer.parameters(recurse=False)
    }
    # What is inside may reshape: the inputs of its layers need not be one a step.
    known -= {id(each) for layer in module.modules() if isinstance(layer, Rowwise) for each in layer.parameters()}
    return all(id(parameter) in known for parameter in module.parameters() if parameter.requires_grad)


def layer_scores(module: nn.Module, inputs: Sequence[Any], mask: Tensor) -> list[LayerScores]:
    """Returns every layer's inputs and output gradients of Σ log p over the valid steps: one forward, one backward.

    `module(*inputs)` is log p `[T, N]`, computed row by row: a step's log-probability depends on its own inputs alone.
    Shapes: mask `[T, N]`; inputs `[T, N, …]` each.
    Raises: ValueError where a parameter is in neither a Linear nor a Constant layer.
    """
    if not factors_into_layers(module):
        raise ValueError("module: has parameters outside Linear and Constant layers, expected none")
    uses: list[tuple[nn.Module, Tensor, Tensor]] = []

    def remember(layer: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> None:
        uses.append((layer, arguments[0].detach(), output))

    layers = [layer for layer in module.modules() if isinstance(layer, nn.Linear | Constant) and _trainable(layer)]
    handles = [layer.register_forward_hook(remember) for layer in layers]
    try:
        with torch.enable_grad():
            log_prob = module(*inputs)
    finally:
        for handle in handles:
            handle.remove()
    expect("T N .", mask=mask, log_prob=log_prob)
    total = torch.where(mask, log_prob, 0.0).sum()
    gradients = torch.autograd.grad(total, [output for _, _, output in uses])
    places, names = layout(module), {id(parameter): name for name, parameter in module.named_parameters()}

    def place(parameter: Any) -> slice | None:
        return None if parameter is None else places.get(names[id(parameter)])

    return [
        LayerScores(outputs=gradient, inputs=arguments, weight=place(layer.weight), bias=place(layer.bias))
        if isinstance(layer, nn.Linear)
        else LayerScores(outputs=gradient, inputs=None, weight=None, bias=place(layer.value))
        for (layer, arguments, _), gradient in zip(uses, gradients, strict=True)
    ]


def _trainable(layer: nn.Module) -> bool:
    return any(parameter.requires_grad for parameter in layer.parameters(recurse=False))


def combine(layers: Sequence[LayerScores], coefficients: Tensor, num_parameters: int) -> Tensor:
    """Returns the gradients of every sample under every coefficient vector, `[M, N, P]`.

    Shapes: coefficients `[M, T, N]`.
    """
    sizes = expect("M T N .", coefficients=coefficients)
    result = coefficients.new_zeros(sizes["M"], sizes["N"], num_parameters)
    by_sample = coefficients.permute(2, 1, 0).contiguous()  # [N, T, M]
    for layer in layers:
        outputs = layer.outputs.transpose(0, 1)  # [N, T, out]
        if layer.bias is not None:
            result[:, :, layer.bias] += (by_sample.transpose(1, 2) @ outputs).transpose(0, 1)
        if layer.weight is not None and layer.inputs is not None:
            _add_weighted_products(result[:, :, layer.weight], by_sample, outputs, layer.inputs.transpose(0, 1))
    return result


def _add_weighted_products(into: Tensor, coefficients: Tensor, outputs: Tensor, inputs: Tensor) -> None:
    """Adds (c ∘ D)ᵀ A of every sample and coefficient vector to `into`, `[M, N, out·in]`.

    The narrower of D and A carries the coefficients, and samples are taken a few at a time, so that the weighted copy
    stays in the processor's cache.
    Shapes: coefficients `[N, T, M]`; outputs `[N, T, out]`; inputs `[N, T, in]`.
    """
    num_samples, _, num_vectors = coefficients.shape
    swapped = inputs.shape[2] < outputs.shape[2]
    narrow, wide = (inputs, outputs) if swapped else (outputs, inputs)
    size = max(1, CACHE // (num_vectors * narrow[0].numel()))
    for start in range(0, num_samples, size):
        some = slice(start, start + size)
        weighted = coefficients[some, :, :, None] * narrow[some, :, None, :]  # [n, T, M, narrow]
        product = (weighted.flatten(2).transpose(1, 2) @ wide[some]).unflatten(1, (num_vectors, -1))
        product = product.transpose(2, 3) if swapped else product  # [n, M, out, in]
        into[:, some].unflatten(2, product.shape[2:]).add_(product.transpose(0, 1))


def per_sample_by_vmap(module: nn.Module, inputs: Sequence[Any], coefficients: Tensor) -> Tensor:
    """Returns the same `[M, N, P]` as `combine`, for any module: a gradient of each sample, vectorised.

    The general path, for layers that do not factor and to test the fast one against.
    Shapes: coefficients `[M, T, N]`; inputs `[T, N, …]` each.
    """
    parameters = {name: p.detach() for name, p in module.named_parameters() if p.requires_grad}
    frozen = {name: p.detach() for name, p in module.named_parameters() if not p.requires_grad}
    buffers = dict(module.named_buffers())

    def surrogate(parameters: Mapping[str, Tensor], arguments: Sequence[Any], coefficients: Tensor) -> Tensor:
        columns = torch.utils._pytree.tree_map(lambda x: x.unsqueeze(1), tuple(arguments))
        log_prob = functional_call(module, {**parameters, **frozen, **buffers}, columns)
        return torch.where(coefficients != 0, log_prob.squeeze(1) * coefficients, 0.0).sum()

    one_vector = vmap(grad(surrogate), in_dims=(None, 1, 1))
    gradients = vmap(one_vector, in_dims=(None, None, 0))(parameters, tuple(inputs), coefficients)
    sizes = (coefficients.shape[0], coefficients.shape[2], -1)
    return torch.cat([gradients[name].reshape(sizes) for name in parameters], dim=2)


def num_activations(module: nn.Module, inputs: Sequence[Any]) -> int:
    """Returns the number of outputs of all the layers in a module for these inputs: what a backward pass keeps."""
    sizes: list[int] = []

    def count(_: nn.Module, __: Any, output: Any) -> None:
        sizes.append(output.numel() if isinstance(output, Tensor) else 0)

    leaves = [layer for layer in module.modules() if not any(True for _ in layer.children())]
    handles = [layer.register_forward_hook(count) for layer in leaves]
    try:
        with torch.no_grad():
            module(*inputs)
    finally:
        for handle in handles:
            handle.remove()
    return sum(sizes) + 1


def num_parameters(module: nn.Module) -> int:
    """Returns P, the number of trainable parameters."""
    return sum(prod(p.shape) for p in module.parameters() if p.requires_grad)
