"""The processes that share one run: started by `torchrun`, each with lanes of its own."""

from __future__ import annotations

import os
from collections.abc import Mapping
from types import TracebackType
from typing import Any, final

import torch
from torch import Tensor, distributed

from pgkit.core.division import Division
from pgkit.errors import RunFault, UsageError
from pgkit.ranks import num_processes, rank
from pgkit.run.interrupts import Ending


@final
class World:
    """The processes of a run: this one's number `rank` among `size`; alone, both cost nothing.

    Messages go by the host (gloo), whatever the device. `requested` says whether any process had been asked to end when
    all last met, so that all end at the same update.

    Raises: UsageError where the environment names several processes and no place where they meet.
    """

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        self.size, self.rank = num_processes(environ), rank(environ)
        self.local_rank = int(environ["LOCAL_RANK"]) if self.size > 1 else 0
        self.requested = False
        self._ending: Ending | None = None

    @property
    def leads(self) -> bool:
        """Whether this process owns the run folder and speaks."""
        return self.rank == 0

    def share(self, key: str, whole: int) -> int:
        """Returns this process's part of a number that all of them divide.

        Raises: UsageError for one that cannot be divided.
        """
        if whole % self.size:
            raise UsageError(f"{key}: {whole} over {self.size} processes, expected a multiple of {self.size}")
        return whole // self.size

    def watch(self, ending: Ending) -> None:
        """Tells the others from now on when this process is asked to end."""
        self._ending = ending

    def gather(self, message: Any) -> list[Any]:
        """Returns the messages of all processes in their order; every one of them has to call.

        Raises: RunFault where one of them is gone.
        """
        found: list[Any] = [None] * self.size
        asked = self._ending is not None and self._ending.requested
        try:
            distributed.all_gather_object(found, (asked, message))
        except (RuntimeError, ValueError) as error:
            raise _gone(error) from error
        self.requested = any(asked for asked, _ in found)
        return [message for _, message in found]

    def add(self, tensor: Tensor) -> None:
        """Adds a tensor up over all processes, in place; every one of them has to call, with one of the same shape.

        Raises: RunFault where one of them is gone.
        """
        try:
            distributed.all_reduce(tensor)
        except (RuntimeError, ValueError) as error:
            raise _gone(error) from error

    @property
    def division(self) -> Division:
        """How these processes divide gradients."""
        return Division(rank=self.rank, size=self.size, add=self.add)

    def __enter__(self) -> World:
        if self.size > 1:
            if torch.cuda.is_available():
                # Parameters must stay the same everywhere, and sums in no fixed order would let them drift apart.
                torch.use_deterministic_algorithms(True, warn_only=True)
            distributed.init_process_group("gloo")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.size > 1:
            distributed.destroy_process_group()


def _gone(error: Exception) -> RunFault:
    return RunFault(f"torchrun: another process of this run is gone ({str(error).splitlines()[0]})")
