"""All trajectories of a small process as one batch, with what each policy makes of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from gymnasium import spaces
from omegaconf import DictConfig
from torch import Tensor

from pgkit.config import check, compose
from pgkit.core.off_policy_value import step_log_ratios
from pgkit.core.processes import CHAIN, Process
from pgkit.policies.mlp import MLPPolicy
from pgkit.run.checkpoint import SavedPolicy, save_policy
from pgkit.run.trajectory_files import SavedTrajectories
from pgkit.types import Trajectories

TARGET = torch.tensor([[0.7, 0.3], [0.2, 0.8]], dtype=torch.float64)
BEHAVIOR = torch.tensor([[0.4, 0.6], [0.5, 0.5]], dtype=torch.float64)
GAMMA = 0.9


@dataclass(frozen=True)
class Paths:
    """Episodes as columns `[T, N]`."""

    states: Tensor
    actions: Tensor
    rewards: Tensor
    mask: Tensor

    def log_prob(self, table: Tensor) -> Tensor:
        return torch.where(self.mask, table[self.states, self.actions].log(), 0.0)

    def log_ratio(self, target: Tensor = TARGET, behavior: Tensor = BEHAVIOR) -> Tensor:
        return step_log_ratios(self.log_prob(target), self.log_prob(behavior), self.mask)

    def columns(self, index: Tensor) -> Paths:
        return Paths(*(each[:, index] for each in (self.states, self.actions, self.rewards, self.mask)))


def every_path(process: Process = CHAIN) -> Paths:
    """Returns every trajectory once, in the order of `process.trajectories`."""
    count = len(process.trajectories)
    states, actions = (torch.zeros(process.horizon, count, dtype=torch.long) for _ in range(2))
    rewards = torch.zeros(process.horizon, count, dtype=torch.float64)
    mask = torch.zeros(process.horizon, count, dtype=torch.bool)
    for n, (_, steps) in enumerate(process.trajectories):
        for t, (state, action, reward, _) in enumerate(steps):
            states[t, n], actions[t, n], rewards[t, n], mask[t, n] = state, action, reward, True
    return Paths(states, actions, rewards, mask)


def true_value(process: Process = CHAIN, target: Tensor = TARGET, gamma: float = GAMMA) -> float:
    """Returns the target's value by dynamic programming, which shares nothing with the paths."""
    value, _ = process.values(target, gamma)
    return float(value[0] @ torch.tensor(process.start, dtype=torch.float64))


def drawn(size: int, seed: int, behavior: Tensor = BEHAVIOR, process: Process = CHAIN) -> Paths:
    """Returns `size` independent episodes of the behaviour."""
    chances = process.probabilities(behavior).numpy()
    index = np.random.default_rng(seed).choice(len(chances), size=size, p=chances / chances.sum())
    return every_path(process).columns(torch.from_numpy(index))


def occupancy(process: Process, table: Tensor) -> Tensor:
    """Returns Pr(s_t = s and the episode goes on) `[T, S]`."""
    rows = [torch.tensor(process.start, dtype=torch.float64)]
    for _ in range(process.horizon - 1):
        rows.append(torch.einsum("s,sa,sat->t", rows[-1], table, process.transition))
    return torch.stack(rows)


def table_policy(table: Tensor = TARGET) -> MLPPolicy:
    """Returns a policy without a hidden layer that has exactly these probabilities."""
    policy = MLPPolicy(
        observation_space=spaces.Discrete(len(table)), action_space=spaces.Discrete(table.shape[1]), hidden_sizes=[]
    )
    layer = policy.network[0]
    assert isinstance(layer, torch.nn.Linear)
    with torch.no_grad():
        layer.weight.copy_(table.log().T)
        layer.bias.zero_()
    return policy


def saved(paths: Paths, behavior: Tensor | None = BEHAVIOR) -> SavedTrajectories:
    """Returns episodes as a data set, with the probabilities of a behaviour or without any."""
    count = paths.mask.shape[1]
    last = paths.mask & ~torch.cat((paths.mask[1:], torch.zeros(1, count, dtype=torch.bool)))
    unknown = torch.full(paths.rewards.shape, torch.nan, dtype=torch.float64)
    return SavedTrajectories(
        trajectories=Trajectories(
            obs=torch.cat((paths.states, torch.zeros_like(paths.states[:1]))),
            actions=paths.actions,
            rewards=paths.rewards,
            behavior_log_prob=unknown if behavior is None else paths.log_prob(behavior),
            behavior_id=torch.zeros(count, dtype=torch.long),
            terminated=last,
            truncated=torch.zeros_like(last),
            starts=torch.arange(len(paths.states))[:, None].expand(-1, count) == 0,
            mask=paths.mask,
            lane=torch.zeros(count, dtype=torch.long),
            whole_episodes=True,
        ),
        observation_space=spaces.Discrete(2),
        action_space=spaces.Discrete(2),
        source="a process",
    )


def save_run(folder: Path, table: Tensor = TARGET) -> Path:
    """Returns the folder of a run that holds nothing but a policy with these probabilities."""
    policy = table_policy(table)
    content = SavedPolicy(
        config={"_target_": "pgkit.policies.mlp.MLPPolicy", "hidden_sizes": []},
        observation_space=spaces.Discrete(len(table)),
        action_space=spaces.Discrete(table.shape[1]),
        tensors=policy.state_dict(),
    )
    save_policy(folder / "checkpoints" / "last", content)
    return folder


def evaluation(folder: Path, *overrides: str) -> DictConfig:
    """Returns the checked configuration of `pgkit.evaluate_offline` for the run in a folder."""
    return check(compose("evaluate_offline", [f"run={folder}", *overrides]))
