"""One signal asks a run to end, two end it, and a launcher's do not cut off what a failed run has to say."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from pgkit.run.interrupts import Interrupts

pytestmark = pytest.mark.exact


def send(number: int) -> None:
    os.kill(os.getpid(), number)


@pytest.fixture(autouse=True)
def heard() -> Iterator[list[int]]:
    """What comes through to the handlers of the host program, which are there again afterwards."""
    found: list[int] = []
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, lambda number, frame: found.append(number)) for number in numbers]
    yield found
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_one_signal_is_a_request_and_a_second_one_the_end(number: int, heard: list[int]) -> None:
    with pytest.raises(KeyboardInterrupt), Interrupts() as interrupts:
        assert not interrupts.requested
        send(number)
        assert interrupts.requested and interrupts.number == number
        send(number)
    send(number)
    assert heard == [number]


@pytest.mark.parametrize("patient", [True, False])
def test_a_launcher_that_follows_up_ends_only_who_is_alone(patient: bool) -> None:
    raised = False
    with Interrupts(patient=patient) as interrupts:
        send(signal.SIGINT)
        try:
            send(signal.SIGTERM)
        except KeyboardInterrupt:
            raised = True
    assert raised != patient and interrupts.number == signal.SIGINT


@pytest.mark.parametrize("patient", [True, False])
def test_a_process_that_failed_beside_others_has_the_time_to_say_why(patient: bool, heard: list[int]) -> None:
    with pytest.raises(ValueError, match="gone"), Interrupts(patient=patient):
        raise ValueError("another process is gone")
    send(signal.SIGTERM)
    assert heard == ([] if patient else [signal.SIGTERM])


def test_one_that_did_not_fail_hears_the_launcher(heard: list[int]) -> None:
    with Interrupts(patient=True):
        pass
    send(signal.SIGTERM)
    assert heard == [signal.SIGTERM]
