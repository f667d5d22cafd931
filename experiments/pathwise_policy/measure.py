"""Bias and noise of score-function and pathwise gradients of one policy, at equal numbers of trajectories.

python measure.py lqr        measures and writes lqr.json beside this file
python measure.py pendulum   likewise
python measure.py            prints both as tables and draws noise.png
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from pgkit.baselines.constant import Zero
from pgkit.core.action_terms import RowTerms
from pgkit.core.linear_quadratic import REGULATOR
from pgkit.core.score import leave_one_out
from pgkit.core.scores import Scores
from pgkit.core.truth import exact_gradient
from pgkit.critics.action_value import ActionValueCritic
from pgkit.estimators.score_function import ScoreFunction
from pgkit.estimators.svg import SVG, SVG0
from pgkit.policies.mlp import MLPPolicy
from pgkit.returns.discounted import RewardToGo
from pgkit.rl.factors import factors_of
from pgkit.simulators.base import Simulator
from pgkit.simulators.pendulum import Pendulum
from pgkit.simulators.regulator import Regulator
from pgkit.types import Factors, Trajectories
from pgkit.weights.on_policy import OnPolicy

FOLDER = Path(__file__).parent
GAMMA, SEEDS, COLUMNS = 0.99, 10, 16
BATCHES = {"lqr": 64, "pendulum": 16}
SHORT = 10
STUDENT = 2.262  # 97.5 % point with 9 degrees of freedom
ESTIMATORS = {
    "score": ScoreFunction(gamma=GAMMA, discount_states=True),
    "score, leave-one-out": ScoreFunction(gamma=GAMMA, discount_states=True),
    "svg": SVG(gamma=GAMMA, discount_states=True),
    f"svg, horizon {SHORT}": SVG(gamma=GAMMA, horizon=SHORT, discount_states=True),
    "svg0": SVG0(gamma=GAMMA, discount_states=True),
}
LQR_GAIN, LQR_HORIZONS, LQR_SCALES = (-0.2, -0.4), (5, 10, 20, 50, 100), (0.1, 0.3, 0.6, 1.0, 3.0)
PENDULUM_GAINS = {"braking": (0.0, 0.0, -1.0), "still": (0.0, 0.0, 0.0), "driving": (0.0, 0.0, 1.0)}
PENDULUM_HORIZONS, PENDULUM_SCALE = (10, 25, 50, 100, 200), 0.3


def linear_policy(gain: Sequence[float], scale: float, bound: float) -> MLPPolicy:
    """Returns the policy N(gain · obs, scale²) of one action."""
    policy = MLPPolicy(
        observation_space=spaces.Box(-np.inf, np.inf, (len(gain),)), action_space=spaces.Box(-bound, bound, (1,)),
        hidden_sizes=[], initial_log_std=math.log(scale),
    ).double()  # fmt: skip
    with torch.no_grad():
        policy.network[-1].weight.copy_(torch.tensor([gain]))
        policy.network[-1].bias.zero_()
    return policy


def played(
    policy: MLPPolicy, simulator: Simulator, horizon: int, generator: torch.Generator, count: int
) -> Trajectories:
    """Returns `count` whole episodes of `horizon` steps."""
    state = simulator.start(count, generator=generator, dtype=torch.float64, device=torch.device("cpu"))
    obs, actions, rewards = [simulator.observe(state)], [], []
    with torch.no_grad():
        for _ in range(horizon):
            actions.append(policy.law.draw(policy(obs[-1]), generator))
            noise = torch.randn(count, simulator.num_noises, generator=generator)
            state, reward, _ = simulator.step(state, policy.law.applied(actions[-1]), noise)
            obs.append(simulator.observe(state))
            rewards.append(reward)
        time = torch.arange(horizon)[:, None].expand(-1, count)
        seen, taken = torch.stack(obs), torch.stack(actions)
        return Trajectories(
            obs=seen, actions=taken, rewards=torch.stack(rewards),
            behavior_log_prob=policy.log_prob(seen[:-1], taken), behavior_id=torch.zeros(count, dtype=torch.long),
            terminated=time == horizon - 1, truncated=time < 0, starts=time == 0, mask=time >= 0,
            lane=torch.arange(count), whole_episodes=True,
        )  # fmt: skip


def fitted(policy: MLPPolicy, batch: Trajectories, seed: int) -> ActionValueCritic:
    """Returns a critic fitted to the rewards-to-go of other trajectories of the same policy."""
    torch.manual_seed(seed)
    critic = ActionValueCritic(
        observation_space=policy_space(batch), action_space=spaces.Box(-np.inf, np.inf, (1,)), policy=policy,
        generator=torch.Generator().manual_seed(seed), steps=1000, normalise_observations=False,
    )  # fmt: skip
    goals, mask = RewardToGo(gamma=GAMMA).signal(batch, None, torch.zeros_like(batch.rewards))
    critic.update(batch, goals, mask)
    return critic


def policy_space(batch: Trajectories) -> spaces.Box:
    """Returns the space of a batch's observations."""
    assert isinstance(batch.obs, Tensor)
    return spaces.Box(-np.inf, np.inf, tuple(batch.obs.shape[2:]))


