"""A standard output that may lose its reader."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import TextIO, final


@final
class Output:
    """A text stream that outlives its reader: after the first failure it, and its descriptor, lead nowhere."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._broken = False
        self.encoding = getattr(stream, "encoding", None) or "utf-8"

    def write(self, text: str) -> int:
        """Writes, replacing what the stream's encoding does not have."""
        if not self._broken:
            with self._tolerant():
                self._stream.write(text.encode(self.encoding, "replace").decode(self.encoding))
        return len(text)

    def flush(self) -> None:
        """Hands everything to the reader, if there is one."""
        if not self._broken:
            with self._tolerant():
                self._stream.flush()

    def isatty(self) -> bool:
        """Whether a person looks at it."""
        return not self._stream.closed and self._stream.isatty()

    def fileno(self) -> int:
        """Returns the stream's descriptor."""
        return self._stream.fileno()

    @contextlib.contextmanager
    def _tolerant(self) -> Iterator[None]:
        try:
            yield
        except OSError:
            self._broken = True
            with contextlib.suppress(OSError), open(os.devnull, "w", encoding="utf-8") as nowhere:
                # Whatever else prints, and the interpreter's last flush, would fail on the same descriptor.
                os.dup2(nowhere.fileno(), self._stream.fileno())
