"""A policy that was saved acts as the one that was trained, from Python and from the command line."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

import pgkit
from pgkit import evaluate
from pgkit.errors import UsageError
from tests.end_to_end.runs import TYPED, equal, gym, train
from tests.faults.command import ROOT, refusal, run

KINDS = {
    "categorical": ("env=CartPole", "total_steps=800"),
    "gaussian": ("env=Pendulum", "agent=vpg", "total_steps=1100", "critic.steps=2"),
    "nested": (*gym("Shapes"), "env.kwargs={observation:dict,action:half_infinite}", "total_steps=100"),
}


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


def test_a_run_by_the_command_line_and_one_in_python_leave_equal_policies(typed_run: Path, tmp_path: Path) -> None:
    in_python = train(tmp_path, *TYPED, "evaluation.episodes=0")
    assert equal(dict(pgkit.load_policy(typed_run).state_dict()), in_python.parameters)


def test_evaluation_moves_no_moments(tmp_path: Path) -> None:
    moments = []
    for episodes in (0, 8):
        overrides = ("total_steps=500", "policy.normalise_observations=true", f"evaluation.episodes={episodes}")
        loaded = train(tmp_path / str(episodes), *overrides)
        moments.append({name: tensor for name, tensor in loaded.parameters.items() if name.startswith("encoder")})
        assert float(moments[-1]["encoder.count"]) == loaded.summary["env_steps"]
    assert equal(*moments)


def evaluated(folder: Path, place: Path, seed: int, trajectories: Path | None = None) -> dict[str, Any]:
    """Returns what an evaluation wrote into `place`."""
    place.mkdir()
    config = {"run": str(folder), "episodes": 8, "num_envs": 4, "seed": seed, "trusted_packages": []}
    config["trajectories"] = None if trajectories is None else str(trajectories)
    evaluate.run(OmegaConf.create(config), place)
    result: dict[str, Any] = json.loads((place / "evaluation.json").read_text())
    return result


def test_evaluate_plays_both_ways_of_acting(
    typed_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.read_bytes() for path in typed_run.rglob("*") if path.is_file()}
    first, again, other = (evaluated(typed_run, tmp_path / str(place), seed) for place, seed in enumerate((0, 0, 1)))
    said = capsys.readouterr().out
    for acting in ("deterministic", "stochastic"):
        result = first[acting]
        assert f"{acting} {result['mean']:.1f} [{result['low']:.1f}, {result['high']:.1f}], 8 episodes" in said
        assert result["returns_min"] <= result["low"] <= result["mean"] <= result["high"] <= result["returns_max"]
    assert first == again
    assert first["stochastic"] != other["stochastic"] and first["stochastic"] != first["deterministic"]
    assert before == {path: path.read_bytes() for path in typed_run.rglob("*") if path.is_file()}


def test_evaluate_keeps_the_episodes_that_it_reports(typed_run: Path, tmp_path: Path) -> None:
    result = evaluated(typed_run, tmp_path / "place", 0, tmp_path / "data.safetensors")
    saved = pgkit.load_trajectories(tmp_path / "data.safetensors")
    batch, policy = saved.trajectories, pgkit.load_policy(typed_run)
    assert batch.rewards.sum(dim=0).mean().item() == pytest.approx(result["stochastic"]["mean"])
    assert saved.source == str(typed_run) and saved.has_log_prob
    rows = batch.rows()
    expected = policy.log_prob(rows.obs, rows.actions).detach()
    assert torch.allclose(batch.behavior_log_prob.reshape(-1)[rows.index], expected, atol=1e-5)


def test_evaluate_writes_into_the_run_even_where_nobody_reads(typed_run: Path, tmp_path: Path) -> None:
    copied = tmp_path / "copied"
    shutil.copytree(typed_run, copied)
    command = [sys.executable, "-m", "pgkit.evaluate", f"run={copied}", "episodes=4"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        complaints = process.stderr.read()
    assert (process.returncode, complaints) == (0, "")
    assert [path.parts[-3] for path in copied.rglob("evaluation.json")] == ["evaluations"]


def test_a_run_that_is_not_there_is_named(tmp_path: Path) -> None:
    for name in ("nowhere", "."):
        with pytest.raises(UsageError, match="expected") as caught:
            pgkit.load_policy(tmp_path / name)
        assert str(tmp_path) in str(caught.value) and "\n" not in str(caught.value)


def test_a_run_whose_environment_has_other_spaces_is_named(typed_run: Path, tmp_path: Path) -> None:
    copied, cwd = tmp_path / "copied", tmp_path / "empty"
    shutil.copytree(typed_run, copied)
    cwd.mkdir()
    config = copied / ".hydra" / "config.yaml"
    config.write_text(config.read_text().replace("CartPole-v1", "Acrobot-v1"))
    message = refusal(run("-m", "pgkit.evaluate", f"run={copied}", cwd=cwd), cwd=cwd)
    assert "(4,)" in message and "(6,)" in message and not (copied / "evaluations").exists()
