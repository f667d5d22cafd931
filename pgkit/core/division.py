"""How processes that hold the same batch divide the gradients of its rows among themselves."""

from __future__ import annotations

from collections.abc import Callable
from typing import final

from torch import Tensor

ROWS, WORTH = 64, 2**26
"""Rows, and rows times parameters, from which a gradient is divided: below, messages cost what they save, or more.

A row costs some 6 operations a parameter. A message costs parts of a millisecond where processors are free, several
where they are taken, and grows with the parameters as well.
"""


@final
class Division:
    """A piece of the rows for each of `size` processes, and sums over all of them.

    Gradients are linear in the rows: that of a minibatch is the sum of those of its pieces, each with the denominators
    of the whole. `add` adds a tensor up over the processes in place, to the same bits in all of them.
    """

    def __init__(self, *, rank: int, size: int, add: Callable[[Tensor], None]) -> None:
        self._rank, self._size, self._add = rank, size, add

    def pays(self, rows: int, parameters: int) -> bool:
        """Returns whether a gradient of so many parameters over so many rows is divided; the same in all processes."""
        return rows >= ROWS and rows * parameters >= WORTH

    def piece(self, count: int) -> slice | None:
        """Returns which of so many things are this process's, neighbours; None where they are too few for all.

        Pieces differ by one thing at most.
        """
        if count < self._size:
            return None
        return slice(count * self._rank // self._size, count * (self._rank + 1) // self._size)

    def total(self, own: Tensor) -> Tensor:
        """Returns the sum of what the processes hand in, each a tensor of the same shape, which is overwritten.

        Shapes: any.
        """
        self._add(own)
        return own
