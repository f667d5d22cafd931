"""The scores of one batch, computed when first asked for and shared by everything that reads them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from pgkit.core import persample, stepwise

KEPT = 2**23
"""Numbers that may stay in memory between two questions, 32 MiB in float32; larger batches are evaluated anew."""
CHUNK = 2**21
"""Numbers of one pass over some columns, 8 MiB in float32: what follows each other stays in the cache."""


@final
class Scores:
    """Every step's score ∇log p of a batch, in factored form.

    `module(*inputs)` is log p `[F, N]`, row by row; inputs are `[F, N, …]` each (or dictionaries of such). The module
    must not change while the scores are in use.
    """

    def __init__(self, module: nn.Module, inputs: Sequence[Any], mask: Tensor) -> None:
        self.module, self.inputs, self.mask = module, tuple(inputs), mask

    @cached_property
    def layout(self) -> Mapping[str, slice]:
        """Where each trainable parameter lies in P, by name."""
        return persample.layout(self.module)

    @cached_property
    def num_parameters(self) -> int:
        """P."""
        return persample.num_parameters(self.module)

    def gradients(self, coefficients: Tensor) -> Iterator[tuple[slice, Tensor]]:
        """Yields (columns, gradients `[M, n, P]`) of the samples under each of M coefficient vectors, in chunks.

        Shapes: coefficients `[M, F, N]`, or fewer columns: then the first ones are meant.
        """
        for columns in self._chunks(coefficients.shape[0], coefficients.shape[2]):
            yield columns, self.gradients_of(columns, coefficients[:, :, columns])

    def gradients_of(self, columns: slice, coefficients: Tensor) -> Tensor:
        """Returns the gradients `[M, n, P]` of n neighbouring samples under each of M coefficient vectors.

        Shapes: coefficients `[M, F, n]`, those of the samples in `columns`.
        """
        coefficients = torch.where(self.mask[:, columns], coefficients, 0.0)
        if self._factored:
            layers = self._layers if self._small else self._layers_of(columns)
            part = [layer.columns(columns) for layer in layers] if self._small else layers
            return persample.combine(part, coefficients, self.num_parameters)
        result = coefficients.new_zeros(())
        # The sum over factors is taken some of them at a time: the activations of one sample may be too many as it is.
        size = max(1, CHUNK // (coefficients.shape[0] * coefficients.shape[2] * self._width))
        for start in range(0, len(self.mask), size):
            some = slice(start, start + size)
            inputs = tree_map(lambda x, some=some: x[some, columns], self.inputs)
            result = result + persample.per_sample_by_vmap(self.module, inputs, coefficients[:, some])
        return result

    def stacked(self, coefficients: Tensor) -> Tensor:
        """Returns the gradients `[M, N, P]` under each of M coefficient vectors `[M, F, N]`, all in memory."""
        return torch.cat([gradients for _, gradients in self.gradients(coefficients)], dim=1)

    def per_sample(self, coefficients: Tensor) -> Tensor:
        """Returns the gradients `[N, P]` of every sample under one coefficient vector `[F, N]`, all in memory."""
        return torch.cat([gradients[0] for _, gradients in self.gradients(coefficients[None])])

    def step_products(self, vectors: Tensor) -> Tensor:
        """Returns ⟨s_tn, v_n⟩ of every factor of every sample with a vector of that sample, `[F, N]`.

        Shapes: vectors `[N, P]`.
        """
        return self._stepwise(lambda layers, columns: stepwise.products(layers, vectors[columns]), vectors)

    def step_squares(self) -> Tensor:
        """Returns |s_tn|² of every factor of every sample, `[F, N]`."""
        return self._stepwise(lambda layers, columns: stepwise.squares(layers), None)

    def of_steps(self, index: Tensor) -> Tensor:
        """Returns the scores `[M, P]` of single factors, all in memory.

        Shapes: index `[M]`, flat, as f * N + n.
        """
        return self._steps(index).per_sample(torch.ones(1, len(index), device=index.device))

    def layers_of_steps(self, index: Tensor) -> Sequence[persample.LayerScores] | None:
        """Returns the scores of single factors layer by layer, `[1, M, …]`; None where they do not factor.

        Shapes: index `[M]`, flat, as f * N + n.
        """
        return self._steps(index)._layers if self._factored else None

    def _steps(self, index: Tensor) -> Scores:
        """Returns single factors as samples of one factor each."""
        inputs = tree_map(lambda x: x.flatten(0, 1)[index][None], self.inputs)
        return Scores(self.module, inputs, torch.ones(1, len(index), dtype=torch.bool, device=index.device))

    def _stepwise(
        self, factored: Callable[[list[persample.LayerScores], slice], Tensor], vectors: Tensor | None
    ) -> Tensor:
        """Returns a number a factor and sample: by layers where they factor, else from the scores themselves."""
        parts = []
        for columns in self._chunks(1, self.mask.shape[1]):
            if self._factored:
                layers = self._layers if self._small else self._layers_of(columns)
                parts.append(factored([each.columns(columns) for each in layers] if self._small else layers, columns))
                continue
            inputs = tree_map(lambda x, columns=columns: x[:, columns].flatten(0, 1)[None], self.inputs)
            ones = torch.ones(1, 1, len(self.mask) * (columns.stop - columns.start), device=self.mask.device)
            scores = persample.per_sample_by_vmap(self.module, inputs, ones)[0].unflatten(0, (len(self.mask), -1))
            parts.append((scores * (scores if vectors is None else vectors[columns])).sum(dim=2))
        return torch.where(self.mask, torch.cat(parts, dim=1), 0.0)

    @cached_property
    def _factored(self) -> bool:
        return persample.factors_into_layers(self.module)

    @cached_property
    def _layers(self) -> list[persample.LayerScores]:
        return persample.layer_scores(self.module, self.inputs, self.mask)

    def _layers_of(self, columns: slice) -> list[persample.LayerScores]:
        inputs = tree_map(lambda x: x[:, columns], self.inputs)
        return persample.layer_scores(self.module, inputs, self.mask[:, columns])

    @cached_property
    def _small(self) -> bool:
        """Whether the inputs and output gradients of the whole batch may stay in memory."""
        return self.mask.numel() * self._width <= KEPT

    @cached_property
    def _width(self) -> int:
        if not self._factored:
            row = tree_map(lambda x: x[:1, :1], self.inputs)
            return persample.num_activations(self.module, row)
        linear = [layer for layer in self.module.modules() if isinstance(layer, nn.Linear)]
        return sum(layer.in_features + layer.out_features for layer in linear) + 1

    def _chunks(self, num_vectors: int, num_samples: int) -> list[slice]:
        each = num_vectors * (self.num_parameters + len(self.mask) * self._width)
        size = min(num_samples, max(1, CHUNK // each))
        return [slice(start, min(start + size, num_samples)) for start in range(0, num_samples, size)]
