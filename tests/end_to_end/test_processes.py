"""Runs that several processes share: the same as one process with all the lanes, and of one mind about ending."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

ALONE = (sys.executable, "-m", "pgkit.train")
SHARED = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "pgkit.train")
RUN = ("env=CartPole", "env.vectorization=sync", "evaluation.episodes=0")
RUNS = {
    "episodes": ("env.num_envs=4", "collect.episodes=8", "total_steps=1000", "policy.normalise_observations=true"),
    "steps": (
        "env.num_envs=4",
        "agent=ppo",
        "collect.steps=64",
        "total_steps=1000",
        "diagnostics=none",
        "returns.scale_rewards=true",
    ),
}


def ran(command: tuple[str, ...], *overrides: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Returns what came of a command line."""
    line = [*command, *RUN, *overrides, f"hydra.run.dir={folder}"]
    environ = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    return subprocess.run(line, capture_output=True, text=True, timeout=120, env=environ, check=False)


@pytest.mark.equivalence
@pytest.mark.parametrize("name", RUNS)
def test_two_processes_do_what_one_does_with_all_lanes(tmp_path: Path, name: str) -> None:
    folders = [tmp_path / "alone", tmp_path / "shared"]
    for command, folder in zip((ALONE, SHARED), folders, strict=True):
        ended = ran(command, *RUNS[name], folder=folder)
        assert ended.returncode == 0, ended.stderr
    alone, shared = (load_file(folder / "checkpoints" / "last" / "policy.safetensors") for folder in folders)
    for key, value in alone.items():
        torch.testing.assert_close(shared[key], value, rtol=1e-4, atol=1e-5, msg=key)
    said = [json.loads((folder / "summary.json").read_text()) for folder in folders]
    for key in ("env_steps", "episodes", "updates", "discarded_steps", "return_mean_100"):
        assert said[0][key] == said[1][key], key
    lines = [list(csv.DictReader((folder / "metrics.csv").open(encoding="utf-8"))) for folder in folders]
    for one, two in zip(*lines, strict=True):
        assert [one[tag] for tag in one if tag.startswith(("return/", "episode/"))] == [
            two[tag] for tag in two if tag.startswith(("return/", "episode/"))
        ]
    assert sorted(tmp_path.iterdir()) == folders


def test_lanes_that_cannot_be_shared_are_one_line_and_nothing_is_written(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    ended = ran(SHARED, "env.num_envs=3", "collect.episodes=6", folder=folder)
    said = [line for line in ended.stderr.splitlines() if line.startswith("pgkit: ")]
    assert said == ["pgkit: env.num_envs: 3 over 2 processes, expected a multiple of 2"] and not folder.exists()
