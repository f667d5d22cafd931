"""Prints what learning from a window of past batches costs a step of the environment, over on-policy learning.

    python experiments/throughput/reuse.py

Whole runs of REINFORCE on CartPole without diagnostics, in processes of their own on one thread; processor time of the
training over environment steps, from `summary.json`. The runs of a round take turns of a quarter of a second, so that
whatever else the machine does slows all of them alike. What is printed is the median ratio of the rounds to the
on-policy run of the same round, with the least and the greatest.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Iterable
from pathlib import Path
from statistics import median

USUAL = ("env=CartPole", "diagnostics=none", "logger=none", "evaluation.episodes=0", "optimizer.lr=0.003")
WINDOWS = {
    "on-policy": (),
    "balance, 2 batches": ("reuse=window", "reuse.batches=2", "weights=balance"),
    "balance, 4 batches": ("reuse=window", "reuse.batches=4", "weights=balance"),
    "balance, 8 batches": ("reuse=window", "reuse.batches=8", "weights=balance"),
    "constant, 4 batches": ("reuse=window", "reuse.batches=4", "weights=constant_mixture"),
}


TURN = 0.25  # seconds


def started(overrides: tuple[str, ...], steps: int, seed: int, folder: Path) -> subprocess.Popen[bytes]:
    """Returns a run in `folder`, stopped before it has done anything."""
    words = [*USUAL, *overrides, f"total_steps={steps}", f"seed={seed}", f"hydra.run.dir={folder}"]
    one_thread = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pgkit.train", *words]
    run = subprocess.Popen(command, env=one_thread, stdout=subprocess.DEVNULL)
    run.send_signal(signal.SIGSTOP)
    return run


def take_turns(runs: Iterable[subprocess.Popen[bytes]]) -> None:
    """Lets one run at a time go on until all have ended.

    Raises: CalledProcessError for a run that failed.
    """
    waiting = deque(runs)
    while waiting:
        run = waiting.popleft()
        run.send_signal(signal.SIGCONT)
        try:
            code = run.wait(TURN)
        except subprocess.TimeoutExpired:
            run.send_signal(signal.SIGSTOP)
            waiting.append(run)
            continue
        if code:
            raise subprocess.CalledProcessError(code, run.args)


def seconds_a_step(steps: int, seed: int) -> dict[str, float]:
    """Returns processor seconds of training over environment steps of every run of one round."""
    with tempfile.TemporaryDirectory() as place:
        folders = {name: Path(place) / str(number) for number, name in enumerate(WINDOWS)}
        runs = [started(overrides, steps, seed, folders[name]) for name, overrides in WINDOWS.items()]
        try:
            take_turns(runs)
        finally:
            for run in runs:
                run.kill()
        summaries = {name: json.loads((folder / "summary.json").read_text()) for name, folder in folders.items()}
    return {name: float(each["train_cpu_seconds"]) / float(each["env_steps"]) for name, each in summaries.items()}


def main() -> None:
    """Runs the rounds and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3, help="rounds, at least 3 for a result")
    parser.add_argument("--steps", type=int, default=60_000, help="environment steps of a run")
    options = parser.parse_args()
    ratios: dict[str, list[float]] = {name: [] for name in WINDOWS}
    for seed in range(options.rounds):
        found = seconds_a_step(options.steps, seed)
        for name, seconds in found.items():
            ratios[name].append(seconds / found["on-policy"])
    print("| run | processor time a step, over on-policy |\n|---|---|")
    for name, values in ratios.items():
        print(f"| {name} | {median(values):.2f} [{min(values):.2f}, {max(values):.2f}] |")


if __name__ == "__main__":
    main()
