"""Puts the runs of the benchmark beside published returns, in Markdown.

    python experiments/benchmark/table.py runs/benchmark --into experiments/benchmark/README.md

Reads the `summary.json` of every run below a folder; what was run is in the `.hydra` beside it. A row is a preset on an
environment, its number the interquartile mean over seeds of the returns of evaluation.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import OmegaConf

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from seeds import put_into

RESAMPLES = 10_000
FEWEST = 5
"""Seeds below which the values themselves are printed: a middle half of four is two."""
LAWS = ("deterministic", "stochastic")

Summary = dict[str, Any]


@dataclass(frozen=True)
class Published:
    """A return that somebody printed, and after how many environment steps."""

    source: str
    value: float
    steps: int


ZOO, CLEANRL, TIANSHOU = "Zoo", "CleanRL", "Tianshou"
LAW_OF = {ZOO: "deterministic", CLEANRL: "stochastic", TIANSHOU: "stochastic"}
"""Of what is published: CleanRL's are returns in training, Tianshou's of a test whose actions were drawn as well."""
PUBLISHED: dict[tuple[str, str], tuple[Published, ...]] = {
    ("CartPole-v1", "ppo"): (Published(ZOO, 500.0, 100_000),),
    ("Acrobot-v1", "ppo"): (Published(ZOO, -73.506, 1_000_000),),
    ("Acrobot-v1", "a2c"): (Published(ZOO, -83.353, 500_000),),
    ("LunarLander-v3", "ppo"): (Published(ZOO, 242.119, 1_000_000),),
    ("LunarLander-v3", "a2c"): (Published(ZOO, 155.751, 200_000),),
    ("Pendulum-v1", "ppo"): (Published(ZOO, -172.225, 100_000),),
    ("Pendulum-v1", "a2c"): (Published(ZOO, -162.965, 1_000_000),),
    ("MountainCarContinuous-v0", "ppo"): (Published(ZOO, 88.343, 20_000),),
    ("MountainCarContinuous-v0", "a2c"): (Published(ZOO, 91.166, 100_000),),
    ("HalfCheetah-v5", "ppo"): (Published(CLEANRL, 1442.64, 1_000_000), Published(TIANSHOU, 5783.9, 1_000_000)),
    ("Hopper-v5", "ppo"): (Published(CLEANRL, 2382.86, 1_000_000), Published(TIANSHOU, 2609.3, 1_000_000)),
    ("Walker2d-v5", "ppo"): (Published(CLEANRL, 2287.95, 1_000_000), Published(TIANSHOU, 3588.5, 1_000_000)),
    ("HalfCheetah-v5", "trpo"): (Published(TIANSHOU, 4471.2, 1_000_000),),
    ("Hopper-v5", "trpo"): (Published(TIANSHOU, 2046.0, 1_000_000),),
    ("Walker2d-v5", "trpo"): (Published(TIANSHOU, 3826.7, 1_000_000),),
}  # fmt: skip
"""By environment and agent; the README names the pages."""


def interquartile_mean(values: np.ndarray) -> np.ndarray:
    """Returns the mean of the last axis `[..., n]` without its floor(n / 4) lowest and as many highest values."""
    cut = values.shape[-1] // 4
    mean: np.ndarray = np.sort(values, axis=-1)[..., cut : values.shape[-1] - cut].mean(axis=-1)
    return mean


def interval(values: np.ndarray, confidence: float = 0.95) -> tuple[float, float, float]:
    """Returns (interquartile mean, low, high) of values `[n]`, one a seed; bounds by the percentile bootstrap.

    Seeds are drawn again within an environment, its stratum: no row mixes two.
    Source: Agarwal et al. 2021, arXiv:2108.13264.
    """
    resampled = np.random.default_rng(0).choice(values, size=(RESAMPLES, len(values)))
    low, high = np.quantile(interquartile_mean(resampled), ((1 - confidence) / 2, (1 + confidence) / 2))
    return float(interquartile_mean(values)), float(low), float(high)


def runs(folder: Path) -> dict[tuple[str, str, str], list[Summary]]:
    """Returns the finished runs below a folder by (preset, environment, agent), by seed.

    Raises: SystemExit where there is none, where one did not finish, or where two of a preset share a seed.
    """
    found: dict[tuple[str, str, str], list[Summary]] = defaultdict(list)
    for path in sorted(folder.rglob("summary.json")):
        summary = json.loads(path.read_text(encoding="utf-8"))
        if summary["status"] != "finished":
            raise SystemExit(f"{path}: {summary['status']}, expected only finished runs")
        hydra: Any = OmegaConf.load(path.parent / ".hydra" / "hydra.yaml")
        config: Any = OmegaConf.load(path.parent / ".hydra" / "config.yaml")
        summary["frames"] = summary["env_steps"] * frames_of(config.env.wrappers)
        choices = hydra.hydra.runtime.choices
        found[choices.experiment, summary["env"], choices.agent].append(summary)
    if not found:
        raise SystemExit(f"{folder}: no summary.json, expected the folder of the benchmark's sweeps")
    for key, several in found.items():
        several.sort(key=lambda summary: summary["seed"])
        if len({summary["seed"] for summary in several}) < len(several):
            raise SystemExit(f"{folder}: two runs of {' '.join(key)} share a seed, expected one each")
    return dict(found)


def frames_of(wrappers: Sequence[Any]) -> int:
    """Returns the environment's own steps in one decision: what a frame skip multiplies."""
    skips = (wrapper["frame_skip"]["num"] for wrapper in wrappers if "frame_skip" in wrapper)
    return int(np.prod([1, *skips]))


