"""Bias, variance and effective sample size of every correction as the behaviour moves away, by enumeration.

    python experiments/off_policy/measure.py experiments/off_policy/corrections.png

Prints the table of this folder and draws its figure. Needs the extra `plots`.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import torch
from torch import Tensor

matplotlib.use("agg")

from matplotlib import pyplot

from pgkit.core.score import scale
from pgkit.returns.discounted import RewardToGo
from pgkit.types import Trajectories
from pgkit.weights.mixtures import Balance, ConstantMixture, PowerHeuristic
from pgkit.weights.ratios import PerDecision, Trajectory

HORIZON, GAMMA, COLUMNS, BATCHES = 10, 0.99, 16, 40_000
DISTANCES = torch.linspace(0.0, 2.0, 9)
NEXT = torch.tensor([[0, 1], [2, 1], [0, 2]])
REWARD = torch.tensor([[0.0, 1.0], [2.0, 0.0], [-1.0, 1.0]])
TARGET = torch.tensor([[0.3, -0.2], [0.1, 0.4], [-0.5, 0.2]])
AWAY = torch.tensor([[-0.6, 0.6], [0.5, -0.5], [0.4, -0.4]])
"""Three places, two actions; the behaviour's logits are the target's plus a distance times AWAY."""


class Softmax:
    """A softmax policy over a table of logits."""

    def __init__(self, logits: Tensor) -> None:
        self.log_table = logits.log_softmax(dim=1)

    def log_prob(self, obs: Tensor, actions: Tensor) -> Tensor:
        """Returns log π(a|s) `[...]`."""
        return self.log_table[obs, actions]


@dataclass(frozen=True)
class Result:
    """Relative bias, variance of one column over that of on-policy data, effective share of the columns."""

    bias: float
    variance: float
    worth: float


def every_trajectory() -> tuple[Tensor, Tensor]:
    """Returns the places `[H+1, K]` and actions `[H, K]` of all 2^H episodes."""
    actions = torch.tensor(list(itertools.product((0, 1), repeat=HORIZON))).T
    places = [torch.zeros(actions.shape[1], dtype=torch.long)]
    for row in actions:
        places.append(NEXT[places[-1], row])
    return torch.stack(places), actions


PLACES, ACTIONS = every_trajectory()


def trajectories_of(behaviors: list[Softmax]) -> Trajectories:
    """Returns every episode once for each behaviour, side by side."""
    count, paths = len(behaviors), ACTIONS.shape[1]
    said = torch.stack([each.log_prob(PLACES[:-1], ACTIONS) for each in behaviors])
    mask = torch.ones(HORIZON, count * paths, dtype=torch.bool)
    starts, ends = torch.zeros_like(mask), torch.zeros_like(mask)
    starts[0], ends[-1] = True, True
    ids = torch.arange(count).repeat_interleave(paths)
    return Trajectories(
        obs=PLACES.repeat(1, count), actions=ACTIONS.repeat(1, count),
        rewards=REWARD[PLACES[:-1], ACTIONS].repeat(1, count), behavior_log_prob=said.transpose(0, 1).flatten(1),
        behavior_id=ids, lane=ids, terminated=ends, truncated=torch.zeros_like(mask), starts=starts, mask=mask,
        whole_episodes=True, log_densities=said.repeat(1, 1, count) if count > 1 else None,
    )  # fmt: skip


def scores(policy: Softmax) -> Tensor:
    """Returns ∇ log π(a_t|s_t) in the logits, `[H, K, 6]`."""
    chosen = torch.nn.functional.one_hot(ACTIONS, 2) - policy.log_table.exp()[PLACES[:-1]]
    placed = torch.nn.functional.one_hot(PLACES[:-1], 3)[..., None] * chosen[..., None, :]
    return placed.flatten(2).double()


def values(policy: Softmax) -> Tensor:
    """Returns V `[H, 3]` of the policy with t steps gone."""
    table, later, result = policy.log_table.exp(), torch.zeros(3), []
    for _ in range(HORIZON):
        later = (table * (REWARD + GAMMA * later[NEXT])).sum(dim=1)
        result.append(later)
    return torch.stack(result[::-1])


def gradients(weights: object, behaviors: list[Softmax], target: Softmax) -> tuple[Tensor, Tensor]:
    """Returns the gradient `[B·K, 6]` of every column, less the target's value, and its log weight at the end."""
    batch = trajectories_of(behaviors)
    log_weight = weights.log_weight(target, batch)  # type: ignore[attr-defined]  # any of pgkit.weights
    signal, mask = RewardToGo(gamma=GAMMA).signal(batch, None, log_weight)
    baseline = torch.gather(values(target), 1, PLACES[:-1]).repeat(1, len(behaviors))
    coefficients = scale(log_weight, mask) * (signal - baseline)
    rows = torch.einsum("tk,tkp->kp", coefficients, scores(target).repeat(1, len(behaviors), 1))
    return rows, log_weight[-1]


