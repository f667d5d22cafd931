"""Finished episodes, the moment of solving, and seconds that count."""

from __future__ import annotations

import json
import multiprocessing
import time

import pytest

from pgkit.run.record import Clock, EpisodeRecord


def filled(returns: list[float], *, threshold: float | None = 475.0, batch: int = 10) -> EpisodeRecord:
    record = EpisodeRecord(reward_threshold=threshold)
    for start in range(0, len(returns), batch):
        part = returns[start : start + batch]
        record.add(part, [5] * len(part), env_steps=start + len(part), clock=Clock())
    return record


def test_the_mean_is_that_of_the_last_hundred_raw_returns() -> None:
    record = filled([0.0] * 50 + [1.0] * 60 + [3.0] * 40)
    assert record.return_mean_100 == (60 * 1.0 + 40 * 3.0) / 100
    assert record.length_mean_100 == 5
    assert (record.episodes, record.total_length) == (150, 750)


def test_without_a_finished_episode_the_mean_is_unknown() -> None:
    assert EpisodeRecord(reward_threshold=1.0).return_mean_100 is None


def test_ninety_nine_perfect_episodes_solve_nothing() -> None:
    assert not filled([500.0] * 99).solved
    assert filled([500.0] * 100).solved_at_steps == 100


def test_reaching_the_threshold_exactly_is_enough() -> None:
    assert filled([475.0] * 100).solved
    assert not filled([474.9] * 100).solved


def test_the_first_time_counts_and_later_failures_do_not_undo_it() -> None:
    record = filled([500.0] * 120 + [0.0] * 200)
    assert record.solved_at_steps == 100
    assert record.return_mean_100 == 0.0


def test_a_mean_that_touches_the_threshold_inside_a_batch_counts() -> None:
    assert filled([500.0] * 100 + [0.0] * 100, batch=200).solved_at_steps == 200


def test_without_a_threshold_nothing_is_ever_solved() -> None:
    assert not filled([1e9] * 200, threshold=None).solved


def test_solving_takes_its_seconds_from_the_clock() -> None:
    record, clock = EpisodeRecord(reward_threshold=1.0), Clock()
    clock.load_state_dict({"seconds": 12.5, "cpu_seconds": 7.25})
    record.add([1.0] * 100, [1] * 100, env_steps=100, clock=clock)
    assert (record.solved_at_seconds, record.solved_at_cpu_seconds) == (12.5, 7.25)


def test_a_restored_record_goes_on_as_the_saved_one() -> None:
    record = filled([float(i) for i in range(130)], threshold=1000.0)
    restored = EpisodeRecord(reward_threshold=1000.0)
    restored.load_state_dict(json.loads(json.dumps(record.state_dict())))
    for each in (record, restored):
        each.add([7.0], [3], env_steps=999, clock=Clock())
    assert restored.state_dict() == record.state_dict()
    assert restored.return_mean_100 == record.return_mean_100


def test_a_clock_stands_still_until_it_is_started() -> None:
    clock = Clock()
    time.sleep(0.01)
    assert (clock.seconds, clock.cpu_seconds) == (0.0, 0.0)


def test_excluded_time_does_not_count_and_the_clock_runs_on_after_it() -> None:
    clock = Clock()
    clock.start()
    time.sleep(0.02)
    with clock.excluded():
        frozen = clock.seconds
        time.sleep(0.05)
        assert clock.seconds == frozen
    assert frozen <= clock.seconds < frozen + 0.045
    time.sleep(0.01)
    assert clock.seconds >= frozen + 0.01


def test_excluding_does_not_start_a_clock_that_stood_still() -> None:
    clock = Clock()
    with clock.excluded():
        pass
    time.sleep(0.01)
    assert clock.seconds == 0.0


def test_a_jump_of_the_wall_clock_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    clock.start()
    monkeypatch.setattr(time, "time", lambda: 0.0)
    assert 0.0 <= clock.seconds < 1.0


def burn(seconds: float, done: object, leave: object) -> None:
    until = time.process_time() + seconds
    while time.process_time() < until:
        sum(range(10_000))
    done.set()  # type: ignore[attr-defined]
    leave.wait()  # type: ignore[attr-defined]


def test_workers_count_while_they_live_and_once_after_they_ended() -> None:
    context = multiprocessing.get_context("fork")
    done, leave = context.Event(), context.Event()
    clock = Clock()
    clock.start()
    worker = context.Process(target=burn, args=(0.3, done, leave))
    worker.start()
    done.wait()
    alive = clock.cpu_seconds
    leave.set()
    worker.join()
    assert 0.25 < alive < 0.6
    assert alive - 0.05 < clock.cpu_seconds < 0.65