def row(preset: str, env: str, agent: str, several: list[Summary]) -> str:
    """Returns the row of a preset on an environment."""
    returns = {law: np.array([summary["eval"][law]["mean"] for summary in several]) for law in LAWS}
    steps = max(summary["frames"] for summary in several)
    seconds = np.median([summary["train_cpu_seconds"] for summary in several])
    goals = PUBLISHED[env, agent]
    cells = [
        env,
        agent,
        preset,
        f"{steps:,}",
        f"{len(several)}",
        *(shown(each) for each in returns.values()),
        "<br>".join(f"{goal.source} {goal.value:,.1f} at {goal.steps:,}" for goal in goals),
        "<br>".join(verdict(returns[LAW_OF[goal.source]], goal) for goal in goals),
        f"{seconds:.1f}",
    ]
    return f"| {' | '.join(cells)} |"


def shown(returns: np.ndarray) -> str:
    """Returns the interquartile mean and its interval, or the values themselves where they are few."""
    if len(returns) < FEWEST:
        return ", ".join(f"{value:,.1f}" for value in returns)
    middle, low, high = interval(returns)
    return f"{middle:,.1f} [{low:,.1f}, {high:,.1f}]"


def verdict(returns: np.ndarray, goal: Published) -> str:
    """Says whether the published return is reached: by the interval, or by which side of it the seeds are on."""
    if len(returns) < FEWEST:
        return f"{int((returns >= goal.value).sum())} of {len(returns)}"
    middle, low, _ = interval(returns)
    return ("yes, and its interval" if low >= goal.value else "yes") if middle >= goal.value else "no"


def solved(several: list[Summary]) -> str:
    """Returns when the training episodes of seeds reached the threshold: median and range."""
    steps, seconds = (
        np.array([np.inf if summary[key] is None else summary[key] for summary in several])
        for key in ("solved_at_steps", "solved_at_cpu_seconds")
    )
    return (
        f"{several[0]['env']}: {int(np.isfinite(steps).sum())} of {len(several)} seeds solved it, at a median of "
        f"{np.median(steps):,.0f} steps [{steps.min():,.0f}, {steps.max():,.0f}] and {np.median(seconds):.2f} "
        f"[{seconds.min():.2f}, {seconds.max():.2f}] seconds of processor time (median and range)."
    )


def report(found: dict[tuple[str, str, str], list[Summary]]) -> str:
    """Returns the table, and a line on what has a threshold and reaches it in training."""
    heads = (
        "environment", "agent", "`experiment=`", "steps", "seeds", *LAWS, "published", "reached", "CPU seconds",
    )  # fmt: skip
    order = list(PUBLISHED)
    keys = sorted(found, key=lambda key: (order.index((key[1], key[2])), key[0]))
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    lines += [row(*key, found[key]) for key in keys]
    cartpole = [solved(found[key]) for key in keys if key[1] == "CartPole-v1"]
    versions = ", ".join(f"{name} {version}" for name, version in next(iter(found.values()))[0]["versions"].items())
    return "\n\n".join(["\n".join(lines), *cartpole, f"With {versions}."])


def main() -> None:
    """Prints the table, or writes it where the README keeps it."""
    parser = argparse.ArgumentParser(description="The benchmark's runs beside published returns.")
    parser.add_argument("folder", type=Path, help="the folder of the benchmark's sweeps")
    parser.add_argument("--into", type=Path, help="the document whose table is replaced; default: print")
    options = parser.parse_args()
    text = report(runs(options.folder))
    if options.into is None:
        print(text)
    else:
        put_into(options.into, text)


if __name__ == "__main__":
    main()
