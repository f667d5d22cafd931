"""What a run has seen so far: finished episodes, and the time it took."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import resource
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, final


@final
class Clock:
    """A stopwatch for wall and processor seconds; what happens while it is stopped does not count.

    Processor seconds are those of this process, of its children that have ended and of its live workers; the live
    ones are read from `/proc`, so that elsewhere they count once they have ended. Read it before workers are closed.
    """

    def __init__(self) -> None:
        self._wall = 0.0
        self._cpu = 0.0
        self._since: tuple[float, float] | None = None

    def start(self) -> None:
        """Starts or goes on; a running clock runs on."""
        if self._since is None:
            self._since = (time.perf_counter(), _cpu_seconds())

    def stop(self) -> None:
        """Stops; a stopped clock stays so."""
        if self._since is not None:
            self._wall, self._cpu = self.seconds, self.cpu_seconds
            self._since = None

    @contextlib.contextmanager
    def excluded(self) -> Iterator[None]:
        """Leaves out what happens inside, where the clock was running."""
        running = self._since is not None
        self.stop()
        try:
            yield
        finally:
            if running:
                self.start()

    @property
    def seconds(self) -> float:
        """Wall seconds counted so far, by a clock that never jumps."""
        return self._wall + (time.perf_counter() - self._since[0] if self._since else 0.0)

    @property
    def cpu_seconds(self) -> float:
        """Processor seconds counted so far, workers included."""
        return self._cpu + (_cpu_seconds() - self._since[1] if self._since else 0.0)

    def state_dict(self) -> dict[str, float]:
        """Returns the seconds counted so far."""
        return {"seconds": self.seconds, "cpu_seconds": self.cpu_seconds}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """Puts the seconds back; the clock stands still afterwards."""
        self._wall, self._cpu, self._since = state["seconds"], state["cpu_seconds"], None


@final
class EpisodeRecord:
    """The finished training episodes of a run: raw returns, lengths, and when the task was solved.

    Solved means that the mean return of the last 100 episodes reached the environment's reward threshold, with 100
    of them finished; the moment is that of the batch in which it happened.
    """

    WINDOW = 100

    def __init__(self, *, reward_threshold: float | None) -> None:
        self.reward_threshold = reward_threshold
        self.episodes = 0
        self.total_length = 0
        self.solved_at_steps: int | None = None
        self.solved_at_seconds: float | None = None
        self.solved_at_cpu_seconds: float | None = None
        self._returns: deque[float] = deque(maxlen=self.WINDOW)
        self._lengths: deque[int] = deque(maxlen=self.WINDOW)

    def add(self, returns: Sequence[float], lengths: Sequence[int], *, env_steps: int, clock: Clock) -> None:
        """Takes in the episodes that a batch finished, in the order they ended; `env_steps` is the run's total."""
        for episode_return, length in zip(returns, lengths, strict=True):
            self._returns.append(float(episode_return))
            self._lengths.append(int(length))
            self.episodes += 1
            self.total_length += int(length)
            if not self.solved and self._reached():
                self.solved_at_steps = env_steps
                self.solved_at_seconds = clock.seconds
                self.solved_at_cpu_seconds = clock.cpu_seconds

    @property
    def solved(self) -> bool:
        """Whether the threshold was ever reached."""
        return self.solved_at_steps is not None

    @property
    def return_mean_100(self) -> float | None:
        """Mean raw return of the last 100 finished episodes, of all of them while there are fewer; None without any."""
        return sum(self._returns) / len(self._returns) if self._returns else None

    @property
    def length_mean_100(self) -> float | None:
        """Mean length of the same episodes, in steps."""
        return sum(self._lengths) / len(self._lengths) if self._lengths else None

    def state_dict(self) -> dict[str, Any]:
        """Returns everything but the threshold, in plain numbers."""
        return {
            "episodes": self.episodes,
            "total_length": self.total_length,
            "solved_at_steps": self.solved_at_steps,
            "solved_at_seconds": self.solved_at_seconds,
            "solved_at_cpu_seconds": self.solved_at_cpu_seconds,
            "returns": list(self._returns),
            "lengths": list(self._lengths),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Puts everything but the threshold back."""
        self.episodes = state["episodes"]
        self.total_length = state["total_length"]
        self.solved_at_steps = state["solved_at_steps"]
        self.solved_at_seconds = state["solved_at_seconds"]
        self.solved_at_cpu_seconds = state["solved_at_cpu_seconds"]
        self._returns = deque(state["returns"], maxlen=self.WINDOW)
        self._lengths = deque(state["lengths"], maxlen=self.WINDOW)

    def _reached(self) -> bool:
        full = len(self._returns) == self.WINDOW
        return full and self.reward_threshold is not None and sum(self._returns) / self.WINDOW >= self.reward_threshold


def _cpu_seconds() -> float:
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    live = sum(_worker_seconds(child.pid) for child in multiprocessing.active_children() if child.pid is not None)
    return time.process_time() + ended.ru_utime + ended.ru_stime + live


def _worker_seconds(pid: int) -> float:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return 0.0
    # The second field is the command in brackets and may hold anything; user and system ticks are fields 14 and 15.
    user, system = stat.rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")
