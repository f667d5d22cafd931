"""Runs that someone ends, that an environment breaks or that nobody reads: said in one line, with all there is kept."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import pgkit
from pgkit.errors import EnvironmentFault, RunFault
from pgkit.run.folder import LOCK
from tests.end_to_end.runs import events_of, gym, metrics_of, train, train_briefly
from tests.faults.command import ROOT, run
from tests.faults.test_workers import alive

SLAB = ("collect=steps", "returns.cut=zero", "baseline=zero", "env.num_envs=2", "evaluation.episodes=0")


def faulty(fault: str, *, at: int) -> tuple[str, ...]:
    """Returns the overrides of an environment that breaks at a step."""
    return ("env=gym", "env.id=tests.rl.envs:Faulty-v0", f"env.kwargs={{fault:{fault},at:{at}}}", *SLAB)


def summary_of(folder: Path) -> dict[str, Any]:
    result: dict[str, Any] = json.loads((folder / "summary.json").read_text())
    return result


def expect_whole(folder: Path, status: str) -> None:
    """Asserts that everything that belongs to an ended run is there, agrees and can be read."""
    summary, lines = summary_of(folder), metrics_of(folder)
    assert summary["status"] == status
    assert summary["updates"] == len(lines)
    # The counters of the last batch may be ahead of the last line, where it was not learnt from.
    assert summary["env_steps"] >= int(lines[-1]["env_steps"])
    points = events_of(folder).Scalars("gradient/norm")
    assert [point.step for point in points] == [int(line["env_steps"]) for line in lines]
    policy = pgkit.load_policy(folder)
    assert all(torch.isfinite(parameter).all() for parameter in policy.parameters())
    names = {path.name for path in folder.rglob("*")}
    assert LOCK not in names and not {name for name in names if name.startswith(".") and name != ".hydra"}


def launch(*overrides: str, cwd: Path) -> subprocess.Popen[str]:
    """Returns a training process that is on its way in the folder `r`."""
    command = [sys.executable, "-m", "pgkit.train", *overrides, "hydra.run.dir=r"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        command, cwd=cwd, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def wait(condition: Callable[[], bool], *, seconds: float) -> None:
    """Returns as soon as the condition holds, and fails where it does not."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def lines_written(folder: Path) -> int:
    file = folder / "metrics.csv"
    return file.read_text().count("\n") if file.exists() else 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_one_signal_ends_a_run_with_everything_written(tmp_path: Path, number: signal.Signals) -> None:
    with launch("total_steps=1e9", cwd=tmp_path) as process:
        wait(lambda: lines_written(tmp_path / "r") > 3, seconds=60)
        process.send_signal(number)
        said, complaints = process.communicate(timeout=10)
    assert process.returncode == 130
    assert "interrupted: " in said and complaints == ""
    expect_whole(tmp_path / "r", "interrupted")
    assert summary_of(tmp_path / "r")["eval"] is None


@pytest.mark.parametrize("vectorization", ["sync", "async"])
def test_a_second_signal_ends_a_run_that_is_stuck(tmp_path: Path, vectorization: str) -> None:
    stuck = (*faulty("hang", at=300), f"env.vectorization={vectorization}", "env.timeout=500", "total_steps=1e9")
    with launch(*stuck, cwd=tmp_path) as process:
        wait(lambda: lines_written(tmp_path / "r") == 3, seconds=60)
        children = children_of(process.pid)
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        time.sleep(0.5)
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        _, complaints = process.communicate(timeout=10)
    assert process.returncode == 130
    assert "Traceback" not in complaints
    expect_whole(tmp_path / "r", "interrupted")
    assert len(children) >= (2 if vectorization == "async" else 0)
    wait(lambda: not any(alive(child) for child in children), seconds=5)


def children_of(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for task in tasks for child in task.read_text().split()]


def test_an_environment_that_raises_ends_the_run_in_one_line(tmp_path: Path) -> None:
    ended = run("-m", "pgkit.train", *faulty("raise", at=500), "hydra.run.dir=r", cwd=tmp_path)
    assert ended.returncode == 1
    place = r"lane 0, seed \d+, step 500 \(episode 1, its step 500\), action \d"
    assert re.fullmatch(rf"pgkit: {place}: ZeroDivisionError: division by zero \(envs.py:\d+\)\n", ended.stderr)
    assert "failed: " in ended.stdout
    expect_whole(tmp_path / "r", "failed")
    assert summary_of(tmp_path / "r")["updates"] == 3  # 128 rows a batch


