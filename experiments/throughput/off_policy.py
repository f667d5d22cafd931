"""Prints what importance weights over stored policies cost, in ordinary forward passes.

    python experiments/throughput/off_policy.py

One process on one thread; 8 stored policies of 2 hidden layers of 64 units; episodes of 128 steps. A forward pass is
the log-probability of 2,048 steps under one policy, without gradients: those of one batch, where each policy has 2,048
(16 episodes), or all that there are, where it has 256. In every round each thing is timed once, in turn, in processor
time, as the median of a few calls; what is printed is the median ratio of the rounds, with the least and the greatest.
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from statistics import median
from typing import Any

import torch
from gymnasium import spaces
from threadpoolctl import threadpool_limits
from torch import Tensor

from pgkit.experience import Behaviors
from pgkit.policies.mlp import MLPPolicy
from pgkit.reuse.window import Window
from pgkit.types import Trajectories
from pgkit.weights.mixtures import Balance, PowerHeuristic
from pgkit.weights.ratios import PerDecision, Trajectory

POLICIES, STEPS, UNIT = 8, 128, 2048


def batch(policy: Any, episodes: int, generator: torch.Generator) -> Trajectories:
    """Returns episodes of random observations with actions of the policy."""
    obs = torch.randn(STEPS + 1, episodes, 4, generator=generator)
    everywhere = torch.ones(STEPS, episodes, dtype=torch.bool)
    with torch.no_grad():
        actions = torch.distributions.Categorical(logits=policy(obs[:-1])).sample()
        log_prob = policy.log_prob(obs[:-1], actions)
    first, last = torch.zeros_like(everywhere), torch.zeros_like(everywhere)
    first[0], last[-1] = True, True
    return Trajectories(
        obs=obs, actions=actions, rewards=torch.ones(STEPS, episodes), behavior_log_prob=log_prob, terminated=last,
        truncated=torch.zeros_like(last), starts=first, mask=everywhere, lane=torch.arange(episodes),
        behavior_id=torch.zeros(episodes, dtype=torch.long), whole_episodes=True,
    )  # fmt: skip


def timed(function: Callable[[], object], calls: int) -> float:
    """Returns the median seconds of processor time of a call."""
    taken = []
    for _ in range(calls):
        start = time.process_time()
        function()
        taken.append(time.process_time() - start)
    return median(taken)


def measured(episodes: int, rounds: int) -> dict[str, list[float]]:
    """Returns the forward passes a stored policy that each thing takes, round by round."""
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    box = spaces.Box(-1.0, 1.0, (4,))
    policy: Any = MLPPolicy(observation_space=box, action_space=spaces.Discrete(2), hidden_sizes=[64, 64])
    window = Window(policy=policy, behavior=None, batches=POLICIES)  # type: ignore[arg-type]  # asked on loading alone
    acting = Behaviors.single(policy, episodes)
    for _ in range(POLICIES):
        with torch.no_grad():
            for parameter in policy.parameters():
                parameter += 0.01 * torch.randn(parameter.shape, generator=generator)
        newest = batch(policy, episodes, generator)
        joined = window.extend(newest, acting)
    every = joined.rows()
    one = joined.rows(every.index[:UNIT])

    def forward(rows: Any) -> Tensor:
        with torch.no_grad():
            return policy.log_prob(rows.obs, rows.actions)

    unasked = replace(joined, target_log_prob=None)
    known = "`weights=balance` of what a window has joined, which has asked the policy that learns"
    reuse = "`reuse=window`: the new batch, asked of and by 7 old policies, and joined"
    things: dict[str, Callable[[], object]] = {
        "`weights=trajectory`": lambda: Trajectory().log_weight(policy, unasked),
        "`weights=per_decision`": lambda: PerDecision().log_weight(policy, unasked),
        "`weights=balance`": lambda: Balance().log_weight(policy, unasked),
        "`weights=balance weights.per_decision=true`": lambda: Balance(per_decision=True).log_weight(policy, unasked),
        "`weights=power_heuristic`": lambda: PowerHeuristic().log_weight(policy, unasked),
        known: lambda: Balance().log_weight(policy, joined),
        reuse: lambda: window.extend(newest, acting),
    }
    ratios: dict[str, list[float]] = defaultdict(list)
    for _ in range(rounds):
        unit = timed(lambda: forward(one), 25) * POLICIES
        found = {name: timed(function, 5) / unit for name, function in things.items()}
        found["the last two together"] = found[known] + found[reuse]
        for name, ratio in found.items():
            ratios[name].append(ratio)
    return ratios


def main() -> None:
    """Measures and prints a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    with threadpool_limits(limits=1):  # numpy's threads are not torch's
        large, small = measured(16, rounds), measured(2, rounds)
    print("| what | 2,048 steps of each policy | 2,048 steps in all |\n|---|---|---|")
    for name in large:
        cells = [f"{median(of[name]):.2f} [{min(of[name]):.2f}, {max(of[name]):.2f}]" for of in (large, small)]
        print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
