"""What a person sees while a run goes on: a bar on a terminal, plain lines anywhere else."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any, Protocol, TextIO, cast, final

from pgkit.run.output import Output

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID


@final
class Progress:
    """Shows steps, steps/s, outcome and gradient SNR; between two refreshes an update costs a look at the clock.

    `unit` is what counts as a step and `outcome` the name of what is watched. Steps per second are those since the view
    was entered. A reader who leaves (`| head -1`) does not end the run: what
    is printed afterwards goes nowhere.
    """

    def __init__(
        self,
        *,
        total: int,
        goal: float | None,
        unit: str = "steps",
        outcome: str = "return",
        stream: TextIO | None = None,
        now: Callable[[], float] = time.perf_counter,
    ) -> None:
        out = Output(sys.stdout if stream is None else stream)
        self._now = now
        words = Words(total=total, goal=goal, unit=unit, outcome=outcome)
        self._view: View = Bar(out, words) if out.isatty() else Lines(out, words)
        self._latest = State()
        self._start = self._due = now()
        self._shown = True

    def __enter__(self) -> Progress:
        self._start = self._due = self._now()
        self._view.open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._shown:
            self._refresh(self._now())
        self._view.close()

    def update(self, *, done: int, outcome: float | None, snr: float | None) -> None:
        """Takes in the state after an update; `snr` None keeps the last known one, as it is not measured every time."""
        latest = self._latest
        latest.done = done
        latest.outcome = outcome
        if snr is not None:
            latest.snr = snr
        self._shown = False
        now = self._now()
        if now >= self._due:
            self._refresh(now)

    def print(self, text: str) -> None:
        """Prints lines that stay, above the bar where there is one."""
        self._view.print(text)

    def _refresh(self, now: float) -> None:
        self._due = now + self._view.interval
        self._shown = True
        self._latest.seconds = now - self._start
        self._view.show(self._latest)


@dataclass(frozen=True, kw_only=True)
class Words:
    """What does not change while a run goes on: how many steps, up to which outcome, and what both are called."""

    total: int
    goal: float | None
    unit: str
    outcome: str


@final
class State:
    """The latest numbers of a run."""

    __slots__ = ("done", "outcome", "seconds", "snr")

    def __init__(self) -> None:
        self.done = 0
        self.outcome: float | None = None
        self.snr: float | None = None
        self.seconds = 0.0


class View(Protocol):
    """A way of showing a state, at most every `interval` seconds."""

    interval: float

    def open(self) -> None: ...

    def show(self, state: State) -> None: ...

    def print(self, text: str) -> None: ...

    def close(self) -> None: ...


@final
class Lines:
    """One line at the first update, then every five seconds, then the last."""

    interval = 5.0

    def __init__(self, out: Output, words: Words) -> None:
        self._out, self._words = out, words

    def open(self) -> None:
        """Nothing to prepare."""

    def show(self, state: State) -> None:
        """Prints one line."""
        words = self._words
        share = min(1.0, state.done / words.total)
        parts = (
            f"{share:4.0%} {state.done:>{len(f'{words.total:,}')},} of {words.total:,} {words.unit}",
            f"{_rate(state):>7} {words.unit}/s",
            f"{words.outcome} {_outcome(state, words.goal)}",
            f"SNR {snr_text(state.snr)}",
            f"{_duration(state.seconds)} elapsed",
        )
        self.print("  ".join(parts))

    def print(self, text: str) -> None:
        """Prints a line."""
        self._out.write(f"{text}\n")
        self._out.flush()

    def close(self) -> None:
        """Nothing to undo."""


@final
class Bar:
    """A bar that is redrawn at most ten times a second, by the run itself: no thread."""

    interval = 0.1

    def __init__(self, out: Output, words: Words) -> None:
        from rich import progress
        from rich.console import Console

        self._out, self._goal = out, words.goal
        self._bar: RichProgress = progress.Progress(
            progress.TaskProgressColumn(),
            progress.BarColumn(bar_width=None),
            progress.TextColumn(f"{{task.fields[rate]}} {words.unit}/s"),
            progress.TextColumn(f"{words.outcome} [bold]{{task.fields[outcome]}}[/bold]"),
            progress.TextColumn("SNR [bold]{task.fields[snr]}[/bold]"),
            progress.TextColumn("{task.fields[elapsed]} <"),
            progress.TimeRemainingColumn(compact=True),
            console=Console(file=cast(IO[str], out)),
            auto_refresh=False,
            expand=True,
        )
        self._task: TaskID = self._bar.add_task("run", total=words.total, **_fields(State(), words.goal))

    def open(self) -> None:
        """Draws the bar."""
        self._bar.start()

    def show(self, state: State) -> None:
        """Redraws the bar."""
        self._bar.update(self._task, completed=state.done, **_fields(state, self._goal))
        self._bar.refresh()

    def print(self, text: str) -> None:
        """Prints above the bar, unwrapped, so that commands can be copied."""
        self._bar.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def close(self) -> None:
        """Leaves the bar as it is and gives the terminal back."""
        self._bar.stop()


def snr_text(snr: float | None) -> str:
    """Returns a debiased signal-to-noise ratio as text: at or below 0 the batch could not tell signal from noise."""
    if snr is None:
        return "–"
    return f"{snr:.2f}" if snr > 0 else "unresolved"


def _fields(state: State, goal: float | None) -> dict[str, Any]:
    return {
        "rate": _rate(state),
        "outcome": _outcome(state, goal),
        "snr": snr_text(state.snr),
        "elapsed": _duration(state.seconds),
    }


def _rate(state: State) -> str:
    return f"{state.done / state.seconds:,.0f}" if state.seconds > 0 else "–"


def _outcome(state: State, goal: float | None) -> str:
    if state.outcome is None:
        shown = "–"
    else:  # a return needs one decimal, a distance to the answer its leading digits
        shown = f"{state.outcome:.1f}" if abs(state.outcome) >= 1 or state.outcome == 0 else f"{state.outcome:.2g}"
    return shown if goal is None else f"{shown} of {goal:g}"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}" if minutes >= 60 else f"{minutes}:{rest:02}"
