"""A policy that was saved acts as the one that was trained, from Python and from the command line."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import pgkit
from pgkit.errors import UsageError
from tests.end_to_end.runs import Run, equal, gym, train
from tests.faults.command import refusal, run

KINDS = {
    "categorical": ("env=CartPole", "total_steps=800"),
    "gaussian": ("env=Pendulum", "agent=vpg", "total_steps=1100", "critic.steps=2"),
    "nested": (*gym("Shapes"), "env.kwargs={observation:dict,action:half_infinite}", "total_steps=100"),
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A small run on CartPole, in the way that the command line would have left it."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    overrides = ("total_steps=800", "evaluation.episodes=0", "policy.normalise_observations=true")
    ended = run("-m", "pgkit.train", *overrides, f"hydra.run.dir={folder}", cwd=folder.parent)
    assert ended.returncode == 0, ended.stderr
    again = train(folder.parent / "again", *overrides)
    return Run(folder, again.parts)


@pytest.mark.parametrize("kind", KINDS)
def test_a_loaded_policy_is_the_trained_one(tmp_path: Path, kind: str) -> None:
    finished = train(tmp_path, *KINDS[kind], "policy.normalise_observations=true", "evaluation.episodes=4")
    policy, loaded = finished.parts.policy, pgkit.load_policy(tmp_path)
    assert equal(finished.parameters, loaded.state_dict())
    collector = finished.parts.collector
    collector.start(range(finished.parts.lanes.num_lanes))
    trajectories = collector.collect(loaded.actor(), loaded.law, np.random.default_rng(0)).trajectories
    finished.parts.lanes.close()
    rows = trajectories.rows()
    assert torch.equal(policy.log_prob(rows.obs, rows.actions), loaded.log_prob(rows.obs, rows.actions))
    assert loaded.log_prob(rows.obs, rows.actions).requires_grad


def test_a_run_by_the_command_line_and_one_in_python_leave_equal_policies(trained: Run) -> None:
    assert equal(dict(pgkit.load_policy(trained.folder).state_dict()), trained.parameters)


def test_evaluation_moves_no_moments(tmp_path: Path) -> None:
    moments = []
    for episodes in (0, 8):
        overrides = ("total_steps=500", "policy.normalise_observations=true", f"evaluation.episodes={episodes}")
        loaded = train(tmp_path / str(episodes), *overrides)
        moments.append({name: tensor for name, tensor in loaded.parameters.items() if name.startswith("encoder")})
        assert float(moments[-1]["encoder.count"]) == loaded.summary["env_steps"]
    assert equal(*moments)


def test_evaluate_prints_both_ways_of_acting_and_writes_them(trained: Run, tmp_path: Path) -> None:
    before = {path: path.read_bytes() for path in trained.folder.rglob("*") if path.is_file()}
    results = []
    for seed in (0, 0, 1):
        line = (f"run={trained.folder}", "episodes=8", f"seed={seed}", f"hydra.run.dir={tmp_path / str(len(results))}")
        ended = run("-m", "pgkit.evaluate", *line, cwd=tmp_path)
        assert (ended.returncode, ended.stderr) == (0, "")
        results.append(json.loads((tmp_path / str(len(results)) / "evaluation.json").read_text()))
        for acting in ("deterministic", "stochastic"):
            result = results[-1][acting]
            assert f"{acting} {result['mean']:.1f} [" in ended.stdout
            assert result["low"] <= result["mean"] <= result["high"] and result["episodes"] == 8
    assert results[0] == results[1]
    assert results[0]["stochastic"] != results[2]["stochastic"]
    assert before == {path: path.read_bytes() for path in trained.folder.rglob("*") if path.is_file()}


def test_evaluate_writes_into_the_run_unless_told_otherwise(trained: Run, tmp_path: Path) -> None:
    copied = tmp_path / "copied"
    shutil.copytree(trained.folder, copied)
    command = [sys.executable, "-m", "pgkit.evaluate", f"run={copied}", "episodes=4"]
    environment = {"PYTHONPATH": str(Path(__file__).resolve().parents[2]), "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()  # nobody reads what it prints
        complaints = process.stderr.read()
    assert (process.returncode, complaints) == (0, "")
    assert [path.parts[-3] for path in copied.rglob("evaluation.json")] == ["evaluations"]


def test_a_run_that_is_not_there_is_named(tmp_path: Path) -> None:
    message = refusal(run("-m", "pgkit.evaluate", "run=nowhere", cwd=tmp_path), cwd=tmp_path)
    assert "nowhere" in message and "expected" in message
    with pytest.raises(UsageError, match="nowhere"):
        pgkit.load_policy(tmp_path / "nowhere")


def test_a_run_whose_environment_has_other_spaces_is_named(trained: Run, tmp_path: Path) -> None:
    copied, cwd = tmp_path / "copied", tmp_path / "empty"
    shutil.copytree(trained.folder, copied)
    cwd.mkdir()
    config = copied / ".hydra" / "config.yaml"
    config.write_text(config.read_text().replace("CartPole-v1", "Acrobot-v1"))
    message = refusal(run("-m", "pgkit.evaluate", f"run={copied}", cwd=cwd), cwd=cwd)
    assert "(4,)" in message and "(6,)" in message and not (copied / "evaluations").exists()
