"""The scores of a policy with a memory: a step's log-probability depends on all that its column has seen.

Columns are independent of each other, and a layer's gradient is still that of its outputs times its inputs, summed over
all its uses in the column. So the gradient of every column under one coefficient vector is one backward pass of the
whole batch and one batched product, as for networks of rows; other than there each vector takes a pass of its own.
Where there are other layers, such as convolutions, the columns go by themselves, one after the other.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, final

import torch
from torch import Tensor, nn

from pgkit.core import persample
from pgkit.core.layers import Constant
from pgkit.core.unrolling import log_prob_of_columns
from pgkit.types import Trajectories

CHUNK = 2**24
"""Numbers of one pass over some columns, 128 MiB in float32: each step costs calls of its own, however few columns."""


@final
class ColumnScores:
    """Every step's score ∇log π(a_t | what came before) of a batch, as `pgkit.scoring.Scores` wants them.

    The policy must not change while they are in use. Scores of single steps take a backward pass for every time, many
    of them side by side.
    """

    def __init__(self, policy: nn.Module, trajectories: Trajectories, mask: Tensor) -> None:
        self.policy, self.trajectories, self.mask = policy, trajectories, mask

    @cached_property
    def layout(self) -> Mapping[str, slice]:
        """Where each trainable parameter lies in P, by name, as in the module that has the policy for its `policy`."""
        return {f"policy.{name}": place for name, place in persample.layout(self.policy).items()}

    @cached_property
    def num_parameters(self) -> int:
        """P."""
        return persample.num_parameters(self.policy)

    def gradients(self, coefficients: Tensor) -> Iterator[tuple[slice, Tensor]]:
        """Yields (columns, gradients `[M, n, P]`) of the samples under each of M coefficient vectors, in chunks.

        Shapes: coefficients `[M, F, N]`, or fewer columns: then the first ones are meant.
        """
        for columns in self._chunks(*coefficients.shape[::2]):
            yield columns, self.gradients_of(columns, coefficients[:, :, columns])

    def gradients_of(self, columns: slice, coefficients: Tensor) -> Tensor:
        """Returns the gradients `[M, n, P]` of n neighbouring samples under each of M coefficient vectors.

        Shapes: coefficients `[M, F, n]`, those of the samples in `columns`.
        """
        found = []
        for part in self._together(columns):
            unrolled, own = _Unrolled(self, part), slice(part.start - columns.start, part.stop - columns.start)
            found.append(torch.stack([unrolled.gradient(each) for each in coefficients[:, :, own]]))
        return torch.cat(found, dim=1)

    def stacked(self, coefficients: Tensor) -> Tensor:
        """Returns the gradients `[M, N, P]` under each of M coefficient vectors `[M, F, N]`, all in memory."""
        return torch.cat([gradients for _, gradients in self.gradients(coefficients)], dim=1)

    def per_sample(self, coefficients: Tensor) -> Tensor:
        """Returns the gradients `[N, P]` of every sample under one coefficient vector `[F, N]`, all in memory."""
        return torch.cat([gradients[0] for _, gradients in self.gradients(coefficients[None])])

    def step_products(self, vectors: Tensor) -> Tensor:
        """Returns ⟨s_tn, v_n⟩ of every factor of every sample with a vector of that sample, `[F, N]`.

        It is the derivative of ⟨Σ_t u_t s_t, v⟩ in u, in two backward passes.
        Shapes: vectors `[N, P]`.
        """
        parts = []
        for columns in self._chunks(1, self.mask.shape[1]):
            with torch.enable_grad():
                dials = torch.ones_like(self.mask[:, columns], dtype=vectors.dtype).requires_grad_()
                gradient = _Unrolled(self, columns).gradient(dials, differentiable=True)
                (products,) = torch.autograd.grad((gradient * vectors[columns]).sum(), dials)
            parts.append(products)
        return torch.where(self.mask, torch.cat(parts, dim=1), 0.0)

    def step_squares(self) -> Tensor:
        """Returns |s_tn|² of every factor of every sample, `[F, N]`."""
        parts = []
        for columns in self._chunks(1, self.mask.shape[1]):
            column = _Unrolled(self, columns)
            times = torch.arange(len(self.mask)).split(self._times_at_once(columns.stop - columns.start))
            parts.append(torch.cat([column.scores(some).square().sum(dim=2) for some in times]))
        return torch.cat(parts, dim=1)

    def of_steps(self, index: Tensor) -> Tensor:
        """Returns the scores `[M, P]` of single factors, all in memory.

        Shapes: index `[M]`, flat, as f * N + n.
        """
        num_columns = self.mask.shape[1]
        time, sample = index // num_columns, index % num_columns
        result = next(self.policy.parameters()).new_zeros(len(index), self.num_parameters)
        for columns in self._together(slice(0, num_columns)):
            column, inside = _Unrolled(self, columns), (columns.start <= sample) & (sample < columns.stop)
            for some in time[inside].unique().split(self._times_at_once(columns.stop - columns.start)):
                found = column.scores(some)
                here = (inside & torch.isin(time, some)).nonzero().squeeze(-1)
                result[here] = found[torch.searchsorted(some, time[here]), sample[here] - columns.start]
        return result

    def layers_of_steps(self, index: Tensor) -> Sequence[persample.LayerScores] | None:
        """Returns None: the uses of a layer at several steps make one score."""
        return None

    @cached_property
    def factors(self) -> bool:
        """Whether every parameter belongs to a layer whose gradients are products of what goes in and comes out."""
        return persample.factors_into_layers(self.policy)

    def _together(self, columns: slice) -> list[slice]:
        """Returns the same columns in parts that can be unrolled together."""
        return [columns] if self.factors else [slice(n, n + 1) for n in range(columns.start, columns.stop)]

    @cached_property
    def _width(self) -> int:
        linear = [layer for layer in self.policy.modules() if isinstance(layer, nn.Linear)]
        return sum(layer.in_features + layer.out_features for layer in linear)

    def _times_at_once(self, num_samples: int) -> int:
        each = num_samples * (self.num_parameters + len(self.mask) * self._width)
        return max(1, CHUNK // each) if self.factors else 1

    def _chunks(self, num_vectors: int, num_samples: int) -> list[slice]:
        each = num_vectors * self.num_parameters + len(self.mask) * self._width
        size = min(num_samples, max(1, CHUNK // each)) if self.factors else 1
        return [slice(start, min(start + size, num_samples)) for start in range(0, num_samples, size)]


@final
class _Unrolled:
    """One forward pass over some columns, and all the uses of layers in it."""

    def __init__(self, scores: ColumnScores, columns: slice) -> None:
        self._policy, self._mask = scores.policy, scores.mask[:, columns]
        self._factors = scores.factors
        self._uses: list[tuple[nn.Module, Tensor, Tensor]] = []
        layers = [layer for layer in self._policy.modules() if isinstance(layer, nn.Linear | Constant)]
        handles = [layer.register_forward_hook(self._remember) for layer in layers]
        try:
            with torch.enable_grad():
                self.log_prob = log_prob_of_columns(self._policy, scores.trajectories, columns)
        finally:
            for handle in handles:
                handle.remove()

    def gradient(self, coefficients: Tensor, *, differentiable: bool = False) -> Tensor:
        """Returns Σ_t c_t s_t of every column, `[n, P]`; coefficients `[F, n]`."""
        with torch.enable_grad():
            return self._combined(torch.where(self._mask, coefficients, 0.0), differentiable=differentiable)

    def scores(self, times: Tensor) -> Tensor:
        """Returns the scores `[B, n, P]` of some steps, 0 outside the mask."""
        only = torch.zeros(len(times), *self._mask.shape, dtype=self.log_prob.dtype, device=self._mask.device)
        only[torch.arange(len(times)), times] = self._mask[times].to(only.dtype)
        return self._combined(only)

    def _combined(self, weights: Tensor, *, differentiable: bool = False) -> Tensor:
        """Returns the gradients `[…, n, P]` of Σ_tn w_tn log p_tn in each column; weights `[F, n]`, or `[B, F, n]`."""
        trained = [each for each in self._policy.parameters() if each.requires_grad]
        gradients = torch.autograd.grad(
            self.log_prob, [output for _, _, output in self._uses] if self._factors else trained, weights,
            retain_graph=True, create_graph=differentiable, is_grads_batched=weights.dim() == 3,
        )  # fmt: skip
        if not self._factors:  # one column
            return torch.cat([each.reshape(*weights.shape[:-2], 1, -1) for each in gradients], dim=-1)
        pieces: dict[nn.Module, list[tuple[Tensor, Tensor]]] = {}
        for (layer, inputs, _), gradient in zip(self._uses, gradients, strict=True):
            # One row of a column, or all of them.
            single = inputs.dim() == 2
            piece = (inputs[None], gradient.unsqueeze(-3)) if single else (inputs, gradient)
            pieces.setdefault(layer, []).append(piece)
        found = {name: value for layer, uses in pieces.items() for name, value in _gradients(layer, uses).items()}
        return torch.cat([found[each] for each in trained], dim=-1)

    def _remember(self, layer: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> None:
        self._uses.append((layer, arguments[0].detach(), output))


def _gradients(layer: Any, uses: list[tuple[Tensor, Tensor]]) -> dict[nn.Parameter, Tensor]:
    """Returns the gradients `[…, n, p]` of a layer's parameters; inputs `[t, n, i]`, output gradients `[…, t, n, o]`.

    A use's output gradient times its input, summed over all uses.
    """
    inputs = torch.cat([each for each, _ in uses])
    outputs = torch.cat([each for _, each in uses], dim=-3)
    if isinstance(layer, Constant):
        return {layer.value: outputs.sum(dim=-3)}
    result = {layer.weight: torch.einsum("...tno,tni->...noi", outputs, inputs).flatten(-2)}
    return result if layer.bias is None else {**result, layer.bias: outputs.sum(dim=-3)}
