"""Whether the two halves of a batch agree on the way to go."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, final

import torch
from torch import Tensor

from pgkit.core import score
from pgkit.diagnostics.gradients import Unanswered, chunks_in_use
from pgkit.options import Count, Range
from pgkit.snapshot import Snapshot
from pgkit.types import Metrics


@final
class Halves:
    """Cosine and sign agreement between the gradients of the even and of the odd columns.

    Every parameter counts the same in the agreement, and one whose gradient is exactly 0 in either half does not
    count; without any signal it is about one half, and the cosine 0. Columns are taken to be independent but for their
    baseline. Leave-one-out is worked out anew inside each half, so that halves are independent. Whatever else is
    fitted to the batch stays as it was: as a score has mean 0, that adds agreement of the order 1/N² only.
    """

    tags = ("halves/sign_agreement", "halves/cosine")

    def __init__(self, *, every: Count = 5, max_columns: Annotated[int, Range(least=8)] | None = 256) -> None:
        self.every, self.max_columns = every, max_columns
        self._unanswered = Unanswered()

    def measure(self, snapshot: Snapshot) -> Metrics:
        """Returns the share of parameters with equal signs, and the cosine."""
        columns = snapshot.coefficients.shape[1]
        least = 4 if snapshot.coupling == "pairwise" else 2
        if columns < least:
            return self._unanswered(self.tags, f"{columns} columns, and at least {least} are needed")
        even, odd = gradients_of_halves(snapshot, min(columns, self.max_columns or columns))
        lengths = float(even.norm()) * float(odd.norm())
        if lengths == 0:
            return self._unanswered(self.tags, "the gradient of a half is 0")
        both = even * odd
        counted = both != 0
        cosine = max(-1.0, min(1.0, float(even.double() @ odd.double()) / lengths))
        agreement = float((both[counted] > 0).double().mean()) if counted.any() else None
        return dict(zip(self.tags, (agreement, cosine), strict=True))


def gradients_of_halves(snapshot: Snapshot, num_columns: int) -> Tensor:
    """Returns the mean gradients of the even and the odd ones of the first columns, `[2, P]`."""
    if snapshot.coupling == "pairwise":
        snapshot = replace(snapshot, coefficients=_left_out_by_halves(snapshot))
    total, counts = (snapshot.coefficients.new_zeros(2, 1) for _ in range(2))
    for columns, chunk in chunks_in_use(snapshot, num_columns - num_columns % 2):
        odd = torch.arange(columns.start, columns.stop, device=chunk.device) % 2
        halves = torch.stack([1 - odd, odd]).to(chunk.dtype)
        total, counts = total + halves @ chunk, counts + halves.sum(dim=1, keepdim=True)
    return total / counts


def _left_out_by_halves(snapshot: Snapshot) -> Tensor:
    """Returns the coefficients `[F, N]` with leave-one-out among the columns of the same half."""
    factors, result = snapshot.factors, torch.zeros_like(snapshot.coefficients)
    assert factors.scale is not None
    for half in (slice(0, None, 2), slice(1, None, 2)):
        reference = score.leave_one_out(factors.signal[:, half], factors.mask[:, half])
        result[:, half] = score.coefficients(factors.signal[:, half], reference, factors.scale[:, half])
    return result
