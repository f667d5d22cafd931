"""The signal-to-noise ratio of every layer of the policy."""

from __future__ import annotations

from collections import deque
from typing import Annotated, final

import torch
from torch import Tensor

from pgkit.core.moments import independent_moments, mean_pairs, pair_moments
from pgkit.core.persample import layers_of
from pgkit.diagnostics.gradients import Unanswered, chunks_in_use, cross_gradients, groups_of, obstacle
from pgkit.options import Count, Range
from pgkit.snapshot import Facts, Snapshot
from pgkit.types import Metrics


@final
class LayerNoise:
    """The debiased signal-to-noise ratio of the mean gradient, |E g|² over its variance, layer by layer.

    A layer is a module, its weight and bias together. Signal and variance are summed over the last `window`
    measurements and divided once; below 0 it is not resolved, and without variance null. Ratios of layers do not add
    up to that of the whole: that is their mean, weighted by variance.
    """

    def __init__(
        self,
        *,
        facts: Facts,
        every: Count = 5,
        window: Count = 20,
        max_columns: Annotated[int, Range(least=8)] | None = 64,
        group: Annotated[int, Range(least=8)] = 16,
    ) -> None:
        self.every, self.max_columns, self.group = every, max_columns, group
        layers = layers_of(facts.layout)
        self.tags = tuple(f"layers/{name}/snr" for name in layers)
        size = max((place.stop for place in facts.layout.values()), default=0)
        self._layer_of = torch.zeros(size, dtype=torch.long)
        for number, places in enumerate(layers.values()):
            for place in places:
                self._layer_of[place] = number
        self._window: deque[Tensor] = deque(maxlen=window)
        self._unanswered = Unanswered()

    def measure(self, snapshot: Snapshot) -> Metrics:
        """Returns the pooled ratio of every layer."""
        reason = obstacle(snapshot)
        if reason is not None:
            return self._unanswered(self.tags, reason)
        columns = snapshot.coefficients.shape[1]
        measured = min(columns, self.max_columns or columns)
        find = self._of_pairs if snapshot.coupling == "pairwise" else self._of_independent
        self._window.append(find(snapshot, measured))
        signal, variance = torch.stack(list(self._window)).sum(dim=0)
        ratios = [s / v if v > 0 else None for s, v in zip(signal.tolist(), variance.tolist(), strict=True)]
        if still := [tag for tag, ratio in zip(self.tags, ratios, strict=True) if ratio is None]:
            self._unanswered(still, "its gradient does not vary, or too few batches are pooled to tell how much")
        return dict(zip(self.tags, ratios, strict=True))

    def _of_independent(self, snapshot: Snapshot, measured: int) -> Tensor:
        """Returns the signal and the variance of the mean of every layer, `[2, L]`."""
        total, squares, count = torch.zeros(()), torch.zeros(()), 0
        for _, chunk in chunks_in_use(snapshot, measured):
            total, squares = total + chunk.sum(dim=0), squares + chunk.square().sum(dim=0)
            count += len(chunk)
        columns = snapshot.coefficients.shape[1]
        found = []
        for number in range(len(self.tags)):
            own = self._layer_of == number
            moments = independent_moments(total[own] / count, float(squares[own].sum()), count)
            found.append((moments.signal, moments.of_mean_over(columns).variance_of_mean))
        return torch.tensor(found, dtype=torch.float64).T

    def _of_pairs(self, snapshot: Snapshot, measured: int) -> Tensor:
        """Returns the same of leave-one-out, whose estimate is a U-statistic."""
        groups = groups_of(measured, self.group, snapshot.scores.num_parameters)
        by_layer = [
            [pair_moments(cross[:, :, self._layer_of == number]) for number in range(len(self.tags))]
            for cross in cross_gradients(snapshot, snapshot.factors.signal, groups)
        ]
        pairs = [mean_pairs(list(of_groups)) for of_groups in zip(*by_layer, strict=True)]
        columns = snapshot.coefficients.shape[1]
        found = [(each.disjoint, each.variance_of_mean(columns)) for each in pairs]
        return torch.tensor(found, dtype=torch.float64).T
