"""Decision processes with finitely many states and a horizon: every trajectory is known.

A trajectory is one sample of a categorical law, and its return the cost, so that every estimator of an expectation
applies. Gradients come from two recursions that share nothing with each other: the sum over all trajectories, and
dynamic programming.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal, final

import torch
from torch import Tensor
from torch.distributions import Categorical

from pgkit.options import Fraction
from pgkit.problems.known import Facts, IntegratedProblem, as_leaves, flat_gradient
from pgkit.types import Expectation, Parameters


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

    @cached_property
    def trajectories(self) -> list[tuple[float, list[tuple[int, int, float, int | None]]]]:
        """All of `paths()`."""
        return list(self.paths())

    def probabilities(self, table: Tensor) -> Tensor:
        """Returns the probability `[K]` of every trajectory, dynamics included, differentiable in π(a|s) `[S, A]`."""
        taken = [torch.stack([table[state, action] for state, action, *_ in steps]) for _, steps in self.trajectories]
        chances = table.new_tensor([chance for chance, _ in self.trajectories])
        return chances * torch.stack([each.prod() for each in taken])

    def returns(self, gamma: float) -> Tensor:
        """Returns Σ γ^t r_t `[K]` of every trajectory."""
        returns = [sum(gamma**t * step[2] for t, step in enumerate(path)) for _, path in self.trajectories]
        return torch.tensor(returns, dtype=torch.float64)

    def values(self, table: Tensor, gamma: float) -> tuple[Tensor, Tensor]:
        """Returns V `[T+1, S]` and Q `[T, S, A]` with t steps gone, by backward recursion."""
        table = table.detach()
        value = table.new_zeros(self.horizon + 1, self.num_states)
        quality = table.new_zeros(self.horizon, self.num_states, self.num_actions)
        for t in reversed(range(self.horizon)):
            for (state, action), outcomes in self.outcomes.items():
                quality[t, state, action] = sum(
                    chance * (reward + (0.0 if successor is None else gamma * float(value[t + 1, successor])))
                    for chance, reward, successor in outcomes
                )
            value[t] = (table * quality[t]).sum(dim=1)
        return value, quality

    def policy_gradient_theorem(self, table: Tensor, gamma: float, *, discount_states: bool = True) -> Tensor:
        """Returns Σ_t γ^t Σ_s Pr(s_t = s) Σ_a π(a|s) Q_t(s, a), to be differentiated in this π alone.

        Without γ^t its gradient is what most code estimates.
        """
        visits = table.detach()
        _, quality = self.values(table, gamma)
        occupancy = visits.new_tensor(self.start)
        total = visits.new_zeros(())
        for t in range(self.horizon):
            weight = gamma**t if discount_states else 1.0
            total = total + weight * (occupancy[:, None] * table * quality[t]).sum()
            following = visits.new_zeros(self.num_states)
            for (state, action), outcomes in self.outcomes.items():
                for chance, _, successor in outcomes:
                    if successor is not None:
                        following[successor] += float(occupancy[state] * visits[state, action]) * chance
            occupancy = following
        return total


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


@final
class SmallProcess(IntegratedProblem):
    """The expected discounted return of a softmax policy on a small process: to be maximised.

    One trajectory is one sample, so that the score of a sample is the sum of the scores of its steps.
    """

    maximise = True

    def __init__(self, *, process: Literal["bandit", "chain", "gamble"], gamma: Fraction = 0.9) -> None:
        self.process, self.gamma = {"bandit": BANDIT, "chain": CHAIN, "gamble": GAMBLE}[process], gamma

    def parameters(self) -> dict[str, Tensor]:
        """Returns the logits `[S, A]`."""
        shape = (self.process.num_states, self.process.num_actions)
        return {"logits": 0.5 * torch.sin(torch.arange(math.prod(shape), dtype=torch.float64)).reshape(shape)}

    def expectation(self) -> Expectation:
        """Returns the expected return; a sample is the number of a trajectory."""
        returns = self.process.returns(self.gamma)
        return Expectation(
            cost=lambda number: returns[number],
            law=lambda theta: Categorical(probs=self._probabilities(theta), validate_args=False),
        )

    def exact_gradient(self, parameters: Parameters) -> Tensor:
        """Returns ∇J by dynamic programming and the policy gradient theorem."""
        leaves = as_leaves(parameters)
        return flat_gradient(self.process.policy_gradient_theorem(leaves["logits"].softmax(1), self.gamma), leaves)

    def exact_variance(self, estimator: str, parameters: Parameters) -> Tensor | None:
        """Returns the variance of `score` by enumeration, and that of `enumeration`, which has none."""
        if estimator == "enumeration":
            return torch.zeros_like(self.exact_gradient(parameters))
        return super().exact_variance(estimator, parameters)

    def nodes(self, parameters: Parameters) -> tuple[Tensor, Tensor]:
        """Returns the numbers of all trajectories and their probabilities."""
        probabilities = self._probabilities(parameters).detach()
        return torch.arange(len(probabilities)), probabilities

    def facts(self) -> Facts:
        """Returns the facts with the number of trajectories."""
        return replace(super().facts(), outcomes=len(self.process.trajectories))

    def _probabilities(self, parameters: Parameters) -> Tensor:
        return self.process.probabilities(parameters["logits"].softmax(1))
