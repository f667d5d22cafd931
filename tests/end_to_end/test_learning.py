"""That a run learns, ends when it should, and leaves the process as it found it."""

from __future__ import annotations

import gc
import os
import threading
from pathlib import Path

import pytest
import torch

from tests.end_to_end.runs import gym, train, train_briefly


def test_cartpole_is_solved_with_the_defaults(tmp_path: Path) -> None:
    run = train(tmp_path, "env=CartPole", "stop_when_solved=true", "evaluation.episodes=8")
    summary = run.summary
    assert summary["return_mean_100"] >= 475
    # Stopped at the batch that solved it.
    assert summary["solved_at_steps"] == summary["env_steps"] < 100_000
    assert summary["solved_at_seconds"] <= summary["wall_seconds"]
    assert summary["solved_at_cpu_seconds"] <= summary["train_cpu_seconds"]
    assert summary["eval"]["deterministic"]["mean"] > 400
    assert max(float(line["return/mean_100"]) for line in run.metrics[:-1]) < 475


@pytest.mark.parametrize("agent", ["ppo", "vtrace", "off_policy_reinforce"])
def test_cartpole_is_solved_by_other_agents(tmp_path: Path, agent: str) -> None:
    overrides = ("env=CartPole", f"agent={agent}", "total_steps=150_000", "stop_when_solved=true", "seed=1")
    run = train(tmp_path, *overrides, "evaluation.episodes=0", "diagnostics=none")
    assert run.summary["return_mean_100"] >= 475


def test_a_run_that_does_not_stop_when_solved_goes_to_its_end() -> None:
    _, journal = train_briefly("env=gym", "env.id=tests.rl.envs:Limited-v0", "total_steps=1000")
    assert journal.record.solved and journal.record.solved_at_steps == 13 * 8 * 4  # 100 episodes are in 13 batches of 8
    assert journal.env_steps >= 1000
    _, stopped = train_briefly(
        "env=gym", "env.id=tests.rl.envs:Limited-v0", "total_steps=1000", "stop_when_solved=true"
    )
    assert stopped.env_steps == journal.record.solved_at_steps


@pytest.mark.parametrize(
    ("overrides", "batch"),
    [(gym("Constant"), 8 * 5), ((*gym("Constant"), "collect=steps", "collect.steps=10", "returns.cut=zero"), 8 * 10)],
    ids=["episodes", "steps"],
)
def test_the_run_ends_with_the_batch_that_reaches_its_steps(overrides: tuple[str, ...], batch: int) -> None:
    _, journal = train_briefly(*overrides, "total_steps=201")
    assert 201 <= journal.env_steps < 201 + batch
    _, exact = train_briefly(*gym("Constant"), "total_steps=200")
    assert exact.env_steps == 200


def test_a_linear_schedule_ends_near_nothing(tmp_path: Path) -> None:
    rates = [
        float(line["update/learning_rate"])
        for line in train(
            tmp_path, *gym("Constant"), "total_steps=400", "update.schedule=linear", "evaluation.episodes=0"
        ).metrics
    ]
    assert rates == pytest.approx([0.01 * (1 - step / 10) for step in range(1, 11)])


def test_runs_leave_no_file_open_no_thread_and_no_setting_behind(tmp_path: Path) -> None:
    def run(number: int, vectorization: str) -> tuple[int, int, int]:
        overrides = ("total_steps=100", "evaluation.episodes=4", f"env.vectorization={vectorization}", "env.num_envs=2")
        train(tmp_path / f"{vectorization}{number}", *overrides, "collect.episodes=2")
        gc.collect()
        return len(os.listdir("/proc/self/fd")), threading.active_count(), len(os.listdir("/proc/self/task"))

    dtype, state = torch.get_default_dtype(), torch.get_rng_state()
    for vectorization in ("sync", "async"):
        first = run(0, vectorization)
        assert [run(number, vectorization) for number in (1, 2, 3)] == [first] * 3
    assert torch.get_default_dtype() == dtype and torch.equal(torch.get_rng_state(), state)


def _shares(folder: Path, *overrides: str) -> list[float]:
    """Returns what the bound left of the natural steps of a short run, one number an update."""
    run = train(folder, "env=CartPole", "agent=npg", "total_steps=1500", "evaluation.episodes=0", *overrides)
    return [float(line["update/step_share"]) for line in run.metrics if line["update/step_share"]]


def test_natural_steps_are_as_long_as_their_quadratic_model_says(tmp_path: Path) -> None:
    """With little damping they run along flat directions until the divergence is no longer quadratic."""
    assert min(_shares(tmp_path / "default")) > 0.5
    assert max(_shares(tmp_path / "little", "update.damping=1e-6")) < 0.5
