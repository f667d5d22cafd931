"""Environment steps until the grid's runs held 95 % of their horizon, and that of every method over on-policy's.

python experiments/multiple_importance/table.py runs/multiple_importance
"""

from __future__ import annotations

import argparse
import csv
import math
import sys
from collections import defaultdict
from pathlib import Path

from omegaconf import OmegaConf

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from seeds import median_interval

METHODS = ("on_policy", "balance", "balance_limited", "constant", "clipped", "v_trace")
SHARE = 0.95
Setting = tuple[int, float, float]
"""Horizon, learning rate, momentum."""


def reached(run: Path, goal: float) -> float:
    """Returns the steps at which the mean of the last 100 returns first was `goal`, infinity where it never was."""
    with (run / "metrics.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            if row["return/mean_100"] and float(row["return/mean_100"]) >= goal:
                return float(row["env_steps"])
    return math.inf


def cell(values: list[float], form: str) -> str:
    """Returns a median over seeds with its interval."""
    middle, low, high = (("never" if math.isinf(x) else form.format(x)) for x in median_interval(values))
    return f"{middle} [{low}, {high}]"


def main() -> None:
    """Prints one table a horizon."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="folder of the runs")
    folder = parser.parse_args().folder
    taken: dict[Setting, dict[str, dict[int, float]]] = defaultdict(lambda: defaultdict(dict))
    for path in sorted(folder.rglob("metrics.csv")):
        horizon, method = path.relative_to(folder).parts[:2]
        config = OmegaConf.load(path.parent / ".hydra" / "config.yaml")
        setting = (int(horizon), float(config.optimizer.lr), float(config.optimizer.betas[0]))
        taken[setting][method][int(config.seed)] = reached(path.parent, SHARE * int(horizon))
    for horizon in sorted({setting[0] for setting in taken}):
        settings = sorted(setting for setting in taken if setting[0] == horizon)
        names = [f"lr {rate:g}{', no momentum' if momentum == 0 else ''}" for _, rate, momentum in settings]
        print(f"\n### Horizon {horizon}\n\n| method | " + " | ".join(names) + " |\n|---|" + "---|" * len(names))
        for method in METHODS:
            cells = []
            for setting in settings:
                of_seed, usual = taken[setting].get(method, {}), taken[setting].get("on_policy", {})
                values = [of_seed[seed] for seed in sorted(of_seed)]
                if not values:
                    cells.append("–")
                    continue
                held = sum(map(math.isfinite, values))
                text = cell(values, "{:,.0f}") + f", {held}/{len(values)}"
                # Where neither got there, no ratio is known.
                pairs = [(of_seed[seed], usual[seed]) for seed in sorted(of_seed.keys() & usual.keys())]
                ratios = [a / b for a, b in pairs if math.isfinite(a) or math.isfinite(b)]
                ratios = [0.0 if math.isnan(ratio) else ratio for ratio in ratios]
                cells.append(text if method == "on_policy" else f"{text} · {cell(ratios, '{:.2f}')}")
            print(f"| {method} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
