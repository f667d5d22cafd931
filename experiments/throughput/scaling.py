"""Runs `pgkit.train` in this process and prints, as JSON, its rates, its peak memory and the size of one batch.

    python experiments/throughput/scaling.py env=CartPole agent=ppo env.num_envs=512 total_steps=2e5

Peak memory is what the system saw resident at once since the process began, imports included.
"""

from __future__ import annotations

import json
import resource
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
    main(sys.argv[1:])
