"""Runs that several processes share: the same as one process with all the lanes, and of one mind about ending."""

from __future__ import annotations

import csv
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

ALONE = (sys.executable, "-m", "pgkit.train")
TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone")
SHARED = (*TORCHRUN, "--nproc-per-node=2", "-m", "pgkit.train")
LIMIT = 120
"""Seconds until a test gives up on processes that should have ended."""
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


def started(command: tuple[str, ...], *overrides: str, folder: Path, **environ: str) -> subprocess.Popen[str]:
    """Returns a command line under way."""
    line = [*command, *RUN, *overrides, f"hydra.run.dir={folder}"]
    environ = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": ".", **environ}
    return subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environ)


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Returns the code that a process ended with, and what it said of errors."""
    try:
        _, said = process.communicate(timeout=LIMIT)
    finally:
        process.kill()
    return process.returncode, said


def ran(command: tuple[str, ...], *overrides: str, folder: Path, **environ: str) -> tuple[int, str]:
    """Returns what came of a command line."""
    return ended(started(command, *overrides, folder=folder, **environ))


def lines(said: str) -> list[str]:
    """Returns what pgkit said."""
    return [line for line in said.splitlines() if line.startswith("pgkit: ")]


@pytest.mark.equivalence
@pytest.mark.parametrize("name", RUNS)
def test_two_processes_do_what_one_does_with_all_lanes(tmp_path: Path, name: str) -> None:
    folders = [tmp_path / "alone", tmp_path / "shared"]
    for command, folder in zip((ALONE, SHARED), folders, strict=True):
        code, errors = ran(command, *RUNS[name], folder=folder)
        assert code == 0, errors
    alone, shared = (load_file(folder / "checkpoints" / "last" / "policy.safetensors") for folder in folders)
    for key, value in alone.items():
        torch.testing.assert_close(shared[key], value, rtol=1e-4, atol=1e-5, msg=key)
    said = [json.loads((folder / "summary.json").read_text()) for folder in folders]
    for key in ("env_steps", "episodes", "updates", "discarded_steps", "return_mean_100"):
        assert said[0][key] == said[1][key], key
    written = [list(csv.DictReader((folder / "metrics.csv").open(encoding="utf-8"))) for folder in folders]
    for one, two in zip(*written, strict=True):
        assert [one[tag] for tag in one if tag.startswith(("return/", "episode/"))] == [
            two[tag] for tag in two if tag.startswith(("return/", "episode/"))
        ]
    assert sorted(tmp_path.iterdir()) == folders


def test_lanes_that_cannot_be_shared_are_one_line_and_nothing_is_written(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    _, errors = ran(SHARED, "env.num_envs=3", "collect.episodes=6", folder=folder)
    assert lines(errors) == ["pgkit: env.num_envs: 3 over 2 processes, expected a multiple of 2"]
    assert not folder.exists()


LARGE = (
    "agent=ppo", "env.num_envs=6", "collect.steps=128", "total_steps=2000", "diagnostics=none",
    "policy.hidden_sizes=[320,320]", "critic.hidden_sizes=[320,320]", "critic.steps=10", "critic.minibatch_size=1000",
    "update.minibatches=1", "update.target_kl=0.004", "optimizer.lr=3e-3", "seed=3",
    "policy.normalise_observations=true",
)  # fmt: skip
"""Minibatches large enough to be divided, and an update that ends where the divergence says so."""


@pytest.mark.equivalence
def test_two_or_three_processes_share_gradients_and_find_what_one_finds(tmp_path: Path) -> None:
    found = {}
    for size in (1, 2, 3):
        folder, prints = tmp_path / f"run{size}", tmp_path / f"prints{size}"
        prints.mkdir()
        command = (sys.executable,) if size == 1 else (*TORCHRUN, f"--nproc-per-node={size}")
        script = "tests/end_to_end/fingerprints.py"
        code, errors = ran((*command, script), *LARGE, folder=folder, FINGERPRINTS=str(prints))
        assert code == 0, errors
        said = [json.loads((prints / f"{rank}.json").read_text()) for rank in range(size)]
        assert said == [said[0]] * size, "all processes hold the same, bit for bit"
        assert (said[0]["sums"] > 30) == (size > 1)
        rows = list(csv.DictReader((folder / "metrics.csv").open(encoding="utf-8")))
        found[size] = load_file(folder / "checkpoints" / "last" / "policy.safetensors"), rows
    parameters, rows = found[1]
    assert min(float(row["update/epochs"]) for row in rows) < 4
    for size in (2, 3):
        for key, value in parameters.items():
            torch.testing.assert_close(found[size][0][key], value, rtol=1e-3, atol=1e-5, msg=f"{size} {key}")
        for one, other in zip(rows, found[size][1], strict=True):
            assert other["update/steps"] == one["update/steps"]
            for tag in ("update/surrogate", "update/approximate_kl", "policy/entropy", "gradient/norm", "critic/loss"):
                assert float(other[tag]) == pytest.approx(float(one[tag]), rel=1e-3, abs=1e-5), (size, tag)


def test_a_killed_process_ends_the_other_which_keeps_the_last_policy(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    process = started(SHARED, "agent=ppo", "diagnostics=none", "total_steps=1e8", folder=folder)
    metrics, until = folder / "metrics.csv", time.monotonic() + LIMIT
    while not metrics.exists() or len(metrics.read_text().splitlines()) < 3:
        assert process.poll() is None and time.monotonic() < until
        time.sleep(0.1)
    os.kill(child_of(process.pid, rank=1), signal.SIGKILL)
    code, errors = ended(process)
    said = lines(errors)
    assert code == 1 and len(said) == 1 and said[0].startswith("pgkit: torchrun: another process of this run is gone (")
    assert load_file(folder / "checkpoints" / "last" / "policy.safetensors")
    assert json.loads((folder / "summary.json").read_text())["status"] == "failed"


def child_of(parent: int, *, rank: int) -> int:
    """Returns the process that a launcher started as number `rank`."""
    for child in Path(f"/proc/{parent}/task/{parent}/children").read_text().split():
        if f"RANK={rank}".encode() in Path(f"/proc/{child}/environ").read_bytes().split(b"\0"):
            return int(child)
    raise AssertionError(f"no process {rank}")


@pytest.mark.parametrize(
    ("size", "override", "expected"),
    [
        ("2", "seed=5", "pgkit: seed: 5 in process 1 and 0 in process 0, expected one command line for all"),
        ("3", "seed=0", "pgkit: WORLD_SIZE: 2 here and 3 elsewhere, expected one number for all"),
    ],
)
def test_processes_that_were_told_different_things_are_one_line(
    tmp_path: Path, size: str, override: str, expected: str
) -> None:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    place = {"MASTER_ADDR": "localhost", "MASTER_PORT": port}
    told = [("2", "seed=0"), (size, override)]
    processes = [
        started(
            ALONE, "env.num_envs=6", "collect.episodes=6", seed, folder=tmp_path / str(rank),
            WORLD_SIZE=number, RANK=str(rank), LOCAL_RANK=str(rank), **place,
        )
        for rank, (number, seed) in enumerate(told)
    ]  # fmt: skip
    code, errors = ended(processes[0])
    processes[1].kill()
    processes[1].communicate()
    assert code == 2 and lines(errors) == [expected]
