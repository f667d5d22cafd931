"""Worker processes of the asynchronous form: how they start, follow their parent, get lost and are ended."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from typing import Any

import gymnasium
from gymnasium.vector import AsyncVectorEnv

from pgkit.errors import UsageError
from pgkit.rl.registry import brief


def start_workers(makers: Sequence[Callable[[], gymnasium.Env[Any, Any]]]) -> AsyncVectorEnv[Any, Any]:
    """Returns a vector environment with one process a lane, never forked from this one.

    Forking a process that has torch's threads in it can deadlock; a fork server has none.

    Raises: UsageError naming `env.vectorization` where the processes do not come up.
    """
    method = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
    try:
        return AsyncVectorEnv(makers, copy=False, context=method)
    except (OSError, EOFError, RuntimeError) as error:
        raise UsageError(
            f"env.vectorization: async, whose workers do not start ({brief(error)}), expected sync, "
            'or a program behind if __name__ == "__main__"'
        ) from error


def follow_parent() -> None:
    """Ties this worker's life to its parent's: Ctrl-C is the parent's to handle, and its death is ours."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def leave() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=leave, name="parent-watch", daemon=True).start()


def lost_worker(vector: AsyncVectorEnv[Any, Any], error: Exception, timeout: float) -> tuple[int | None, str]:
    """Returns (lane, cause): which worker hangs, died or gave up, and how; lane None where none can be told."""
    pipes: list[Connection | None] = [*vector.parent_pipes]
    for lane, (process, pipe) in enumerate(zip(vector.processes, pipes, strict=True)):
        if pipe is None:  # it reported an exception of its own before it went
            return lane, brief(error)
        if isinstance(error, multiprocessing.TimeoutError):
            if not pipe.poll(0):
                return lane, f"no answer within {timeout:g} s (env.timeout)"
            continue
        process.join(0.2)
        if process.exitcode is not None:
            return lane, f"its worker ended with exit code {process.exitcode}"
    return None, brief(error)


def end_workers(vector: AsyncVectorEnv[Any, Any]) -> None:
    """Returns once every worker is gone; one that hangs or died would never answer a request to close."""
    for process in vector.processes:
        process.kill()
    for process in vector.processes:
        process.join()
    pipes: list[Connection | None] = [*vector.parent_pipes]
    for pipe in pipes:
        if pipe is not None:
            pipe.close()
    vector.closed = True
