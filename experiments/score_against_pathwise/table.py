"""The table of this folder: samples to the target, by estimator, from the folders of its sweeps.

python experiments/score_against_pathwise/table.py runs/conjugate_gaussian
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from seeds import median_interval

PATH, SCORE = ("pathwise", "zero"), ("score", "leave_one_out")


def main() -> None:
    """Prints one row an estimator, and the ratio of the two on equal seeds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="a folder that holds the sweeps")
    taken: dict[tuple[str, str], dict[int, float]] = defaultdict(dict)
    for file in sorted(parser.parse_args().folder.rglob("summary.json")):
        run = json.loads(file.read_text(encoding="utf-8"))
        reached = run["samples_to_target"]
        taken[run["estimator"], run["baseline"]][run["seed"]] = float("inf") if reached is None else reached
    print("| estimator | baseline | samples to the target, seed by seed | median [95 %] |\n|---|---|---|---|")
    for (estimator, baseline), by_seed in sorted(taken.items()):
        values = [by_seed[seed] for seed in sorted(by_seed)]
        shown = ", ".join(_show(value, "{:,.0f}") for value in values)
        print(f"| `{estimator}` | `{baseline}` | {shown} | {_interval(values, '{:,.0f}')} |")
    seeds = sorted(taken[PATH].keys() & taken[SCORE].keys())
    ratios = [taken[SCORE][seed] / taken[PATH][seed] for seed in seeds]
    print(f"\nScore with leave-one-out over pathwise, on equal seeds: {_interval(ratios, '{:.2f}')} times the samples.")


def _interval(values: list[float], form: str) -> str:
    middle, low, high = (_show(value, form) for value in median_interval(values))
    return f"{middle} [{low}, {high}]"


def _show(value: float, form: str) -> str:
    return "never" if value == float("inf") else form.format(value)


if __name__ == "__main__":
    main()
