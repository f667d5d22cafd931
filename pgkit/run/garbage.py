"""Keeps the garbage collector away from what start-up makes, none of which is garbage."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count

_entered = count()


@contextmanager
def start_set_aside() -> Iterator[None]:
    """Leaves everything that exists on entry out of the collector's rounds until the exit.

    One full round through all that the loaded modules hold takes as long as hundreds of small updates, at whatever
    moment it comes. New objects are collected as ever, and what an earlier run of this process left is gone before.
    """
    if next(_entered):
        gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


@contextmanager
def collection_paused() -> Iterator[None]:
    """Collects nothing until the exit: modules that are being loaded would be looked through again and again."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
