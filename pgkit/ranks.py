"""How many processes share a run, and which of them this one is, as `torchrun` says it; no torch is needed to know."""

from __future__ import annotations

import os
from collections.abc import Mapping

from pgkit.errors import UsageError

PLACE = ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
"""What `torchrun` tells each process beside their number."""


def num_processes(environ: Mapping[str, str] = os.environ) -> int:
    """Returns the number of processes that share a run, 1 where nobody says anything.

    Raises: UsageError for a number without a place to meet.
    """
    said = environ.get("WORLD_SIZE", "1")
    if said in ("", "1"):
        return 1
    if missing := [name for name in PLACE if not environ.get(name)]:
        raise UsageError(f"WORLD_SIZE: {said} without {', '.join(missing)}, expected processes that torchrun started")
    if not said.isdigit() or not int(environ["RANK"]) < int(said):
        raise UsageError(f"WORLD_SIZE: {said} for RANK={environ['RANK']}, expected a number above it")
    return int(said)


def rank(environ: Mapping[str, str] = os.environ) -> int:
    """Returns the number of this process, from 0; the first one owns the run folder and speaks."""
    return int(environ["RANK"]) if num_processes(environ) > 1 else 0
