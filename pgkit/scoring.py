"""Scores ∇log p of a batch as estimators and instruments see them.

Dimension names are those of `pgkit.types`: F factors, N samples, M vectors or rows, P parameters.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

from torch import Tensor


class LayerScores(Protocol):
    """One layer's part of scores `[T, N]`: gradients of its outputs and, if it has a weight, its inputs."""

    @property
    def outputs(self) -> Tensor: ...

    @property
    def inputs(self) -> Tensor | None: ...

    @property
    def weight(self) -> slice | None: ...

    @property
    def bias(self) -> slice | None: ...


class Scores(Protocol):
    """The scores ∇log p of a batch, at the parameters its gradient was taken at; lazy, shared, chunked."""

    @property
    def layout(self) -> Mapping[str, slice]:
        """Where each trainable parameter lies in P, by name."""

    @property
    def num_parameters(self) -> int:
        """P."""

    def gradients(self, coefficients: Tensor) -> Iterator[tuple[slice, Tensor]]:
        """Yields (columns, gradients `[M, n, P]`) under M coefficient vectors `[M, F, N]`, or of the first columns."""

    def gradients_of(self, columns: slice, coefficients: Tensor) -> Tensor:
        """Returns the gradients `[M, n, P]` of some columns under M coefficient vectors `[M, F, n]` of theirs."""

    def stacked(self, coefficients: Tensor) -> Tensor:
        """Returns the gradients `[M, N, P]` under M coefficient vectors `[M, F, N]`, or of the first columns."""

    def of_steps(self, index: Tensor) -> Tensor:
        """Returns the scores `[M, P]` of single factors, at flat indices f * N + n."""

    def layers_of_steps(self, index: Tensor) -> Sequence[LayerScores] | None:
        """Returns the same scores layer by layer, each use of a layer `[1, M, …]`; None where they do not factor."""

    def step_products(self, vectors: Tensor) -> Tensor:
        """Returns the product of every factor's score with its sample's vector, `[F, N]`; vectors `[N, P]`."""

    def step_squares(self) -> Tensor:
        """Returns the squared length of every factor's score, `[F, N]`."""

    def per_sample(self, coefficients: Tensor) -> Tensor:
        """Returns the gradients `[N, P]` of every sample under one coefficient vector `[F, N]`."""
