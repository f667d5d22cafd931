"""What a person sees while a run goes on."""

from __future__ import annotations

import io
import sys
import threading

import pytest

from pgkit.run.progress import Progress, snr_text


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


class Time:
    """A clock that moves when it is told to."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


def shown(updates: int, *, every: float, stream: io.StringIO, snr: float | None = 0.5) -> str:
    now = Time()
    with Progress(total=1000, goal=475.0, stream=stream, now=now) as progress:
        for update in range(1, updates + 1):
            now.seconds += every
            progress.update(done=10 * update, outcome=2.0 * update, snr=snr)
    return stream.getvalue()


def test_plain_lines_are_the_first_one_every_five_seconds_and_the_last() -> None:
    lines = shown(100, every=0.12, stream=io.StringIO()).splitlines()
    assert [line.split()[1] for line in lines] == ["10", "430", "850", "1,000"]


def test_a_plain_line_says_share_speed_return_goal_and_noise() -> None:
    (line,) = shown(1, every=2.0, stream=io.StringIO()).splitlines()
    for part in ("  1%", "10 of 1,000 steps", "5 steps/s", "return 2.0 of 475", "SNR 0.50", "0:02 elapsed"):
        assert part in line


def test_plain_output_has_no_control_characters() -> None:
    assert all(letter.isprintable() or letter == "\n" for letter in shown(50, every=1.0, stream=io.StringIO()))


def test_the_last_state_is_shown_once() -> None:
    assert len(shown(1, every=1.0, stream=io.StringIO()).splitlines()) == 1


@pytest.mark.parametrize(
    ("snr", "text"), [(None, "–"), (-0.3, "unresolved"), (0.0, "unresolved"), (0.04, "0.04"), (12.0, "12.00")]
)
def test_noise_is_named_for_what_it_is(snr: float | None, text: str) -> None:
    assert snr_text(snr) == text
    assert f"SNR {text}" in shown(1, every=1.0, stream=io.StringIO(), snr=snr)


def test_a_ratio_that_is_not_measured_every_time_stays() -> None:
    stream, now = io.StringIO(), Time()
    with Progress(total=10, goal=None, stream=stream, now=now) as progress:
        progress.update(done=1, outcome=None, snr=0.25)
        now.seconds = 6.0
        progress.update(done=2, outcome=None, snr=None)
    assert stream.getvalue().splitlines()[1].count("SNR 0.25") == 1


def test_a_terminal_gets_a_bar_with_the_same_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("TERM", "xterm")
    text = shown(40, every=0.5, stream=Terminal())
    for part in ("40%", "20 steps/s", "80.0 of 475", "0.50", "0:20"):
        assert part in text


def redraws(updates: int, every: float) -> int:
    return shown(updates, every=every, stream=Terminal()).count("steps/s")


def test_a_bar_is_redrawn_at_most_ten_times_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    assert 95 <= redraws(10_000, 0.001) <= 105


def test_nothing_runs_beside_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    before = set(threading.enumerate())
    with Progress(total=10, goal=None, stream=Terminal()) as progress:
        progress.update(done=1, outcome=None, snr=None)
        assert set(threading.enumerate()) == before


@pytest.mark.parametrize("stream", [io.StringIO, Terminal])
def test_what_is_printed_stays_whole(stream: type[io.StringIO]) -> None:
    out, command = stream(), "python -m pgkit.dashboard " + "a" * 300 + " [bold]"
    with Progress(total=10, goal=None, stream=out) as progress:
        progress.print(command)
    assert command in out.getvalue()


def test_letters_that_the_stream_does_not_have_end_nothing() -> None:
    out = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    with Progress(total=10, goal=None, stream=out) as progress:
        progress.update(done=1, outcome=None, snr=None)
    assert b"SNR ?" in out.buffer.getvalue()  # type: ignore[attr-defined]


@pytest.mark.parametrize("stream", [io.StringIO, Terminal])
def test_leaving_by_an_error_gives_the_terminal_back(stream: type[io.StringIO]) -> None:
    before = sys.stdout
    out = stream()
    with pytest.raises(KeyboardInterrupt), Progress(total=10, goal=None, stream=out) as progress:
        progress.update(done=4, outcome=1.0, snr=None)
        raise KeyboardInterrupt
    assert sys.stdout is before
    assert out.getvalue().count("\x1b[?25l") == out.getvalue().count("\x1b[?25h")
