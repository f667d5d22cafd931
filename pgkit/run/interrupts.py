"""Ctrl-C and SIGTERM: once ends the run at the next update, twice ends it now."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any, Protocol, final


class Ending(Protocol):
    """Whether a run was asked to end."""

    @property
    def requested(self) -> bool:
        """Whether someone asked."""


@final
class Interrupts:
    """Turns the first SIGINT or SIGTERM into a request that a loop can honour between two updates.

    `requested` says whether one came, `number` which; a second one raises KeyboardInterrupt on the spot. With
    `patient` it has to be of the same kind: `torchrun` follows up a Ctrl-C, which all processes hear, with SIGTERM. It
    sends that too once one process failed: another that fails as well then has the time to say why.
    """

    def __init__(self, *, patient: bool = False) -> None:
        self._patient = patient
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
        failed = isinstance(error, Exception)
        for number, handler in self._previous.items():
            ending = self._patient and failed and number == signal.SIGTERM
            signal.signal(number, signal.SIG_IGN if ending else handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested and (number == self.number or not self._patient):
            raise KeyboardInterrupt
        self.number = number if self.number is None else self.number
