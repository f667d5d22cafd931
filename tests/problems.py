"""Problems so small that every trajectory is known: the truth that gradients and their variances are held to.

`Enumeration.trajectories` is a batch with one column for each trajectory that can happen; `probabilities()` says how
likely each is, as a differentiable function of the policy and by arithmetic that shares nothing with pgkit. A batch of
N columns is then N indices, and an expectation over batches is a finite sum.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from gymnasium import spaces
from torch import Tensor

from pgkit.core.scores import Scores
from pgkit.critics.none import NoCritic
from pgkit.policies.mlp import MLPPolicy
from pgkit.protocols import Baseline, Critic, Estimator, Returns
from pgkit.rl.factors import factors_of
from pgkit.run.instruments import LogProbability
from pgkit.types import Factors, Trajectories
from pgkit.weights.on_policy import OnPolicy
from tests.tables import TableCritic

NO_CRITIC = NoCritic(observation_space=spaces.Discrete(1), generator=torch.Generator())


@dataclass(frozen=True, kw_only=True)
class Process:
    """A finite-horizon decision process; `outcomes[s, a]` lists (probability, reward, next state or None at an end)."""

    start: Sequence[float]
    outcomes: Mapping[tuple[int, int], Sequence[tuple[float, float, int | None]]]
    num_actions: int
    horizon: int

    @property
    def num_states(self) -> int:
        return len(self.start)

    def paths(self) -> Iterator[tuple[float, list[tuple[int, int, float, int | None]]]]:
        """Yields (probability given the actions, steps (s, a, r, s')) of every trajectory."""

        def go_on(
            probability: float, state: int, steps: list[tuple[int, int, float, int | None]]
        ) -> Iterator[tuple[float, list[tuple[int, int, float, int | None]]]]:
            for action in range(self.num_actions):
                for chance, reward, successor in self.outcomes[state, action]:
                    path = [*steps, (state, action, reward, successor)]
                    if successor is None or len(path) == self.horizon:
                        yield probability * chance, path
                    else:
                        yield from go_on(probability * chance, successor, path)

        for state, chance in enumerate(self.start):
            if chance > 0:
                yield from go_on(chance, state, [])


BANDIT = Process(
    start=[1.0],
    outcomes={(0, action): [(1.0, reward, None)] for action, reward in enumerate((0.0, 1.0, 5.0))},
    num_actions=3,
    horizon=1,
)
"""Three arms."""

CHAIN = Process(
    start=[0.8, 0.2],
    outcomes={
        (0, 0): [(0.7, 1.0, 1), (0.3, 4.0, None)],
        (0, 1): [(0.4, 2.0, 1), (0.6, -1.0, 1)],
        (1, 0): [(1.0, 3.0, None)],
        (1, 1): [(1.0, 1.0, 0)],
    },
    num_actions=2,
    horizon=3,
)
"""Two states, two actions, three steps; random starts, successors and rewards; 24 trajectories in all."""

GAMBLE = Process(
    start=[1.0],
    outcomes={(0, action): [(0.5, reward, 0), (0.5, reward, None)] for action, reward in enumerate((0.0, 1.0, 5.0))},
    num_actions=3,
    horizon=2,
)
"""The bandit, played once more as often as not: what happens at once outweighs what comes later."""


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
        self.paths = list(process.paths())
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
        table = self.table()
        taken = [[table[state, action] for state, action, _, _ in steps] for _, steps in self.paths]
        return torch.stack([chance * math.prod(each) for (chance, _), each in zip(self.paths, taken, strict=True)])

    def returns(self, gamma: float) -> Tensor:
        """Returns Σ γ^t r_t `[K]` of every trajectory."""
        return torch.tensor([sum(gamma**t * step[2] for t, step in enumerate(steps)) for _, steps in self.paths])

    def gradient(self, function: Tensor) -> Tensor:
        """Returns the gradient `[P]` of a scalar by automatic differentiation."""
        gradients = torch.autograd.grad(function, list(self.policy.parameters()), retain_graph=True)
        return torch.cat([g.flatten() for g in gradients])

    def exact_gradient(self, gamma: float) -> Tensor:
        """Returns ∇J `[P]`, differentiating the sum over all trajectories."""
        return self.gradient((self.probabilities() * self.returns(gamma)).sum())

    def values(self, gamma: float) -> tuple[Tensor, Tensor]:
        """Returns V `[T+1, S]` and Q `[T, S, A]` with t steps gone, by backward recursion."""
        process, table = self.process, self.table().detach()
        value = torch.zeros(process.horizon + 1, process.num_states)
        quality = torch.zeros(process.horizon, process.num_states, process.num_actions)
        for t in reversed(range(process.horizon)):
            for (state, action), outcomes in process.outcomes.items():
                quality[t, state, action] = sum(
                    chance * (reward + (0.0 if successor is None else gamma * float(value[t + 1, successor])))
                    for chance, reward, successor in outcomes
                )
            value[t] = (table * quality[t]).sum(dim=1)
        return value, quality

    def policy_gradient_theorem(self, gamma: float, *, discount_states: bool = True) -> Tensor:
        """Returns Σ_t γ^t Σ_s Pr(s_t = s) Σ_a ∇π(a|s) Q_t(s, a) `[P]`; without γ^t what most code estimates."""
        process, table = self.process, self.table()
        visits = table.detach()
        _, quality = self.values(gamma)
        occupancy = torch.tensor(process.start)
        total = torch.zeros(())
        for t in range(process.horizon):
            weight = gamma**t if discount_states else 1.0
            total = total + weight * (occupancy[:, None] * table * quality[t]).sum()
            following = torch.zeros(process.num_states)
            for (state, action), outcomes in process.outcomes.items():
                for chance, _, successor in outcomes:
                    if successor is not None:
                        following[successor] += float(occupancy[state] * visits[state, action]) * chance
            occupancy = following
        return self.gradient(total)

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

    def factors(self, returns: Returns, critic: Critic | None = None) -> Factors:
        """Returns the factors of the batch of all trajectories."""
        return factors_of(
            self.trajectories, policy=self.policy, critic=critic or NO_CRITIC, weights=OnPolicy(), returns=returns
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
    )
