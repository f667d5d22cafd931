"""Keeps the garbage collector away from what start-up makes, none of which is garbage."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def loading() -> Iterator[None]:
    """Collects nothing until the exit, and leaves all that is there then out of the collector's rounds for good.

    Modules that are being loaded would be looked through again and again. Later, one full round through all that they
    hold takes as long as hundreds of small updates, at whatever moment it comes. New objects are collected as ever.
    A process whose owner set something aside already is left as it is.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if not gc.get_freeze_count():
            gc.freeze()
        if enabled:
            gc.enable()
