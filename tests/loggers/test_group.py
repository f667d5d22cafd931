"""A disk that fails while metrics are written ends the metrics and not the run."""

from __future__ import annotations

import errno
from collections.abc import Mapping

import pytest

from pgkit.loggers.group import LoggerGroup


class Memory:
    """A logger that fails from a given update on."""

    def __init__(self, fails_at: int | None = None, *, error: Exception | None = None) -> None:
        self.steps: list[int] = []
        self.closed = 0
        self._fails_at = fails_at
        self._error = error or OSError(errno.ENOSPC, "No space left on device")

    def write(self, metrics: Mapping[str, float | None], *, step: int) -> None:
        if self._fails_at is not None and step >= self._fails_at:
            raise self._error
        self.steps.append(step)

    def close(self) -> None:
        self.closed += 1
        if self._fails_at is not None:
            raise self._error  # what is buffered fails once more


def write_all(group: LoggerGroup, updates: int = 5) -> None:
    for step in range(updates):
        group.write({}, step=step)
    group.close()


def test_a_failing_logger_is_given_up_and_the_others_go_on() -> None:
    broken, sound, warnings = Memory(2), Memory(), []
    group = LoggerGroup([broken, sound], warn=warnings.append)
    write_all(group)
    assert broken.steps == [0, 1]
    assert sound.steps == [0, 1, 2, 3, 4]
    assert broken.closed == sound.closed == 1


def test_there_is_one_warning_however_many_loggers_fail() -> None:
    warnings: list[str] = []
    group = LoggerGroup([Memory(1), Memory(2)], warn=warnings.append)
    write_all(group)
    assert len(warnings) == 1
    assert "No space left on device" in warnings[0] and "incomplete" in warnings[0]


@pytest.mark.parametrize(("fails_at", "incomplete"), [(None, False), (3, True)])
def test_incomplete_is_said_exactly_when_something_is_missing(fails_at: int | None, incomplete: bool) -> None:
    group = LoggerGroup([Memory(fails_at)], warn=lambda text: None)
    write_all(group)
    assert group.incomplete is incomplete


def test_mistakes_that_are_not_the_disk_are_not_swallowed() -> None:
    group = LoggerGroup([Memory(0, error=ValueError("unknown tag"))], warn=lambda text: None)
    with pytest.raises(ValueError, match="unknown tag"):
        group.write({}, step=0)


def test_start_and_finish_reach_those_that_keep_them_and_pass_the_others_by() -> None:
    class Keeper(Memory):
        def __init__(self) -> None:
            super().__init__()
            self.seen: list[object] = []

        def start(self, config: Mapping[str, object], *, overridden: object = ()) -> None:
            self.seen += [config, overridden]

        def finish(self, results: Mapping[str, object], *, status: str) -> None:
            self.seen += [results, status]

    keeper = Keeper()
    group = LoggerGroup([Memory(), keeper], warn=lambda text: None)
    group.start({"seed": 1}, overridden=["seed"])
    group.finish({"return_mean_100": 1.0}, status="finished")
    assert keeper.seen == [{"seed": 1}, ["seed"], {"return_mean_100": 1.0}, "finished"]
