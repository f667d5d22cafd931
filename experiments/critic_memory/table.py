"""Returns with and without a memory in the critic, at several times of training, and their differences seed by seed.

python experiments/critic_memory/table.py runs/critic_memory
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy import stats

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from seeds import median_interval, summaries

CRITICS = ("value", "recurrent_value")
TIMES = (25_000, 50_000, 75_000, 100_000)


def by_then(run: Path, column: str, steps: int) -> float:
    """Returns the last value of a metric within so many environment steps."""
    with (run / "metrics.csv").open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if float(row["env_steps"]) <= steps]
    return float(rows[-1][column])


def mean_interval(differences: Sequence[float]) -> str:
    """Returns the mean of differences over seeds with its interval by Student's law."""
    middle, error = float(np.mean(differences)), float(stats.sem(differences))
    reach = error * float(stats.t.ppf(0.975, len(differences) - 1))
    return f"{middle:+.0f} [{middle - reach:+.0f}, {middle + reach:+.0f}]"


def seeds_below(folder: Path) -> dict[int, Path]:
    """Returns the folders of finished runs by seed."""
    return {json.loads(path.read_text(encoding="utf-8"))["seed"]: path.parent for path in folder.rglob("summary.json")}


def main() -> None:
    """Prints one table for each task."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="folder of the runs")
    folder = parser.parse_args().folder
    runs = {critic: seeds_below(folder / "hidden_velocities" / critic) for critic in CRITICS}
    seeds = sorted(set(runs["value"]) & set(runs["recurrent_value"]))
    print(f"| critic, {len(seeds)} seeds | " + " | ".join(f"{steps:,} steps" for steps in TIMES) + " | CPU seconds |")
    print("|---" * (len(TIMES) + 2) + "|")
    returns = {
        critic: np.array([[by_then(runs[critic][seed], "return/mean_100", steps) for steps in TIMES] for seed in seeds])
        for critic in CRITICS
    }
    for critic in CRITICS:
        cells = ["{:.0f} [{:.0f}, {:.0f}]".format(*median_interval(column)) for column in returns[critic].T]
        spent = [run["train_cpu_seconds"] for run in summaries(folder / "hidden_velocities" / critic)]
        print(f"| `{critic}` | {' | '.join(cells)} | {np.median(spent):.0f} |")
    differences = (returns["recurrent_value"] - returns["value"]).T
    print(f"| mean difference | {' | '.join(mean_interval(list(column)) for column in differences)} | |")
    count = len(seeds_below(folder / "recall_cue" / "value"))
    print(f"\n| critic, {count} seeds | solved at step, seed by seed | median | CPU seconds |\n|---|---|---|---|")
    for critic in CRITICS:
        found = summaries(folder / "recall_cue" / critic)
        solved = [run["solved_at_steps"] for run in found]
        spent = np.median([run["train_cpu_seconds"] for run in found])
        cells = ", ".join("never" if steps is None else f"{steps:,}" for steps in solved)
        middle = np.median([np.inf if steps is None else steps for steps in solved])
        print(f"| `{critic}` | {cells} | {middle:,.0f} | {spent:.1f} |")


if __name__ == "__main__":
    main()
