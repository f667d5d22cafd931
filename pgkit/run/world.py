"""The processes that share one run: started by `torchrun`, each with lanes of its own."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from datetime import timedelta
from types import TracebackType
from typing import Any, final

import torch
from torch import Tensor, distributed
from torch.distributed.rendezvous import rendezvous

from pgkit.core.division import Division
from pgkit.errors import RunFault, UsageError
from pgkit.ranks import num_processes, rank
from pgkit.run.interrupts import Ending

MEETING = timedelta(minutes=2)
"""How long a process waits for the others to appear."""


@final
class World:
    """The processes of a run: this one's number `rank` among `size`; alone, both cost nothing.

    Messages go by the host (gloo); sums of what lies on GPUs by NCCL, where every process has a GPU of its own.
    `requested` says whether any process had been asked to end when all last met, so that all end at the same update.

    Raises: UsageError where the environment names several processes and no place where they meet.
    """

    def __init__(self, environ: Mapping[str, str] = os.environ, *, device: str = "cpu") -> None:
        self.size, self.rank = num_processes(environ), rank(environ)
        self.local_rank = int(environ["LOCAL_RANK"]) if self.size > 1 else 0
        self._backend = backend_for(device, int(environ.get("LOCAL_WORLD_SIZE", self.size)))
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

    def agree(self, wanted: Mapping[str, Any]) -> None:
        """Looks whether all processes were asked for the same; every one of them has to call.

        Raises: UsageError for the first key that differs.
        """
        asked = self.gather(dict(wanted)) if self.size > 1 else []
        for place, other in enumerate(asked):
            for key in {**asked[0], **other}:
                if other.get(key) != asked[0].get(key):
                    said = f"{other.get(key)!r} in process {place} and {asked[0].get(key)!r} in process 0"
                    raise UsageError(f"{key}: {said}, expected one command line for all")

    def __enter__(self) -> World:
        if self.size > 1:
            if torch.cuda.is_available():
                # Parameters must stay the same everywhere, and sums in no fixed order would let them drift apart.
                torch.use_deterministic_algorithms(True, warn_only=True)
            self._meet()
        return self

    def _meet(self) -> None:
        """Joins the others.

        Raises: UsageError for processes that do not appear, or count each other differently.
        """
        place = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
        try:
            store, *_ = next(rendezvous("env://", timeout=MEETING))
            store.set(f"size/{self.rank}", str(self.size))
            sizes = [int(store.get(f"size/{number}")) for number in range(self.size)]
        except (RuntimeError, ValueError) as error:
            raise UsageError(
                f"WORLD_SIZE: {self.size} processes, and not all came to {place} within {MEETING.seconds} s, "
                "expected all to be started by torchrun"
            ) from error
        if sizes != [self.size] * self.size:
            raise UsageError(f"WORLD_SIZE: {self.size} here and {max(sizes)} elsewhere, expected one number for all")
        distributed.init_process_group(self._backend, store=store, rank=self.rank, world_size=self.size)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.size > 1:
            distributed.destroy_process_group()


def backend_for(device: str, processes: int) -> str:
    """Returns how so many processes of one machine exchange tensors, as torch spells it.

    What lies on the host goes by gloo. What lies on GPUs goes by NCCL where each process has one, else by the host.
    """
    present = torch.cuda.device_count() if torch.cuda.is_available() else 0
    own = device in ("auto", "cuda") and present >= processes
    return "cpu:gloo,cuda:nccl" if own and present and distributed.is_nccl_available() else "gloo"


def _gone(error: Exception) -> RunFault:
    # Gloo begins with a place in its own source, and goes on with advice.
    said = re.sub(r"^\[\S+\.cc:\d+\] ", "", str(error).splitlines()[0]).partition(". ")[0]
    return RunFault(f"torchrun: another process of this run is gone ({said})")
