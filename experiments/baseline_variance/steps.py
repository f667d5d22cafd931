"""Prints how many steps runs took to solve their task, one line a returns-and-baseline setting, in Markdown.

python experiments/baseline_variance/steps.py runs/baseline_steps
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
from collections import defaultdict
from pathlib import Path

from omegaconf import OmegaConf

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from seeds import median_interval


def settings(folder: Path) -> str:
    """Returns the estimator that a run was made with: returns and baseline, control variate, critic."""
    choices = OmegaConf.load(folder / ".hydra" / "hydra.yaml").hydra.runtime.choices
    control = OmegaConf.load(folder / ".hydra" / "config.yaml").estimator.get("control_variate", "none")
    if choices.estimator == "all_action":  # it reads neither returns nor baseline
        return f"{choices.estimator}, critic={choices.critic}"
    more = [control] * (control != "none") + [f"critic={choices.critic}"] * (choices.critic != "none")
    return ", ".join((choices.returns, choices.baseline, *more))


def steps(value: float) -> str:
    """Returns a number of steps, or `never`."""
    return "never" if math.isinf(value) else f"{value:,.0f}"


def main() -> None:
    """Reads every summary below a folder and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="folder of the runs, searched to any depth")
    options = parser.parse_args()
    solved: dict[str, list[float]] = defaultdict(list)
    for path in sorted(options.folder.rglob("summary.json")):
        at = json.loads(path.read_text(encoding="utf-8"))["solved_at_steps"]
        solved[settings(path.parent)].append(math.inf if at is None else at)
    print("| returns, baseline | solved | median steps to solve |\n|---|---|---|")
    for name, values in sorted(solved.items(), key=lambda pair: statistics.median(pair[1])):
        middle, low, high = median_interval(values)
        reached = sum(math.isfinite(value) for value in values)
        print(f"| {name} | {reached}/{len(values)} | {steps(middle)} [{steps(low)}, {steps(high)}] |")


if __name__ == "__main__":
    main()