@pytest.mark.parametrize(
    ("fault", "words"),
    [("nan_reward", "reward nan, expected finite"), ("inf_observation", "], expected finite numbers")],
)
def test_what_is_no_number_never_reaches_the_parameters(tmp_path: Path, fault: str, words: str) -> None:
    overrides = faulty(fault, at=300)
    with pytest.raises(EnvironmentFault, match=r"lane 0, seed \d+, step 300") as caught:
        train(tmp_path, *overrides)
    assert words in str(caught.value)
    expect_whole(tmp_path, "failed")
    # The policy that is kept is the one after the last update, as if the run had ended there.
    whole = train(tmp_path / "shorter", *faulty("raise", at=300), "total_steps=512")
    kept = pgkit.load_policy(tmp_path).state_dict()
    assert all(torch.equal(kept[name], tensor) for name, tensor in whole.parameters.items())


def test_an_endless_episode_is_named_with_its_cure(tmp_path: Path) -> None:
    with pytest.raises(RunFault) as caught:
        train(tmp_path, "env=gym", "env.id=tests.rl.envs:Endless-v0", "collect.max_episode_steps=70")
    message = str(caught.value)
    assert message.startswith(
        "collect.max_episode_steps: the episode on lane 0 goes on after 70 steps, expected an end"
    )
    assert "collect=steps" in message and "\n" not in message
    assert summary_of(tmp_path)["status"] == "failed"


def test_an_endless_task_trains_on_slabs_and_says_that_nothing_finished(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = train(tmp_path, "env=gym", "env.id=tests.rl.envs:Endless-v0", *SLAB, "total_steps=600")
    assert "no finished episode" in capsys.readouterr().out
    assert run.summary["return_mean_100"] is None and run.summary["episodes"] == 0
    assert len(run.metrics) == 3
    for line in run.metrics:
        assert {line[tag] for tag in ("return/mean", "return/mean_100", "return/max", "episode/length")} == {""}
        assert float(line["gradient/norm"]) > 0
    expect_whole(tmp_path, "finished")


def test_no_evaluation_of_endless_episodes_is_said_and_not_fatal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    overrides = ("env=gym", "env.id=tests.rl.envs:Endless-v0", *SLAB[:-1], "total_steps=200", "evaluation.episodes=4")
    run = train(tmp_path, *overrides)
    assert "no evaluation: collect.max_episode_steps" in capsys.readouterr().out
    assert (run.summary["status"], run.summary["eval"]) == ("finished", None)


@pytest.mark.parametrize("agent", [(), ("agent=vpg", "collect.steps=5", "critic.steps=2")])
def test_episodes_of_one_step_train(tmp_path: Path, agent: tuple[str, ...]) -> None:
    run = train(
        tmp_path, "env=gym", "env.id=tests.rl.envs:OneStep-v0", *agent, "total_steps=60", "evaluation.episodes=4"
    )
    assert run.summary["episodes"] == run.summary["env_steps"] >= 60
    assert {float(line["episode/length"]) for line in run.metrics} == {1.0}
    expect_whole(tmp_path, "finished")


def test_equal_returns_under_leave_one_out_have_a_gradient_of_exactly_zero(tmp_path: Path) -> None:
    before = train_briefly(*gym("Constant"), "total_steps=1", "optimizer.lr=1e-30")[0].policy.state_dict()
    run = train(
        tmp_path,
        *gym("Constant"),
        "total_steps=200",
        "diagnostics=full",
        "diagnostics.every=1",
        "evaluation.episodes=0",
    )
    assert len(run.metrics) == 5
    for line in run.metrics:
        assert line["gradient/norm"] == line["gradient/variance_of_mean"] == "0.0"
        assert line["gradient/snr"] == ""  # nothing over nothing
    assert all(torch.equal(before[name], tensor) for name, tensor in run.parameters.items())


@pytest.mark.parametrize(
    "overrides",
    [("optimizer=sgd", "optimizer.lr=1e38"), ("env=Pendulum", "optimizer=sgd", "optimizer.lr=1e30")],
    ids=["categorical", "gaussian"],
)
@pytest.mark.filterwarnings("ignore:.*encountered in")
def test_a_policy_that_overflows_is_named_and_no_metric_is_nan(tmp_path: Path, overrides: tuple[str, ...]) -> None:
    with pytest.raises(RunFault, match=r"expected a? ?finite number"):
        train(tmp_path, *overrides, "total_steps=20000", "diagnostics=full")
    assert summary_of(tmp_path)["status"] == "failed"
    assert not {"nan", "inf", "-inf"} & {value for line in metrics_of(tmp_path) for value in line.values()}


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_help_without_a_reader_is_no_error(tmp_path: Path, unbuffered: str) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": unbuffered}
    command = [sys.executable, "-m", "pgkit.train", "--help"]
    with subprocess.Popen(
        command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        complaints = process.stderr.read()
    assert (process.returncode, complaints) == (0, "")
