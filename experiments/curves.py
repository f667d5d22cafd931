"""Draws the learning curves of runs that differ in their seed, and how noisy their gradients were.

    python experiments/curves.py runs/CartPole-v1/reinforce/<time>-sweep figure.png

Needs the extra `plots`.
"""

from __future__ import annotations

import argparse
import csv
import json
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

matplotlib.use("agg")

from matplotlib import pyplot

POINTS = 200
EACH = 3
"""Measurements of every seed that a point of the SNR's median stands on: a single one is several times off."""

Curve = tuple[np.ndarray, np.ndarray]


def curve(run: Path, tag: str) -> Curve:
    """Returns (environment steps, values) of a tag, where it has a value.

    A batch whose episodes all have the same return is left out: what looks like a gradient there is rounding.
    """
    with (run / "metrics.csv").open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row.get(tag) and not _all_alike(tag, row)]
    return np.array([float(row["env_steps"]) for row in rows]), np.array([float(row[tag]) for row in rows])


def _all_alike(tag: str, row: dict[str, str]) -> bool:
    return tag.startswith("gradient/") and bool(row["return/min"]) and row["return/min"] == row["return/max"]


def draw_lines(axes: Any, curves: list[Curve]) -> None:
    """Draws one thin line a seed, and their median over the steps that all of them made."""
    for steps, values in curves:
        axes.plot(steps, values, color="tab:blue", alpha=0.3, linewidth=0.8)
    grid = np.linspace(max(steps[0] for steps, _ in curves), min(steps[-1] for steps, _ in curves), POINTS)
    values = np.median([np.interp(grid, *each) for each in curves], axis=0)
    axes.plot(grid, values, color="tab:blue", linewidth=2, label="median")


def draw_points(axes: Any, curves: list[Curve]) -> None:
    """Draws every measurement as a point, and the running median over the measurements of all seeds."""
    steps, values = (np.concatenate(parts) for parts in zip(*curves, strict=True))
    axes.plot(steps, values, ".", color="tab:blue", alpha=0.3, markersize=3)
    window = EACH * len(curves)
    if len(steps) < window:
        return
    order = np.argsort(steps)
    of_windows = (np.lib.stride_tricks.sliding_window_view(x[order], window) for x in (steps, values))
    middle, median = (np.median(x, axis=1) for x in of_windows)
    axes.plot(middle, median, color="tab:blue", linewidth=2)


def main() -> None:
    """Draws the figure."""
    parser = argparse.ArgumentParser(description="Return and gradient SNR against environment steps, one line a seed.")
    parser.add_argument("folder", type=Path, help="the folder of a sweep over seeds")
    parser.add_argument("figure", type=Path, help="the picture to write, such as figure.png")
    options = parser.parse_args()
    runs = sorted(path.parent for path in options.folder.rglob("summary.json"))
    if not runs:
        raise SystemExit(f"{options.folder}: no summary.json, expected the folder of a sweep over seeds")
    first = json.loads((runs[0] / "summary.json").read_text(encoding="utf-8"))

    figure, (above, below) = pyplot.subplots(2, 1, figsize=(7, 6), sharex=True, layout="constrained")
    draw_lines(above, [curve(run, "return/mean_100") for run in runs])
    if first["reward_threshold"] is not None:
        above.axhline(first["reward_threshold"], color="black", linewidth=0.8, linestyle=":", label="solved")
    above.set_ylabel("mean return of the last 100 episodes")
    above.set_title(f"{first['env']}, agent={first['agent']}, {len(runs)} seeds")
    above.legend(loc="lower right")
    draw_points(below, [curve(run, "gradient/snr") for run in runs])
    below.axhline(0, color="black", linewidth=0.8)
    below.set_yscale("symlog", linthresh=1)
    below.set_ylabel("gradient SNR")
    below.set_xlabel("environment steps")
    figure.savefig(options.figure, dpi=110)


if __name__ == "__main__":
    main()
