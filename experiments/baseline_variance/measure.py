"""Measures the variance of estimators at fixed policies of CartPole, and how often the panel's intervals hold it.

    python experiments/baseline_variance/measure.py --out runs/baseline_variance      # an hour of processor time
    python experiments/baseline_variance/measure.py --quick                           # whether it works; no result

Three policies of one training run: untrained, half trained (mean return of 16 episodes at 100) and solved (at 475);
the critic of that run is fitted to each of them on 20 further batches, and then stands still. Every number of
trajectories is measured on the same ones: batches of 64, and as many of 256 and 1,024 as they make.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from threadpoolctl import threadpool_limits
from torch import Tensor

from pgkit.assemble import Parts, assemble
from pgkit.config import check, compose
from pgkit.diagnostics.candidates import candidate
from pgkit.diagnostics.comparison import CURRENT, Comparison, findings
from pgkit.diagnostics.panel import Window
from pgkit.rl.factors import factors_of
from pgkit.run.seeds import draw_seeds
from pgkit.snapshot import Snapshot
from pgkit.train import learn
from pgkit.types import Trajectories

SIZES = (64, 256, 1024)
NAMES = (
    "zero", "mean", "leave_one_out", "value", "optimal", "optimal_time", "optimal_parameter", "optimal_layer", "gls",
    "gae_0.95", "gae_0.95_gls", "gae_0.8", "total",
)  # fmt: skip
STAGES = {"untrained": 0.0, "half trained": 100.0, "solved": 475.0}
COMMON = ["env=CartPole", "agent=reinforce", "critic=value", "diagnostics=none", "evaluation.episodes=0"]
GAMMA = 0.99


@dataclass
class Watcher:
    """What `learn` asks of a journal: it counts, and stops the run once the mean return has reached a stage."""

    goal: float
    env_steps: int = 0
    updates: int = 0
    returns: list[float] = field(default_factory=list)

    @property
    def requested(self) -> bool:
        recent = self.returns[-16:]
        return self.goal <= 0 or (len(recent) == 16 and sum(recent) / 16 >= self.goal)

    def collected(self, batch: Any) -> None:
        self.env_steps += batch.env_steps
        self.returns += batch.returns

    @contextlib.contextmanager
    def diagnosing(self) -> Iterator[None]:
        yield

    def write(self, batch: Any, metrics: Any) -> None:
        self.updates += 1


def trained(stage: str, *, seed: int, fits: int) -> Parts:
    """Returns the parts of a run that has reached a stage, its critic fitted to the policy as it is there."""
    parts = assemble(check(compose("train", [*COMMON, f"seed={seed}"])))
    parts.collector.start(draw_seeds(parts.streams.environments, parts.lanes.num_lanes))
    watcher: Any = Watcher(goal=STAGES[stage])
    learn(parts, watcher, watcher, total_steps=1_000_000)
    for _ in range(fits):
        batch = parts.collector.collect(parts.policy.actor(), parts.policy.law, parts.streams.policy)
        factors = factors_of(batch.trajectories, policy=parts.policy, critic=parts.critic, weights=parts.weights,
                             returns=parts.returns, estimator=parts.estimator)  # fmt: skip
        parts.critic.update(batch.trajectories, factors.signal, factors.mask)
    parts.lanes.close()
    return parts


def snapshot(parts: Parts, trajectories: Trajectories) -> Snapshot:
    """Returns what an instrument would see of a batch, with leave-one-out as the estimator in use."""
    factors = factors_of(trajectories, policy=parts.policy, critic=parts.critic, weights=parts.weights,
                         returns=parts.returns, estimator=parts.estimator)  # fmt: skip
    baseline = parts.baseline.value(factors)
    assert factors.scores is not None
    return Snapshot(
        trajectories=trajectories,
        factors=factors,
        baseline=baseline,
        coefficients=parts.estimator.coefficients(factors, baseline),
        estimator=parts.estimator,
        coupling=parts.coupling,
        before=parts.policy,
        policy=parts.policy,
        scores=factors.scores,
    )


@dataclass
class Means:
    """Running moments of the means of independent batches, and how often intervals were right about them."""

    count: int = 0
    total: Tensor = field(default_factory=lambda: torch.zeros((), dtype=torch.float64))
    squares: Tensor = field(default_factory=lambda: torch.zeros((), dtype=torch.float64))

    def add(self, mean: Tensor) -> None:
        self.count += 1
        self.total = self.total + mean.double()
        self.squares = self.squares + mean.double().square()

    def variance(self) -> float:
        """Returns the trace of the covariance of the mean of a batch."""
        return float((self.squares - self.total.square() / self.count).sum()) / (self.count - 1)


def joined(batches: Sequence[Trajectories]) -> Trajectories:
    """Returns one batch of all columns, padded to the longest."""
    length = max(each.num_steps for each in batches)

    def pad(values: Tensor, rows: int) -> Tensor:
        return torch.cat([values, values.new_zeros(rows - len(values), *values.shape[1:])])

    def columns(name: str, rows: int) -> Tensor:
        return torch.cat([pad(getattr(each, name), rows) for each in batches], dim=1)

    names = ("actions", "rewards", "behavior_log_prob", "terminated", "truncated", "starts", "mask")
    return Trajectories(
        obs=columns("obs", length + 1),
        **{name: columns(name, length) for name in names},
        behavior_id=torch.cat([each.behavior_id for each in batches]),
        lane=torch.cat([each.lane for each in batches]),
        whole_episodes=True,
    )


def measure(stage: str, *, names: Sequence[str], batches: int, seed: int, fits: int) -> dict[str, Any]:
    """Returns the figures of some estimators at one policy; leave-one-out and value, the references, are among them."""
    torch.set_num_threads(1)
    start = time.process_time()
    with threadpool_limits(limits=1):
        parts = trained(stage, seed=seed, fits=fits)
        drawn = assemble(check(compose("train", [*COMMON, "seed=1000", "env.num_envs=64", "collect.episodes=64"])))
        drawn.collector.start(draw_seeds(drawn.streams.environments, 64))
        candidates = [candidate(name) for name in names]
        means = {(size, name): Means() for size in SIZES for name in (CURRENT, *names)}
        intervals: dict[tuple[int, str, str], list[tuple[float, float]]] = {}
        points: dict[tuple[int, str], list[tuple[float, float]]] = {}
        waiting: list[Trajectories] = []
        lengths = 0
        for _ in range(batches):
            batch = drawn.collector.collect(parts.policy.actor(), parts.policy.law, drawn.streams.policy)
            lengths += sum(batch.lengths)
            waiting.append(batch.trajectories)
            for size in SIZES:
                if (len(waiting) * 64) % size:
                    continue
                seen = snapshot(parts, joined(waiting[-(size // 64) :]))
                comparison = Comparison(seen, candidates, gamma=GAMMA, max_columns=None)
                found = findings(comparison, group=8)
                means[size, CURRENT].add(comparison.current().mean(dim=0))
                window = Window(1)
                window.add(found)
                for each in candidates:
                    means[size, each.name].add(comparison.gradients(each).mean(dim=0))
                    if each.name not in found:
                        continue
                    spread = found[each.name].spread
                    points.setdefault((size, each.name), []).append(
                        (float(spread.variance[0]), float(spread.signal[0]))
                    )
                    for kind, interval in (
                        ("ratio", window.variance_ratio(each.name, CURRENT)), ("snr", window.snr(each.name)),
                    ):  # fmt: skip
                        if interval.low is not None and interval.high is not None:
                            intervals.setdefault((size, each.name, kind), []).append((interval.low, interval.high))
            if len(waiting) * 64 == SIZES[-1]:
                waiting = []
        drawn.lanes.close()
    rows = []
    for size in SIZES:
        for name in names:
            own = means[size, name]
            if own.count < 2:
                continue
            pooled = torch.tensor(points.get((size, name), [(math.nan, math.nan)]), dtype=torch.float64).mean(dim=0)
            reference = torch.tensor(points[size, "leave_one_out"], dtype=torch.float64).mean(dim=0)
            # The estimates are unbiased, as the tests show by enumeration: all trajectories together are the truth.
            truth = {"ratio": float(pooled[0] / reference[0]), "snr": float(pooled[1] / pooled[0])}
            covered = {
                kind: [low <= truth[kind] <= high for low, high in intervals.get((size, name, kind), [])]
                for kind in truth
            }
            known = {"ratio": None, "snr": None} if math.isnan(truth["ratio"]) else truth
            cosine = torch.nn.functional.cosine_similarity(own.total, means[size, "value"].total, dim=0)
            z = float((own.total - means[size, "value"].total).norm()) / own.count
            noise = ((own.variance() + means[size, "value"].variance()) / own.count) ** 0.5
            rows.append({
                "policy": stage, "trajectories": size, "estimator": name, "batches": own.count,
                "variance_ratio": known["ratio"],
                "variance_ratio_of_means": own.variance() / means[size, "leave_one_out"].variance(),
                "snr": known["snr"], "coverage_ratio": _share(covered["ratio"]), "coverage_snr": _share(covered["snr"]),
                "distance_to_value_over_noise": z / noise if noise else None, "cosine_to_value": float(cosine),
            })  # fmt: skip
    return {
        "policy": stage, "mean_length": lengths / (batches * 64), "cpu_seconds": time.process_time() - start,
        "rows": rows,
    }  # fmt: skip


def _share(hits: Sequence[bool]) -> float | None:
    return sum(hits) / len(hits) if hits else None


def main() -> None:
    """Measures every policy, two at a time, and writes `table.json`."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/baseline_variance"), help="folder of the results")
    parser.add_argument("--batches", type=int, default=1000, help="independent batches of 64 trajectories a policy")
    parser.add_argument("--seed", type=int, default=0, help="of the training run")
    parser.add_argument("--estimators", default=",".join(NAMES), help="of them; leave_one_out and value always are")
    parser.add_argument("--quick", action="store_true", help="a few batches, to see whether it works")
    options = parser.parse_args()
    batches = 32 if options.quick else options.batches
    names = tuple(name for name in NAMES if name in ("leave_one_out", "value", *options.estimators.split(",")))
    options.out.mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(2) as pool:
        futures = {
            stage: pool.submit(measure, stage, names=names, batches=batches, seed=options.seed, fits=20)
            for stage in reversed(STAGES)
        }
        found = [futures[stage].result() for stage in STAGES]
    (options.out / "table.json").write_text(json.dumps(found, indent=1), encoding="utf-8")
    for each in found:
        print(f"{each['policy']}: mean length {each['mean_length']:.0f}, {each['cpu_seconds']:.0f} CPU seconds")
        for row in each["rows"]:
            print("  ", *(f"{value:.3g}" if isinstance(value, float) else value for value in list(row.values())[1:]))


if __name__ == "__main__":
    main()
