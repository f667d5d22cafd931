"""`summary.json`: the keys that others read, and values that JSON has."""

from __future__ import annotations

import json

from pgkit.run.record import Clock, EpisodeRecord
from pgkit.run.summary import build_summary

KEYS = {
    "status", "env_steps", "discarded_steps", "episodes", "updates", "wall_seconds", "train_cpu_seconds",
    "steps_per_second", "return_mean_100", "solved_at_steps", "solved_at_seconds", "solved_at_cpu_seconds", "eval",
    "gradient", "seed", "env", "agent", "versions", "metrics_incomplete", "reward_threshold",
}  # fmt: skip


def summary(clock: Clock, record: EpisodeRecord, **gradient: float | None) -> dict[str, object]:
    return build_summary(
        status="finished",
        env="CartPole-v1",
        agent="reinforce",
        seed=3,
        env_steps=1000,
        discarded_steps=4,
        updates=12,
        record=record,
        clock=clock,
        evaluation={"deterministic": {"mean": 500.0}},
        gradient=gradient,
        metrics_incomplete=False,
    )


def test_the_keys_are_exactly_these() -> None:
    assert summary(Clock(), EpisodeRecord(reward_threshold=None)).keys() == KEYS


def test_speed_is_environment_steps_over_the_clocks_wall_seconds() -> None:
    clock = Clock()
    clock.load_state_dict({"seconds": 4.0, "cpu_seconds": 3.0})
    result = summary(clock, EpisodeRecord(reward_threshold=None))
    assert (result["steps_per_second"], result["wall_seconds"], result["train_cpu_seconds"]) == (250.0, 4.0, 3.0)


def test_a_run_that_never_started_has_nulls_and_divides_by_nothing() -> None:
    result = summary(Clock(), EpisodeRecord(reward_threshold=475.0))
    assert (
        result["steps_per_second"] is None and result["return_mean_100"] is None and result["solved_at_steps"] is None
    )


def test_numbers_that_json_does_not_have_become_null() -> None:
    result = summary(Clock(), EpisodeRecord(reward_threshold=None), snr=float("nan"), norm=float("inf"), kept=1.5)
    assert result["gradient"] == {"snr": None, "norm": None, "kept": 1.5}
    json.dumps(result, allow_nan=False)


def test_versions_say_what_a_result_depends_on() -> None:
    versions = summary(Clock(), EpisodeRecord(reward_threshold=None))["versions"]
    assert isinstance(versions, dict)
    assert versions.keys() == {"pgkit", "torch", "gymnasium", "numpy", "python"}
