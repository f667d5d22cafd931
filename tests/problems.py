"""Problems so small that every trajectory is known: the truth that gradients and their variances are held to.

`Enumeration.trajectories` is a batch with one column for each trajectory that can happen; `probabilities()` says how
likely each is, as a differentiable function of the policy and by arithmetic that shares nothing with pgkit. A batch of
N columns is then N indices, and an expectation over batches is a finite sum.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch
from gymnasium import spaces
from torch import Tensor
from torch.utils._pytree import tree_map

from pgkit.core.processes import Process
from pgkit.core.scores import Scores
from pgkit.critics.none import NoCritic
from pgkit.estimators.score_function import ScoreFunction
from pgkit.policies.mlp import MLPPolicy
from pgkit.protocols import Baseline, Critic, Estimator, Returns
from pgkit.rl.factors import LogProbability, factors_of
from pgkit.types import Factors, Trajectories, map_observations
from pgkit.weights.on_policy import OnPolicy
from tests.tables import TableCritic

NO_CRITIC = NoCritic(observation_space=spaces.Discrete(1), generator=torch.Generator())


class Enumeration:
    """Every trajectory of a process under one policy: a softmax over a linear function of the one-hot state."""

    def __init__(self, process: Process, *, seed: int = 0) -> None:
        self.process = process
        self.policy = MLPPolicy(
            observation_space=spaces.Discrete(process.num_states),
            action_space=spaces.Discrete(process.num_actions),
            hidden_sizes=[],
        )
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in self.policy.parameters():
                parameter.copy_(0.8 * torch.randn(parameter.shape, generator=generator))
        self.paths = process.trajectories
        self.trajectories = self._trajectories()

    def _trajectories(self) -> Trajectories:
        num_steps, num_paths = self.process.horizon, len(self.paths)
        # What lies outside an episode is wild on purpose: it must never matter.
        obs = torch.full((num_steps + 1, num_paths), self.process.num_states - 1)
        actions = torch.zeros(num_steps, num_paths, dtype=torch.long)
        rewards = torch.full((num_steps, num_paths), 999.0)
        flags = {
            name: torch.zeros(num_steps, num_paths, dtype=torch.bool) for name in ("terminated", "truncated", "mask")
        }
        for column, (_, steps) in enumerate(self.paths):
            for row, (state, action, reward, successor) in enumerate(steps):
                obs[row, column], actions[row, column], rewards[row, column] = state, action, reward
                flags["mask"][row, column] = True
                if successor is None:
                    flags["terminated"][row, column] = True
                else:
                    obs[row + 1, column] = successor
                    flags["truncated"][row, column] = row == num_steps - 1
        starts = torch.zeros(num_steps, num_paths, dtype=torch.bool)
        starts[0] = True
        with torch.no_grad():
            log_prob = self.policy.log_prob(obs[:-1], actions)
        lane = torch.zeros(num_paths, dtype=torch.long)
        return Trajectories(
            obs=obs, actions=actions, rewards=rewards, behavior_log_prob=log_prob, behavior_id=lane, lane=lane,
            starts=starts, whole_episodes=True, **flags,
        )  # fmt: skip

    def table(self) -> Tensor:
        """Returns π(a|s) `[S, A]`, differentiable."""
        linear = self.policy.network[0]
        logits = linear.weight.T + linear.bias
        exponentials = logits.exp()
        return exponentials / exponentials.sum(dim=1, keepdim=True)

    def probabilities(self) -> Tensor:
        """Returns the probability `[K]` of every trajectory, dynamics included, differentiable."""
        return self.process.probabilities(self.table())

    def returns(self, gamma: float) -> Tensor:
        """Returns Σ γ^t r_t `[K]` of every trajectory."""
        return self.process.returns(gamma).to(torch.get_default_dtype())

    def gradient(self, function: Tensor) -> Tensor:
        """Returns the gradient `[P]` of a scalar by automatic differentiation."""
        gradients = torch.autograd.grad(function, list(self.policy.parameters()), retain_graph=True)
        return torch.cat([g.flatten() for g in gradients])

    def exact_gradient(self, gamma: float) -> Tensor:
        """Returns ∇J `[P]`, differentiating the sum over all trajectories."""
        return self.gradient((self.probabilities() * self.returns(gamma)).sum())

    def values(self, gamma: float) -> tuple[Tensor, Tensor]:
        """Returns V `[T+1, S]` and Q `[T, S, A]` with t steps gone, by backward recursion."""
        return self.process.values(self.table(), gamma)

    def policy_gradient_theorem(self, gamma: float, *, discount_states: bool = True) -> Tensor:
        """Returns Σ_t γ^t Σ_s Pr(s_t = s) Σ_a ∇π(a|s) Q_t(s, a) `[P]`; without γ^t what most code estimates."""
        return self.gradient(self.process.policy_gradient_theorem(self.table(), gamma, discount_states=discount_states))

    @cached_property
    def scores(self) -> Tensor:
        """∇log π(a_t|s_t) at every step of every trajectory, `[T, K, P]`, 0 on padding."""
        mask = self.trajectories.mask
        one_step = torch.diag_embed(mask.T.to(torch.get_default_dtype())).permute(1, 2, 0)  # [T, T, K]
        rows = Scores(LogProbability(self.policy), (self.trajectories.obs[:-1], self.trajectories.actions), mask)
        return torch.cat([gradients for _, gradients in rows.gradients(one_step)], dim=1)

    def batches(self, num_columns: int) -> Iterator[tuple[Tensor, float]]:
        """Yields (columns `[N]`, probability) of every batch, up to the order of its columns."""
        probabilities = self.probabilities().tolist()
        for columns in itertools.combinations_with_replacement(range(len(self.paths)), num_columns):
            orders = math.factorial(num_columns)
            for column in set(columns):
                orders //= math.factorial(columns.count(column))
            yield torch.tensor(columns), orders * math.prod(probabilities[column] for column in columns)

    def critic(self, gamma: float, *, error: float = 0.0) -> TableCritic:
        """Returns a critic that knows V, or is wrong by `error` times a fixed table."""
        value, _ = self.values(gamma)
        wrong = torch.sin(1.0 + torch.arange(value.numel(), dtype=value.dtype)).reshape(value.shape)
        wrong[-1] = 0.0  # the objective ends with the horizon
        return TableCritic(value + error * wrong)

    def factors(self, returns: Returns, critic: Critic | None = None, estimator: Estimator | None = None) -> Factors:
        """Returns the factors of the batch of all trajectories."""
        return factors_of(
            self.trajectories,
            policy=self.policy,
            critic=critic or NO_CRITIC,
            weights=OnPolicy(),
            returns=returns,
            estimator=estimator or ScoreFunction(gamma=1.0),
        )

    def estimate(self, columns: Tensor, factors: Factors, baseline: Baseline, estimator: Estimator) -> Tensor:
        """Returns the gradient estimate `[P]` of one batch: Σ over factors, mean over columns."""
        coefficients = estimator.coefficients(batch := columns_of(factors, columns), baseline.value(batch))
        return torch.einsum("tn,tnp->p", coefficients, self.scores[:, columns]) / len(columns)

    def expected_estimate(self, num_columns: int, factors: Factors, baseline: Baseline, estimator: Estimator) -> Tensor:
        """Returns the expectation `[P]` of the estimate over all batches of N columns."""
        total = torch.zeros(())
        for columns, probability in self.batches(num_columns):
            total = total + probability * self.estimate(columns, factors, baseline, estimator)
        return total


def columns_of(factors: Factors, columns: Tensor) -> Factors:
    """Returns the factors of some columns."""
    return replace(
        factors,
        signal=factors.signal[:, columns],
        log_weight=factors.log_weight[:, columns],
        mask=factors.mask[:, columns],
        values=None if factors.values is None else factors.values[:, columns],
        time=None if factors.time is None else factors.time[:, columns],
        scale=None if factors.scale is None else factors.scale[:, columns],
        scores=None if factors.scores is None else _scores_of(factors.scores, columns),
        rewards=None if factors.rewards is None else factors.rewards[:, columns],
        contexts=None if factors.contexts is None else map_observations(lambda x: x[:, columns], factors.contexts),
        samples=None if factors.samples is None else factors.samples[:, columns],
        action_values=None if factors.action_values is None else factors.action_values[:, columns],
        action_probabilities=(
            None if factors.action_probabilities is None else factors.action_probabilities[:, columns]
        ),
        group=None if factors.group is None else factors.group[columns],
        strata=None if factors.strata is None else factors.strata[columns],
        targets=None if factors.targets is None else factors.targets[:, columns],
        fit_weight=None if factors.fit_weight is None else factors.fit_weight[:, columns],
    )


def _scores_of(scores: Any, columns: Tensor) -> Scores:
    return Scores(scores.module, tree_map(lambda x: x[:, columns], scores.inputs), scores.mask[:, columns])
