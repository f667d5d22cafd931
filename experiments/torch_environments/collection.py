"""Steps a second of processor time of collection in torch and in numpy, alternating: python collection.py [lanes …]."""

from __future__ import annotations

import statistics
import sys
import time

import numpy as np
import torch

from pgkit.assemble import assemble
from pgkit.config import check, compose

ROUNDS, STEPS = 7, 64
COLLECTORS = ("steps", "torch_steps")
ENVIRONMENTS = ("CartPole", "Pendulum")


def collecting(env: str, collect: str, lanes: int) -> tuple[object, object]:
    """Returns a collector that is warm, and the arguments of its `collect`."""
    overrides = [f"env={env}", "agent=ppo", f"collect={collect}", f"collect.steps={STEPS}", f"env.num_envs={lanes}"]
    parts = assemble(check(compose("train", [*overrides, "update.minibatches=1"])))
    parts.collector.start(list(range(lanes)))
    arguments = (parts.behavior.actor(), parts.policy.law, np.random.default_rng(0))
    parts.collector.collect(*arguments)
    return parts.collector, arguments


def rate(collector: object, arguments: tuple[object, ...]) -> float:
    """Returns environment steps a second of processor time, over a quarter of one at least."""
    start, steps = time.process_time(), 0
    while time.process_time() - start < 0.25:
        steps += collector.collect(*arguments).env_steps
    return steps / (time.process_time() - start)


def main(sizes: list[int]) -> None:
    """Prints a row for each environment and number of lanes."""
    torch.set_num_threads(1)  # processor time of threads that wait for each other says nothing
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {ROUNDS} rounds")
    for env in ENVIRONMENTS:
        for lanes in sizes:
            pair = [collecting(env, collect, lanes) for collect in COLLECTORS]
            rates = [[rate(*each) for each in pair] for _ in range(ROUNDS)]
            ratios = sorted(torch_rate / numpy_rate for numpy_rate, torch_rate in rates)
            numpy_rate, torch_rate = (statistics.median(column) for column in zip(*rates, strict=True))
            print(
                f"| {env} | {lanes} | {numpy_rate:,.0f} | {torch_rate:,.0f} | {statistics.median(ratios):.2f} "
                f"[{ratios[0]:.2f}, {ratios[-1]:.2f}] |",
                flush=True,
            )


if __name__ == "__main__":
    main([int(each) for each in sys.argv[1:]] or [8, 64, 512, 1024, 4096])
