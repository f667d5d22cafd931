"""Runs `pgkit.train` in this process and prints, as JSON, its rates, its peak memory and the size of one batch.

    python experiments/throughput/scaling.py env=CartPole agent=ppo env.num_envs=512 total_steps=2e5

Peak memory is what the system saw resident at once since the process began, imports included. With `--processes` it
runs one process and so many of `torchrun` in turns instead, and prints steps per second of both and their ratio:

    python experiments/throughput/scaling.py --processes=2 --rounds=3 env=HalfCheetah agent=ppo total_steps=30000
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
from dataclasses import fields
from pathlib import Path

from torch import Tensor


def main(overrides: list[str]) -> None:
    """Trains, measures, prints."""
    from pgkit.train import main as train

    with tempfile.TemporaryDirectory() as folder:
        sys.argv = ["train", *overrides, f"hydra.run.dir={folder}/run"]
        train()
        summary = json.loads(Path(folder, "run", "summary.json").read_text(encoding="utf-8"))
    peak = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    rates = {"wall": summary["steps_per_second"], "cpu": summary["env_steps"] / summary["train_cpu_seconds"]}
    print(json.dumps({**rates, "peak": peak, "batch": batch_bytes(overrides)}))


def in_turns(processes: int, rounds: int, overrides: list[str]) -> None:
    """Trains with one process and with several, in turns, and prints a line a round."""
    for _ in range(rounds):
        alone, shared = steps_per_second([], overrides), steps_per_second([f"--nproc-per-node={processes}"], overrides)
        print(f"{alone:,.0f} steps/s alone, {shared:,.0f} by {processes} processes: {shared / alone:.2f}", flush=True)


def steps_per_second(torchrun: list[str], overrides: list[str]) -> float:
    """Returns the rate of a run of its own, by `torchrun` where there are options for it."""
    launcher = ["-m", "torch.distributed.run", "--standalone", *torchrun] if torchrun else []
    with tempfile.TemporaryDirectory() as folder:
        line = [sys.executable, *launcher, "-m", "pgkit.train", *overrides, f"hydra.run.dir={folder}/run"]
        subprocess.run(line, check=True, capture_output=True)
        rate: float = json.loads(Path(folder, "run", "summary.json").read_text(encoding="utf-8"))["steps_per_second"]
    return rate


def batch_bytes(overrides: list[str]) -> int:
    """Returns the bytes of all tensors in a batch of such a run."""
    from pgkit.assemble import assemble
    from pgkit.config import check, compose

    parts = assemble(check(compose("train", overrides)))
    parts.collector.start(list(range(parts.lanes.num_lanes)))
    batch = parts.collector.collect(parts.behavior.actor(), parts.policy.law, parts.streams.policy).trajectories
    values = [getattr(batch, field.name) for field in fields(batch)]
    parts.lanes.close()
    return sum(value.nbytes for value in values if isinstance(value, Tensor))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    asked, rest = parser.parse_known_args()
    if asked.processes > 1:
        in_turns(asked.processes, asked.rounds, rest)
    else:
        main(rest)