def estimates(
    policy: MLPPolicy, simulator: Simulator, batch: Trajectories, critic: ActionValueCritic
) -> Iterator[tuple[str, Tensor]]:
    """Yields (name, estimates `[B, P]`) of every estimator, each of COLUMNS trajectories."""
    for name, estimator in ESTIMATORS.items():
        factors = factors_of(
            batch, policy=policy, critic=critic, weights=OnPolicy(), returns=RewardToGo(gamma=GAMMA),
            estimator=estimator, simulator=simulator,
        )  # fmt: skip
        baseline = within_batches(factors) if "leave" in name else Zero().value(factors)
        coefficients = estimator.coefficients(factors, baseline)
        rows = RowTerms(policy, estimator.terms) if coefficients.dim() > 2 else Single(policy)
        scores = Scores(rows, (factors.contexts, factors.samples, coefficients), factors.mask)
        yield name, scores.per_sample(factors.mask.double()).unflatten(0, (-1, COLUMNS)).mean(dim=1)


class Single(torch.nn.Module):
    """c log π(a|s) as a module of observations, actions and coefficients."""

    def __init__(self, policy: Any) -> None:
        super().__init__()
        self.policy = policy

    def forward(self, obs: Tensor, actions: Tensor, coefficients: Tensor) -> Tensor:
        """Returns c log π(a|s) `[...]`."""
        return coefficients * self.policy.log_prob(obs, actions)


def within_batches(factors: Factors) -> Tensor:
    """Returns the mean signal of the other columns of each batch."""
    pieces = zip(factors.signal.split(COLUMNS, dim=1), factors.mask.split(COLUMNS, dim=1), strict=True)
    return torch.cat([leave_one_out(signal, mask) for signal, mask in pieces], dim=1)


def setting(
    policy: MLPPolicy, simulator: Simulator, horizon: int, exact: Tensor | None, batches: int
) -> dict[str, Any]:
    """Returns bias and noise of every estimator, relative to the length of the exact gradient or the best estimate."""
    found: dict[str, list[Tensor]] = {name: [] for name in ESTIMATORS}
    for seed in range(SEEDS):
        generator = torch.Generator().manual_seed(seed)
        past, batch = (played(policy, simulator, horizon, generator, batches * COLUMNS) for _ in range(2))
        for name, each in estimates(policy, simulator, batch, fitted(policy, past, seed)):
            found[name].append(each)
    stacked = {name: torch.stack(each) for name, each in found.items()}  # [SEEDS, B, P]
    noise = {name: each.var(dim=1).sum(dim=-1) for name, each in stacked.items()}  # [SEEDS]
    best = min(("score, leave-one-out", "svg"), key=lambda name: float(noise[name].mean()))
    reference = stacked[best].mean(dim=(0, 1)) if exact is None else exact
    length, result = float(reference.norm()), {"reference": "exact" if exact is not None else best}
    for name, each in stacked.items():
        means = each.mean(dim=1)
        logs = noise[name].log() / 2 - math.log(length)
        middle, half = float(logs.mean()), STUDENT * float(logs.std()) / SEEDS**0.5
        result[name] = {
            "noise": [math.exp(middle + sign * half) for sign in (0, -1, 1)],
            "bias": float((means.mean(dim=0) - reference).norm()) / length,
            "resolution": float((means.var(dim=0) / SEEDS).sum().sqrt()) / length,
        }
    return result | {"length": length}


