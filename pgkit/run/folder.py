"""The folder of one run: one command, one folder, one process."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, final

from pgkit.errors import UsageError

LOCK = "run.lock"


@final
class RunFolder:
    """Makes the folder of a run and keeps every other run out of it until it is closed.

    The kernel holds the lock and lets go of it when the process dies, whatever way; the file's text, process and host,
    is for people, and for hosts whose locks are not shared.

    Raises: UsageError where the folder cannot be written, holds a finished run, or belongs to a live one.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            path.mkdir(parents=True, exist_ok=True)
            self._lock = _lock(path / LOCK)
        except OSError as error:
            raise UsageError(
                f"hydra.run.dir: {path} ({error.strerror}), expected a folder that can be written"
            ) from None
        if self.summary.exists():
            self.close()
            raise UsageError(
                f"hydra.run.dir: {path} holds a finished run, expected a folder without {self.summary.name}"
            )

    @property
    def summary(self) -> Path:
        """Where the result of the run goes."""
        return self.path / "summary.json"

    @property
    def metrics(self) -> Path:
        """Where the CSV logger writes."""
        return self.path / "metrics.csv"

    @property
    def checkpoints(self) -> Path:
        """Where `last/` lies."""
        return self.path / "checkpoints"

    def close(self) -> None:
        """Lets others in; closing twice is harmless."""
        if self._lock >= 0:
            # The name goes first: whoever opened it before finds that it holds a file without a name, and tries again.
            with contextlib.suppress(FileNotFoundError):
                (self.path / LOCK).unlink()
            fcntl.flock(self._lock, fcntl.LOCK_UN)
            os.close(self._lock)
            self._lock = -1

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Writes strict JSON so that the file is, at every moment, the old one or the new one."""
    write_bytes(path, (json.dumps(content, indent=2, allow_nan=False, ensure_ascii=False) + "\n").encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Writes a file under a temporary name, to the disk, then renames it; nothing is left behind on failure."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _lock(path: Path) -> int:
    """Returns the descriptor of a lock file that this process holds."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = _owner(descriptor)
            os.close(descriptor)
            raise UsageError(_taken(path, owner)) from None
        if path.exists() and os.path.samestat(os.fstat(descriptor), path.stat()):
            break
        os.close(descriptor)
    owner = _owner(descriptor)
    if owner.get("host", socket.gethostname()) != socket.gethostname():
        os.close(descriptor)
        raise UsageError(f"{_taken(path, owner)}; if that run is dead, remove {path}")
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, json.dumps({"pid": os.getpid(), "host": socket.gethostname()}).encode(), 0)
    return descriptor


def _owner(descriptor: int) -> dict[str, Any]:
    try:
        owner = json.loads(os.pread(descriptor, 4096, 0))
    except ValueError:
        return {}
    return owner if isinstance(owner, dict) else {}


def _taken(path: Path, owner: Mapping[str, Any]) -> str:
    who = f"process {owner.get('pid', 'unknown')} on host {owner.get('host', 'unknown')}"
    return f"hydra.run.dir: {path.parent} is in use by {who}, expected a folder of its own"
