"""Prints what every instrument costs, in ordinary updates, and the share of training that the presets take.

    python experiments/throughput/instruments.py

One process on one thread: each instrument is timed where it is used, at every update of a short CartPole run, and
divided by what an update of that run takes without any: collection, gradient, step and critic.
"""

from __future__ import annotations

import contextlib
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from statistics import median
from types import SimpleNamespace
from typing import Any

import torch
from threadpoolctl import threadpool_limits

from pgkit.assemble import Parts, assemble
from pgkit.config import check, compose
from pgkit.run.seeds import draw_seeds
from pgkit.train import learn

INSTRUMENTS = (
    "policy", "variance", "baseline", "panel", "dial", "critic_lag", "decomposition", "noise_scale", "halves", "layers",
    "scores", "optimizer_step", "fisher",
)  # fmt: skip
AGENTS = ("reinforce", "vpg")
STEPS = 40_000


class Watch:
    """What `learn` asks of a journal; it times the instruments."""

    def __init__(self) -> None:
        self.env_steps = self.updates = 0
        self.record = SimpleNamespace(solved=False)
        self.requested = False
        self.diagnosing_seconds = 0.0

    def collected(self, batch: Any) -> None:
        self.env_steps += batch.env_steps

    @contextlib.contextmanager
    def diagnosing(self) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.diagnosing_seconds += time.perf_counter() - start

    def write(self, batch: Any, metrics: Any) -> None:
        self.updates += 1


def run(*overrides: str, prepare: Callable[[Parts], None] = lambda parts: None) -> tuple[Watch, float]:
    """Returns the watch of a short run, and its seconds."""
    parts = assemble(check(compose("train", ["env=CartPole", f"total_steps={STEPS}", *overrides])))
    prepare(parts)
    parts.collector.start(draw_seeds(parts.streams.environments, parts.lanes.num_lanes))
    watch: Any = Watch()
    start = time.perf_counter()
    with threadpool_limits(limits=1):
        learn(parts, watch, watch, total_steps=STEPS)
    parts.lanes.close()
    return watch, time.perf_counter() - start


def timed(seconds: dict[str, list[float]]) -> Callable[[Parts], None]:
    """Returns a function that makes every instrument of a run due at every update, and notes what it takes."""

    def prepare(parts: Parts) -> None:
        for name, diagnostic in parts.diagnostics.items():
            diagnostic.every = 1

            def measure(snapshot: Any, name: str = name, measure: Callable[[Any], Any] = diagnostic.measure) -> Any:
                start = time.perf_counter()
                result = measure(snapshot)
                seconds[name].append(time.perf_counter() - start)
                return result

            diagnostic.measure = measure  # type: ignore[method-assign]  # of this object alone

    return prepare


def main() -> None:
    """Measures and prints two tables in Markdown."""
    torch.set_num_threads(1)
    table: dict[str, dict[str, float]] = defaultdict(dict)
    shares: dict[str, dict[str, float]] = defaultdict(dict)
    for agent in AGENTS:
        seconds: dict[str, list[float]] = defaultdict(list)
        watch, total = run(f"agent={agent}", f"diagnostics=[{','.join(INSTRUMENTS)}]", prepare=timed(seconds))
        update = (total - watch.diagnosing_seconds) / watch.updates
        for name in INSTRUMENTS:
            table[name][agent] = median(seconds[name]) / update
        for preset in ("economy", "full"):
            found = [run(f"agent={agent}", f"diagnostics={preset}") for _ in range(3)]
            shares[preset][agent] = median(watch.diagnosing_seconds / total for watch, total in found)
    print(f"| instrument | {' | '.join(AGENTS)} |\n|---|{'---|' * len(AGENTS)}")
    for name, row in table.items():
        print(f"| `{name}` | {' | '.join(f'{row[agent]:.2f}' for agent in AGENTS)} |")
    print(f"\n| preset | {' | '.join(AGENTS)} |\n|---|{'---|' * len(AGENTS)}")
    for preset, row in shares.items():
        print(f"| `diagnostics={preset}` | {' | '.join(f'{100 * row[agent]:.0f} %' for agent in AGENTS)} |")


if __name__ == "__main__":
    main()
