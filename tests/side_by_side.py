"""Processes of a run, played by threads."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from torch import Tensor

from pgkit.core.division import Division


def together(size: int, work: Callable[[Division], Any]) -> list[Any]:
    """Returns what each of `size` members makes of its division of the work; sums are in the order of the members."""
    barrier, offers = threading.Barrier(size, timeout=60), [[] for _ in range(size)]  # type: list[list[Tensor]]

    def member(rank: int) -> Any:
        def add(tensor: Tensor) -> None:
            offers[rank].append(tensor.clone())
            barrier.wait()
            number = len(offers[rank]) - 1
            tensor.copy_(sum(each[number] for each in offers))  # type: ignore[arg-type]  # never of nothing
            barrier.wait()

        try:
            return work(Division(rank=rank, size=size, add=add))
        except BaseException:
            barrier.abort()
            raise

    with ThreadPoolExecutor(size) as pool:
        return [each.result() for each in [pool.submit(member, rank) for rank in range(size)]]
