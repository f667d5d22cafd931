"""How a batch is walked through in minibatches, and the advantages that its rows bring along."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, final

import torch
from torch import Tensor

from pgkit.core.placed import carried
from pgkit.objectives import Objective
from pgkit.options import Count

MinibatchOf = Literal["auto", "steps", "columns"]
Normalise = Literal["none", "batch", "minibatch"]


@final
class Minibatches:
    """Walks a batch `epochs` times, newly shuffled each time, in `number` pieces of equal size.

    `of` says what is shuffled, single rows or whole columns; `auto` is columns where the policy reads those, steps
    otherwise; `normalise` whether advantages are taken less their mean
    over their standard deviation, and among which rows.
    """

    def __init__(
        self, generator: torch.Generator, *, epochs: Count, number: Count, of: MinibatchOf, normalise: Normalise
    ) -> None:
        self.generator, self.epochs, self.number, self.of, self.normalise = generator, epochs, number, of, normalise

    def pieces(self, objective: Objective) -> int:
        """Returns the number of minibatches an epoch: what was asked for, where episodes leave that many rows."""
        most = objective.trajectories.num_columns if self._in_columns(objective) else len(objective.valid)
        return max(1, min(most, self.number))

    def walk(self, objective: Objective) -> Iterator[Tensor]:
        """Yields the flat rows of every minibatch of every epoch."""
        valid, num_columns, pieces = objective.valid, objective.trajectories.num_columns, self.pieces(objective)
        in_columns = self._in_columns(objective)
        for _ in range(self.epochs):
            shuffled = torch.randperm(num_columns if in_columns else len(valid), generator=self.generator)
            places = carried(shuffled, valid)
            if not in_columns:
                if len(valid):  # a batch may be reset rows and nothing else
                    yield from valid[places].tensor_split(pieces)
                continue
            for columns in places.tensor_split(pieces):
                rows = valid[torch.isin(valid % num_columns, columns)]
                if len(rows):  # a column may be a reset row and nothing else
                    yield rows

    def _in_columns(self, objective: Objective) -> bool:
        return self.of == "columns" or (self.of == "auto" and objective.reads_columns)

    def advantages(self, objective: Objective) -> Tensor:
        """Returns the coefficients of all rows `[T * N]` without the ratios that are in them; normalised if of a batch.

        Weights of single rows are in the coefficients already, and the ratio of an update would count them twice.
        """
        log_weight, coefficients = objective.factors.log_weight.reshape(-1), objective.coefficients
        rows = coefficients[objective.valid]
        rows = rows * torch.where(rows == 0, 0.0, -log_weight[objective.valid]).exp()
        result = torch.zeros_like(coefficients)
        result[objective.valid] = normalised(rows) if self.normalise == "batch" else rows
        return result

    def within(self, advantages: Tensor) -> Tensor:
        """Returns the advantages of one minibatch, normalised if that is asked for."""
        return normalised(advantages) if self.normalise == "minibatch" else advantages


def normalised(advantages: Tensor) -> Tensor:
    """Returns the advantages less their mean over their standard deviation; zeros where they are all the same."""
    if len(advantages) < 2:
        return torch.zeros_like(advantages)
    least, most = advantages.aminmax()
    spread, mean = torch.std_mean(advantages)
    # Equal numbers may have a spread: the rounding error of their mean.
    return ((advantages - mean) / spread).masked_fill_(least == most, 0.0)