def exact(weights: object, behaviors: list[Softmax], target: Softmax, truth: Tensor, unit: float) -> Result:
    """Returns the moments of a column, averaged over equal shares of every behaviour."""
    rows, log_weight = gradients(weights, behaviors, target)
    chances = torch.cat([each.log_prob(PLACES[:-1], ACTIONS).sum(dim=0).exp() for each in behaviors])
    shares = chances.reshape(len(behaviors), -1)
    means = torch.einsum("bk,bkp->bp", shares, rows.reshape(*shares.shape, -1))
    squares = (chances * rows.square().sum(dim=1)).sum() / len(behaviors)
    spread = squares - means.square().sum(dim=1).mean()
    mass, mass_squares = (chances * log_weight.exp()).sum(), (chances * (2 * log_weight).exp()).sum()
    return Result(
        bias=float((means.mean(dim=0) - truth).norm() / truth.norm()),
        variance=float(spread) / unit,
        worth=float(mass.square() / mass_squares) / len(behaviors),
    )


def normalised(behavior: Softmax, target: Softmax, truth: Tensor, unit: float) -> Result:
    """Returns the same of weights divided by their mean in batches of COLUMNS columns, by simulation."""
    rows, log_weight = gradients(Trajectory(), [behavior], target)
    chances = behavior.log_prob(PLACES[:-1], ACTIONS).sum(dim=0).exp()
    generator = torch.Generator().manual_seed(0)
    drawn = torch.multinomial(chances, BATCHES * COLUMNS, replacement=True, generator=generator).reshape(-1, COLUMNS)
    estimates = rows[drawn].sum(dim=1) / log_weight.exp()[drawn].sum(dim=1, keepdim=True)
    weights = log_weight.exp()[drawn]
    return Result(
        bias=float((estimates.mean(dim=0) - truth).norm() / truth.norm()),
        variance=COLUMNS * float(estimates.var(dim=0).sum()) / unit,
        worth=float((weights.sum(dim=1).square() / weights.square().sum(dim=1)).mean()) / COLUMNS,
    )


def corrections(target: Softmax, truth: Tensor, unit: float) -> dict[str, Callable[[Softmax], Result]]:
    """Returns what measures each correction at a behaviour."""

    def alone(weights: object) -> Callable[[Softmax], Result]:
        return lambda behavior: exact(weights, [behavior], target, truth, unit)

    def beside(weights: object) -> Callable[[Softmax], Result]:
        return lambda behavior: exact(weights, [target, behavior], target, truth, unit)

    return {
        "trajectory": alone(Trajectory()),
        "per decision": alone(PerDecision()),
        f"self-normalised, N = {COLUMNS}": lambda behavior: normalised(behavior, target, truth, unit),
        "truncated at 2": alone(Trajectory(truncate=2.0)),
        "power mean, λ = 0.3": alone(Trajectory(power_mean=0.3)),
        "half new: constant": beside(ConstantMixture()),
        "half new: balance": beside(Balance()),
        "half new: power 2": beside(PowerHeuristic()),
    }


def main() -> None:
    """Measures, prints and draws."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("figure", type=Path, help="picture to write")
    torch.set_default_dtype(torch.float64)
    figure = parser.parse_args().figure
    target = Softmax(TARGET.double())
    rows, _ = gradients(Trajectory(), [target], target)
    chances = target.log_prob(PLACES[:-1], ACTIONS).sum(dim=0).exp()
    truth = chances @ rows
    unit = float((chances * rows.square().sum(dim=1)).sum() - truth.square().sum())
    behaviors = [Softmax(TARGET.double() + float(distance) * AWAY.double()) for distance in DISTANCES]
    log_ratios = [(target.log_table - each.log_table)[PLACES[:-1], ACTIONS].sum(dim=0) for each in behaviors]
    divergences = [float(chances @ ratio) for ratio in log_ratios]
    found = {name: [of(each) for each in behaviors] for name, of in corrections(target, truth, unit).items()}
    shown = range(2, len(behaviors), 2)
    print("| correction | " + " | ".join(f"{divergences[i]:.2f} nats" for i in shown) + " |")
    print("|---|" + "---|" * len(shown))
    for name, results in found.items():
        cells = (f"{r.bias:.3f} · {r.variance:.3g} · {r.worth:.2f}" for r in (results[i] for i in shown))
        print(f"| {name} | " + " | ".join(cells) + " |")
    draw(figure, divergences, found)


def draw(path: Path, divergences: list[float], found: dict[str, list[Result]]) -> None:
    """Draws bias, variance and effective share over the divergence of trajectories."""
    picture, axes = pyplot.subplots(1, 3, figsize=(13, 4.2), layout="constrained")
    titles = ("bias over |∇J|", "variance over that of on-policy data", "effective share of the columns")
    for panel, title, part in zip(axes, titles, ("bias", "variance", "worth"), strict=True):
        for number, (name, results) in enumerate(found.items()):
            style = "--" if name.startswith("half") else "-"
            heights = [getattr(each, part) for each in results]
            panel.plot(divergences, heights, style, color=f"C{number}", marker="o", markersize=3, label=name)
        panel.set_title(title)
        panel.set_xlabel("KL(π ‖ μ) of a trajectory, nats")
        panel.grid(alpha=0.3)
    axes[1].set_yscale("log")
    axes[0].legend(fontsize=8)
    picture.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
