"""What instruments share: per-column gradients of the estimate in use, cross gradients, a word where there is none."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import final

import torch
from torch import Tensor

from pgkit.core.strata import numbered
from pgkit.snapshot import Snapshot
from pgkit.types import Coupling, Metrics

LEAST_COLUMNS: Mapping[Coupling, float] = {"independent": 2, "pairwise": 4, "cross_fitted": 8, "batch": math.inf}
"""Columns without which the variance of an estimate is not known: a U-statistic needs four; where a reference is
fitted to the others the sample formula is trusted from eight on; where anything else couples them, never."""
MOST_NUMBERS = 2**25
"""Numbers in one block of gradients, about 128 MiB in float32."""
MOST_KEPT = 2**23
"""Numbers that instruments keep for each other, 32 MiB in float32."""

NEIGHBOURS = 16
"""Columns of one pass where not all of a batch are looked at."""


@final
class Unanswered:
    """Answers for an instrument that cannot: None for every tag, and the reason in the log, once."""

    def __init__(self) -> None:
        self._said: set[str] = set()

    def __call__(self, tags: Sequence[str], reason: str) -> Metrics:
        """Returns None for every tag."""
        if reason not in self._said:
            logging.getLogger("pgkit").warning("%s is null: %s", tags[0], reason)
            self._said.add(reason)
        return dict.fromkeys(tags)


def gradients_in_use(snapshot: Snapshot, num_columns: int | None = None) -> Tensor:
    """Returns the gradients `[n, P]` of the first columns, or all, under the estimator in use and its control variate.

    All in memory: whoever may meet a large batch asks for as many columns as `affordable` says.
    """
    coefficients = snapshot.coefficients[:, :num_columns]
    if not snapshot.estimator.controlled:
        return snapshot.surrogate.per_sample(coefficients)
    assert snapshot.factors.scale is not None
    stacked = torch.stack([coefficients, snapshot.factors.scale[:, :num_columns]])
    gradients, scores = snapshot.scores.stacked(stacked)
    return snapshot.estimator.control(gradients, scores, snapshot.scores.layout)


def chunks_in_use(snapshot: Snapshot, num_columns: int) -> Iterator[tuple[slice, Tensor]]:
    """Yields (columns, gradients `[n, P]`) of the first columns under the estimator in use, some at a time.

    A control variate is fitted across columns: then they come at once, and no more of them than `affordable` says.
    """
    if snapshot.estimator.controlled:
        measured = min(num_columns, affordable(snapshot, num_vectors=2))
        yield slice(0, measured), gradients_in_use(snapshot, measured)
    else:
        for columns, chunk in snapshot.surrogate.gradients(snapshot.coefficients[None, :, :num_columns]):
            yield columns, chunk[0]


def strata_of(snapshot: Snapshot) -> Tensor | None:
    """Returns the number `[N]` of the law that each column came from; None for one law, or with a column of its own."""
    stratum = numbered(snapshot.trajectories.behavior_id)
    counts = torch.bincount(stratum)
    return stratum if len(counts) > 1 and int(counts.min()) > 1 else None


def chunks_of(snapshot: Snapshot, index: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Yields (columns, gradients `[n, P]`) of the columns at `index`, ascending, some neighbours at a time.

    A control variate is fitted across all columns: whoever asks for fewer asks for an estimator without one.
    """
    if len(index) == snapshot.coefficients.shape[1]:
        yield from chunks_in_use(snapshot, len(index))
        return
    breaks = (index.diff() > 1).nonzero().squeeze(-1) + 1
    for run in index.tensor_split(breaks.tolist()):
        for part in run.split(NEIGHBOURS):
            columns = slice(int(part[0]), int(part[-1]) + 1)
            yield columns, snapshot.surrogate.gradients_of(columns, snapshot.coefficients[None, :, columns])[0]


def obstacle(snapshot: Snapshot) -> str | None:
    """Returns why this batch has no unbiased variance, or None."""
    columns = snapshot.coefficients.shape[1]
    if snapshot.coupling == "batch":
        return "a statistic of the whole batch couples its columns"
    least = LEAST_COLUMNS[snapshot.coupling]
    return f"{columns} columns, and at least {least} are needed" if columns < least else None


def affordable(snapshot: Snapshot, num_vectors: int = 1) -> int:
    """Returns the number of columns whose gradients under so many coefficient vectors may be in memory at once."""
    return max(1, MOST_NUMBERS // (num_vectors * snapshot.scores.num_parameters))


def groups_of(num_columns: int, size: int, num_parameters: int) -> list[slice]:
    """Returns neighbouring columns in groups of about `size`, small enough for their cross gradients to be in memory.

    Groups never have fewer than the four columns of a U-statistic; there are as many as keep to the size otherwise.
    """
    least = int(LEAST_COLUMNS["pairwise"])
    largest = max(least, min(size, int((MOST_NUMBERS / num_parameters) ** 0.5)))
    number = max(1, min(-(-num_columns // largest), num_columns // least))
    parts = torch.arange(num_columns).tensor_split(number)
    return [slice(int(part[0]), int(part[-1]) + 1) for part in parts]


def cross_gradients(snapshot: Snapshot, signal: Tensor, groups: Sequence[slice]) -> Iterator[Tensor]:
    """Yields, for columns i and j of each group, the outcomes of i against the scaled scores of j, `[n, n, P]`.

    Those of the signal in use are kept for the next instrument, as far as they fit; nobody may write to them.
    Shapes: signal `[F, N]`, or its first columns; those that ended count as 0.
    """
    scale = snapshot.factors.scale
    assert scale is not None
    shared = signal is snapshot.factors.signal
    for columns in groups:
        name = f"cross gradients {columns.start} {columns.stop}"
        if shared and name in snapshot.kept:
            yield snapshot.kept[name]
            continue
        outcomes = torch.where(snapshot.factors.mask[:, columns], signal[:, columns], 0.0).double()
        # The kernel sees differences alone; without what is common to a row they lose nothing to rounding.
        centred = outcomes - outcomes.mean(dim=1, keepdim=True)
        coefficients = centred.to(scale.dtype).T[:, :, None] * scale[:, columns]
        found = snapshot.scores.gradients_of(columns, coefficients)
        if shared and found.numel() + sum(each.numel() for each in snapshot.kept.values()) <= MOST_KEPT:
            snapshot.kept[name] = found
        yield found
