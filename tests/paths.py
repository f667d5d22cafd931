"""Paths of a policy on a simulator with noise that a test chose, differentiable from end to end."""

from __future__ import annotations

from typing import Any

import torch
from gymnasium import spaces
from torch import Tensor

from pgkit.baselines.constant import Zero
from pgkit.critics.none import NoCritic
from pgkit.estimators.svg import Pathwise
from pgkit.policies.mlp import MLPPolicy
from pgkit.returns.discounted import RewardToGo
from pgkit.rl.factors import factors_of
from pgkit.rl.objective import PolicyObjective
from pgkit.simulators.base import Simulator
from pgkit.types import Trajectories
from pgkit.weights.on_policy import OnPolicy


def policy_of(
    obs: int, *, bound: float, law: Any = "gaussian", hidden: list[int] | None = None, log_std: float = -0.5
) -> Any:
    """Returns a policy of one action in double precision, its parameters moved off their symmetric start."""
    torch.manual_seed(3)
    policy = MLPPolicy(
        observation_space=spaces.Box(-10, 10, (obs,)), action_space=spaces.Box(-bound, bound, (1,)),
        hidden_sizes=hidden or [], law=law, initial_log_std=log_std,
    ).double()  # fmt: skip
    with torch.no_grad():
        for index, parameter in enumerate(policy.parameters()):
            parameter.add_(0.3 * torch.sin(1.0 + index + torch.arange(parameter.numel()).reshape(parameter.shape)))
    return policy


def played(
    policy: Any, simulator: Simulator, start: Tensor, drawn: Tensor, noise: Tensor, *, gamma: float
) -> tuple[Trajectories, Tensor]:
    """Returns the paths of given noise, and their discounted returns `[N]`, differentiable.

    Shapes: start `[N, S]`, drawn `[T, N, 1]` standard normal numbers of the actions, noise `[T, N, W]`.
    """
    state, total = start, torch.zeros(len(start), dtype=start.dtype)
    seen, actions, rewards = [simulator.observe(start)], [], []
    for t in range(len(drawn)):
        mean, log_std = policy(simulator.observe(state)).chunk(2, dim=-1)
        actions.append(mean + log_std.exp() * drawn[t])
        state, reward, _ = simulator.step(state, policy.law.applied(actions[-1]), noise[t])
        total = total + gamma**t * reward
        seen.append(simulator.observe(state))
        rewards.append(reward)
    return batch_of(policy, torch.stack(seen), torch.stack(actions), torch.stack(rewards)), total


def batch_of(policy: Any, obs: Tensor, actions: Tensor, rewards: Tensor, **changed: Tensor) -> Trajectories:
    """Returns whole episodes that end with the last row, unless something is said to be otherwise."""
    time = torch.arange(len(rewards))[:, None].expand_as(rewards)
    rest: dict[str, Any] = {
        "terminated": time == len(rewards) - 1,
        "truncated": torch.zeros_like(time, dtype=torch.bool),
        "starts": time == 0,
        "mask": torch.ones_like(time, dtype=torch.bool),
        "whole_episodes": True,
    } | changed
    obs, actions, rewards = obs.detach(), actions.detach(), rewards.detach()
    columns = rewards.shape[1]
    return Trajectories(
        obs=obs, actions=actions, rewards=rewards, behavior_log_prob=policy.log_prob(obs[:-1], actions).detach(),
        behavior_id=torch.zeros(columns, dtype=torch.long), lane=torch.arange(columns), **rest,
    )  # fmt: skip


def gradient_of(
    policy: Any, trajectories: Trajectories, estimator: Pathwise, *, simulator: Any = None, critic: Any = None
) -> Tensor:
    """Returns the estimate `[P]` that the walk of training makes of a batch."""
    returns = RewardToGo(gamma=estimator.gamma, cut="zero")
    factors = factors_of(
        trajectories, policy=policy, critic=critic or no_critic(), weights=OnPolicy(), returns=returns,
        estimator=estimator, simulator=simulator,
    )  # fmt: skip
    coefficients = estimator.coefficients(factors, Zero().value(factors))
    objective = PolicyObjective(
        policy=policy, trajectories=trajectories, factors=factors, coefficients=coefficients, average="columns",
        entropy_coefficient=0.0, terms=estimator.terms,
    )  # fmt: skip
    return flat(torch.autograd.grad(objective().value, list(policy.parameters())))


def no_critic() -> NoCritic:
    return NoCritic(observation_space=spaces.Box(-1, 1, (1,)), generator=torch.Generator())


def flat(gradients: Any) -> Tensor:
    """Returns gradients as one vector."""
    return torch.cat([each.reshape(-1) for each in gradients])
