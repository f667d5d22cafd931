"""Ctrl-C and SIGTERM: once ends the run at the next update, twice ends it now."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any, final


@final
class Interrupts:
    """Turns the first SIGINT or SIGTERM into a request that a loop can honour between two updates.

    `requested` says whether one came, `number` which; a second one raises KeyboardInterrupt on the spot.
    """

    def __init__(self) -> None:
        self.number: int | None = None
        self._previous: dict[int, Any] = {}

    @property
    def requested(self) -> bool:
        """Whether someone asked the run to end."""
        return self.number is not None

    def __enter__(self) -> Interrupts:
        # Only the main thread may install handlers; elsewhere the host program keeps its own.
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.number = number
