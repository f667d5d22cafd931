"""How far off-policy values of CartPole are from on-policy Monte Carlo, and how often their intervals hold it.

The target is the policy of a run at temperature 2, so that its episodes differ; behaviours are hotter still. An
episode of the short horizon is the beginning of one of the full horizon: both are read off the same data.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

from pgkit.core.off_policy_value import discounted_returns, step_log_ratios
from pgkit.offline.bounds import bounds
from pgkit.offline.estimates import BIAS, Question, estimates
from pgkit.playback import lanes_of, load_policy
from pgkit.rl.evaluation import play
from pgkit.rl.logged import log_prob_of_logged
from pgkit.run.trajectory_files import SavedTrajectories
from pgkit.types import Trajectories

TARGET = 2.0
TEMPERATURES = (2.0, 2.5, 3.0, 4.0)
HORIZONS = (50, 500)
NAMES = [name for name in BIAS if name != "marginal"]
COLOURS = ("#7f7f7f", "#bcbd22", "#ff7f0e", "#d62728", "#1f77b4", "#17becf", "#2ca02c")


class Tempered:
    """A categorical policy whose logits are divided by a temperature."""

    def __init__(self, policy: Any, temperature: float) -> None:
        self.policy, self.law, self.temperature = policy, policy.law, temperature

    def __call__(self, obs: Any) -> torch.Tensor:
        return self.policy(obs) / self.temperature

    def log_prob(self, obs: Any, actions: torch.Tensor) -> torch.Tensor:
        return self.law.log_prob(self(obs), actions)

    def actor(self) -> Any:
        act = self.policy.actor()
        return lambda obs: act(obs) / self.temperature


def collected(policy: Tempered, folder: Path, episodes: int, seed: int) -> Trajectories:
    """Returns episodes of a policy."""
    lanes = lanes_of(folder, num_envs=50)
    generator = np.random.default_rng(seed)
    seeds = [int(each) for each in generator.integers(2**31, size=50)]
    try:
        batch = play(lanes, policy.actor(), policy.law, episodes=episodes, seeds=seeds, generator=generator)
    finally:
        lanes.close()
    return batch.trajectories


def shortened(batch: Trajectories, horizon: int) -> Trajectories:
    """Returns the beginnings of the episodes, as a time limit would leave them."""
    keep = min(horizon, batch.num_steps)
    rows = ("actions", "rewards", "behavior_log_prob", "terminated", "truncated", "starts", "mask")
    cut = {name: getattr(batch, name)[:keep] for name in rows}
    assert isinstance(batch.obs, torch.Tensor)
    return replace(batch, obs=batch.obs[: keep + 1], **cut)


def measured(
    policy: Tempered, batch: Trajectories, spaces: tuple[Any, Any], args: argparse.Namespace
) -> list[dict[str, Any]]:
    """Returns what every estimator and bound says of every data set of `args.size` episodes."""
    found = []
    for number in range(batch.num_columns // args.size):
        # Every lane's episodes are spread over the data sets.
        own = batch.columns(torch.arange(number, batch.num_columns, batch.num_columns // args.size)[: args.size])
        longest = int(own.mask.any(dim=1).sum())
        own = shortened(own, longest)
        ratio = step_log_ratios(log_prob_of_logged(policy, own), own.behavior_log_prob, own.mask)
        question = Question(
            saved=SavedTrajectories(trajectories=own, observation_space=spaces[0], action_space=spaces[1]),
            log_ratio=ratio, policy=policy, gamma=1.0, confidence=0.95, resamples=1000, folds=2,
            fit_steps=args.fit_steps, seed=number,
        )  # fmt: skip
        rows = {line.name: [line.value, line.low, line.high] for line in estimates(question, NAMES)}
        # The largest weight seen stands for the largest there is, which the tool itself would not always do.
        limit = float(ratio.sum(dim=0).exp().max())
        reach = bounds(question, return_range=[0.0, float(args.horizon)], weight_limit=limit)
        rows |= {bound.name: [None, bound.low, bound.high] for bound in reach}
        health = next(line.health for line in estimates(question, ["trajectory"]))
        found.append({"rows": rows, "ess": health.effective_sample_size if health else 0.0})
    return found


def summarised(sets: list[dict[str, Any]], truth: float) -> dict[str, Any]:
    """Returns bias, root mean squared error, coverage and mean width of each estimator, over the data sets."""
    result: dict[str, Any] = {"ess": float(np.mean([each["ess"] for each in sets]))}
    for name in sets[0]["rows"]:
        rows = [each["rows"][name] for each in sets if name in each["rows"]]
        values = np.array([row[0] for row in rows if row[0] is not None])
        ends = [(row[1], row[2]) for row in rows if row[1] is not None]
        result[name] = {
            "bias": float(values.mean() - truth) if len(values) else None,
            "bias_se": float(values.std() / np.sqrt(len(values))) if len(values) else None,
            "rmse": float(np.sqrt(np.mean((values - truth) ** 2))) if len(values) else None,
            "coverage": float(np.mean([low <= truth <= high for low, high in ends])) if ends else None,
            "width": float(np.median([high - low for low, high in ends])) if ends else None,
            "sets": len(rows),
        }
    return result


def drawn(table: dict[str, Any], path: Path) -> None:
    """Writes the figure: errors and coverage over the temperature, a row for each horizon."""
    figure = Figure(figsize=(10, 7), layout="constrained")
    axes = figure.subplots(2, 2, sharex=True)
    for row, horizon in enumerate(map(str, HORIZONS)):
        cells = [table[horizon][str(each)] for each in TEMPERATURES]
        truth = table[horizon]["truth"]
        for name, colour in zip(NAMES, COLOURS, strict=True):
            errors = [cell[name]["rmse"] / truth for cell in cells]
            axes[row][0].plot(TEMPERATURES, errors, "o-", color=colour, label=name if row == 0 else None, markersize=4)
            if cells[0][name]["coverage"] is not None:
                axes[row][1].plot(TEMPERATURES, [c[name]["coverage"] for c in cells], "o-", color=colour, markersize=4)
        for name, style in {"empirical_bernstein": ":", "truncated_bernstein": "--"}.items():
            axes[row][1].plot(
                TEMPERATURES,
                [c[name]["coverage"] for c in cells],
                style,
                color="black",
                label=name if row == 0 else None,
            )
        axes[row][1].axhline(0.95, color="#aaaaaa", linewidth=1)
        axes[row][0].set_yscale("log")
        axes[row][0].yaxis.set_major_formatter("{x:g}")
        axes[row][0].yaxis.set_minor_formatter("{x:g}")
        ess = ", ".join(f"{cell['ess']:.0f}" for cell in cells)
        axes[row][0].set_title(f"horizon {horizon}: value {truth:.1f}; effective episodes {ess} of 50", fontsize=10)
        axes[row][1].set_title("coverage of nominal 95 % intervals", fontsize=10)
        axes[row][0].set_ylabel("root mean squared error / value")
        axes[row][1].set_ylim(0.5, 1.03)
    for each in axes[1]:
        each.set_xlabel("temperature of the behaviour; the target's is 2")
        each.set_xticks(TEMPERATURES)
    figure.legend(loc="outside lower center", ncols=5, fontsize=8, frameon=False)
    figure.savefig(path, dpi=110)


def main() -> None:
    """Measures, then writes `table.json` and `errors.png`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, required=True, help="folder of the run whose policy is the target")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    parser.add_argument("--sets", type=int, default=100)
    parser.add_argument("--size", type=int, default=50, help="episodes of a data set")
    parser.add_argument("--truth", type=int, default=10_000, help="on-policy episodes that the truth is the mean of")
    parser.add_argument("--fit-steps", type=int, default=150)
    args = parser.parse_args()
    torch.set_num_threads(1)
    start, policy = time.process_time(), load_policy(args.run)
    target = Tempered(policy, TARGET)
    lanes = lanes_of(args.run, num_envs=1)
    spaces = (lanes.observation_space, lanes.action_space)
    lanes.close()
    own = collected(target, args.run, args.truth, seed=1)
    table: dict[str, Any] = {}
    for horizon in HORIZONS:
        returns = discounted_returns(
            *(getattr(shortened(own, horizon), name) for name in ("rewards", "mask")), gamma=1.0
        )
        table[str(horizon)] = {"truth": float(returns.mean()), "truth_se": float(returns.std() / args.truth**0.5)}
    for number, temperature in enumerate(TEMPERATURES):
        batch = collected(Tempered(policy, temperature), args.run, args.sets * args.size, seed=100 + number)
        for horizon in HORIZONS:
            args.horizon = horizon
            cell = summarised(measured(target, shortened(batch, horizon), spaces, args), table[str(horizon)]["truth"])
            table[str(horizon)][str(temperature)] = cell
            print(horizon, temperature, f"{time.process_time() - start:.0f} s", json.dumps(cell), flush=True)
    table["seconds"] = round(time.process_time() - start)
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "table.json").write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")
    drawn(table, args.out / "errors.png")


if __name__ == "__main__":
    main()