def lqr() -> dict[str, Any]:
    """Returns the settings of the regulator by what they vary."""
    table: dict[str, Any] = {"LQR, horizon": {}, "LQR, deviation of the actions": {}}
    cases = [("LQR, horizon", horizon, horizon, 0.6) for horizon in LQR_HORIZONS]
    cases += [("LQR, deviation of the actions", scale, 20, scale) for scale in LQR_SCALES]
    for title, key, horizon, scale in cases:
        dynamics, policy = replace(REGULATOR, horizon=horizon), linear_policy(LQR_GAIN, scale, np.inf)
        exact = exact_gradient(dynamics, policy, gamma=GAMMA, discount_states=True)
        table[title][str(key)] = setting(policy, Regulator(dynamics), horizon, exact, BATCHES["lqr"])
    return table


def pendulum() -> dict[str, Any]:
    """Returns the settings of the pendulum by policy and horizon."""
    return {
        f"Pendulum, {name}, horizon": {
            str(horizon): setting(
                linear_policy(gain, PENDULUM_SCALE, 2.0), Pendulum(), horizon, None, BATCHES["pendulum"]
            )
            for horizon in PENDULUM_HORIZONS
        }
        for name, gain in PENDULUM_GAINS.items()
    }


def show(table: dict[str, Any]) -> None:
    """Prints a table for each thing that is varied."""
    for title, rows in table.items():
        print(f"\n| {title} | {' | '.join(ESTIMATORS)} |\n|---|{'---|' * len(ESTIMATORS)}")
        for key, row in rows.items():
            cells = []
            known = 0.0 if row["reference"] == "exact" else row[row["reference"]]["resolution"]
            for name in ESTIMATORS:
                middle, low, high = row[name]["noise"]
                bias, resolution = row[name]["bias"], math.hypot(row[name]["resolution"], known)
                stated = f"**{short(bias)}**" if bias > 3 * resolution else short(bias)
                against = "reference" if bias < 1e-12 else f"{stated} ({short(resolution)})"
                cells.append(f"{short(middle)} [{short(low)}, {short(high)}]; {against}")
            print(f"| {key} | {' | '.join(cells)} |")


def short(number: float) -> str:
    """Returns a number in two digits or as a whole one."""
    return f"{number:.2g}" if number < 99.5 else f"{number:,.0f}"


def draw(table: dict[str, Any]) -> None:
    """Writes noise.png: the noise of every estimator, a panel a table."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(table), figsize=(3.2 * len(table), 3.4), layout="constrained", sharey=True)
    for axis, (title, rows) in zip(axes, table.items(), strict=True):
        for name in ESTIMATORS:
            places = [float(key) for key in rows]
            middle, low, high = zip(*(row[name]["noise"] for row in rows.values()), strict=True)
            axis.plot(places, middle, marker="o", markersize=3, label=name)
            axis.fill_between(places, low, high, alpha=0.2)
        axis.set(xscale="log", yscale="log", xlabel=title.rpartition(", ")[2], title=title.rpartition(", ")[0])
        axis.grid(alpha=0.3)
    axes[0].set_ylabel(f"noise / length of the gradient, {COLUMNS} trajectories")
    axes[0].legend(fontsize=8)
    figure.savefig(FOLDER / "noise.png", dpi=90)


if __name__ == "__main__":
    torch.set_default_dtype(torch.float64)
    torch.set_num_threads(1)
    for part, measured in {"lqr": lqr, "pendulum": pendulum}.items():
        if part in sys.argv:
            (FOLDER / f"{part}.json").write_text(json.dumps(measured(), indent=1) + "\n", encoding="utf-8")
    if len(sys.argv) == 1:
        whole: dict[str, Any] = {}
        for part in BATCHES:
            whole |= json.loads((FOLDER / f"{part}.json").read_text(encoding="utf-8"))
        show(whole)
        draw(whole)
