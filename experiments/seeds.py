"""Prints a table of runs that differ in their seed, in Markdown; reads the `summary.json` of every run in a folder.

python experiments/seeds.py runs/CartPole-v1/reinforce/<time>-sweep
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

RESAMPLES = 10_000
NEVER = math.inf
MARKS = ("<!-- table -->", "<!-- end of table -->")

Summary = dict[str, Any]


def _evaluated(law: str) -> Callable[[Summary], float]:
    return lambda summary: summary["eval"][law]["mean"] if summary["eval"] else math.nan


def _or_never(key: str) -> Callable[[Summary], float]:
    return lambda summary: NEVER if summary[key] is None else summary[key]


COLUMNS: dict[str, tuple[Callable[[Summary], float], str]] = {
    "solved at step": (_or_never("solved_at_steps"), "{:,.0f}"),
    "solved at CPU second": (_or_never("solved_at_cpu_seconds"), "{:.2f}"),
    "last 100 returns": (lambda summary: summary["return_mean_100"], "{:.1f}"),
    "deterministic": (_evaluated("deterministic"), "{:.1f}"),
    "stochastic": (_evaluated("stochastic"), "{:.1f}"),
    "steps": (lambda summary: summary["env_steps"], "{:,.0f}"),
    "CPU seconds": (lambda summary: summary["train_cpu_seconds"], "{:.2f}"),
}


def summaries(folder: Path) -> list[Summary]:
    """Returns the summaries of all runs below a folder, by seed.

    Raises: SystemExit where there is none, where one did not finish, or where two share a seed.
    """
    found = [json.loads(path.read_text(encoding="utf-8")) for path in folder.rglob("summary.json")]
    if not found:
        raise SystemExit(f"{folder}: no summary.json, expected the folder of a sweep over seeds")
    found.sort(key=lambda summary: summary["seed"])
    seeds = [summary["seed"] for summary in found]
    if len(set(seeds)) < len(seeds):
        raise SystemExit(f"{folder}: seeds {seeds}, expected one run each; name the folder of one sweep")
    if unfinished := [summary["seed"] for summary in found if summary["status"] != "finished"]:
        raise SystemExit(f"{folder}: seeds {unfinished} did not finish, expected only finished runs")
    return found


def median_interval(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float, float]:
    """Returns (median, low, high), the bounds by the percentile bootstrap over seeds.

    A seed that never got there counts as infinity, so order statistics stand where means would not.
    """
    sample = np.sort(np.asarray(values, dtype=np.float64))
    resampled = np.random.default_rng(0).choice(sample, size=(RESAMPLES, len(sample)))
    tail = (1 - confidence) / 2
    medians = _medians(resampled)
    low, high = np.quantile(medians, (tail, 1 - tail), method="inverted_cdf")
    return float(_medians(sample[None])[0]), float(low), float(high)


def table(runs: Sequence[Summary]) -> str:
    """Returns one row a seed and one for the median, in Markdown; what no run can have is left out."""
    shown = {
        title: column
        for title, column in COLUMNS.items()
        if runs[0]["reward_threshold"] is not None or not title.startswith("solved")
    }
    lines = [f"| seed | {' | '.join(shown)} |", "|---" * (len(shown) + 1) + "|"]
    for run in runs:
        cells = [_show(read(run), form) for read, form in shown.values()]
        lines.append(f"| {run['seed']} | {' | '.join(cells)} |")
    if len(runs) > 1:
        cells = []
        for read, form in shown.values():
            middle, low, high = (_show(value, form) for value in median_interval([read(run) for run in runs]))
            cells.append(f"{middle} [{low}, {high}]")
        lines.append(f"| **median** | {' | '.join(cells)} |")
    return "\n".join(lines)


def _medians(rows: np.ndarray) -> np.ndarray:
    """Returns the median of each row; infinite where a middle value is, which an average would turn into nan."""
    ordered = np.sort(rows, axis=1)
    lower, upper = ordered[:, (ordered.shape[1] - 1) // 2], ordered[:, ordered.shape[1] // 2]
    return np.where(np.isinf(upper), upper, (lower + upper) / 2)


def _show(value: float, form: str) -> str:
    return "never" if value == NEVER else "–" if math.isnan(value) else form.format(value)


def report(runs: Sequence[Summary], goal: float | None) -> str:
    """Returns the table and a line that counts the seeds which got there."""
    lines = [table(runs)]
    threshold = runs[0]["reward_threshold"]
    if threshold is not None:
        solved = sum(run["solved_at_steps"] is not None for run in runs)
        lines.append(f"{solved} of {len(runs)} seeds reached {threshold:g}, the mean of 100 training episodes.")
    if goal is not None:
        above = sum(run["return_mean_100"] > goal for run in runs)
        lines.append(f"{above} of {len(runs)} seeds ended above {goal:g}, the mean of the last 100 training episodes.")
    if len(runs) > 1:
        lines.append(f"Medians over {len(runs)} seeds with 95 % percentile bootstrap intervals; {_versions(runs[0])}.")
    return "\n\n".join(lines)


def put_into(document: Path, text: str) -> None:
    """Replaces what stands between the two marks of a document.

    Raises: SystemExit where it does not have both, once.
    """
    before, begin, rest = document.read_text(encoding="utf-8").partition(MARKS[0])
    _, end, after = rest.partition(MARKS[1])
    if not begin or not end:
        raise SystemExit(f"{document}: no lines {MARKS[0]} and {MARKS[1]}, expected the place for the table")
    document.write_text(f"{before}{begin}\n{text}\n{end}{after}", encoding="utf-8")


def _versions(run: Summary) -> str:
    return ", ".join(f"{name} {version}" for name, version in run["versions"].items())


def main() -> None:
    """Prints the table, or writes it where a README keeps it."""
    parser = argparse.ArgumentParser(description="A table of the runs in a folder, one row a seed.")
    parser.add_argument("folder", type=Path, help="the folder of a sweep over seeds")
    parser.add_argument("--goal", type=float, help="count the seeds whose last 100 training episodes are above this")
    parser.add_argument("--into", type=Path, help="the document whose table is replaced; default: print")
    options = parser.parse_args()
    text = report(summaries(options.folder), options.goal)
    if options.into is None:
        print(text)
    else:
        put_into(options.into, text)


if __name__ == "__main__":
    main()
