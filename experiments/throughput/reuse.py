"""Prints what learning from a window of past batches costs a step of the environment, over on-policy learning.

    python experiments/throughput/reuse.py

Whole runs of REINFORCE on CartPole without diagnostics, in turn, each in a process of its own on one thread; processor
time of the training over environment steps, from `summary.json`. What is printed is the median ratio of the rounds to
the on-policy run of the same round, with the least and the greatest.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
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


def seconds_a_step(overrides: tuple[str, ...], steps: int, seed: int) -> float:
    """Returns processor seconds of training over environment steps."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        words = [*USUAL, *overrides, f"total_steps={steps}", f"seed={seed}", f"hydra.run.dir={run}"]
        one_thread = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "pgkit.train", *words]
        subprocess.run(command, check=True, env=one_thread, stdout=subprocess.DEVNULL)
        summary = json.loads((run / "summary.json").read_text(encoding="utf-8"))
    return float(summary["train_cpu_seconds"]) / float(summary["env_steps"])


def main() -> None:
    """Runs the rounds and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3, help="rounds, at least 3 for a result")
    parser.add_argument("--steps", type=int, default=60_000, help="environment steps of a run")
    options = parser.parse_args()
    ratios: dict[str, list[float]] = {name: [] for name in WINDOWS}
    for seed in range(options.rounds):
        found = {name: seconds_a_step(overrides, options.steps, seed) for name, overrides in WINDOWS.items()}
        for name, seconds in found.items():
            ratios[name].append(seconds / found["on-policy"])
    print("| run | processor time a step, over on-policy |\n|---|---|")
    for name, values in ratios.items():
        print(f"| {name} | {median(values):.2f} [{min(values):.2f}, {max(values):.2f}] |")


if __name__ == "__main__":
    main()
