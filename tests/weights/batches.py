"""Every batch that several policies can draw of a small process, and what each is worth by the definition.

The definition is numpy: products of probabilities, loops over columns and steps. It shares nothing with pgkit but the
process, the tables of the policies and the scores.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pgkit.core.processes import Process
from pgkit.estimators.score_function import ScoreFunction
from pgkit.experience import Weights
from pgkit.protocols import Baseline
from pgkit.returns.discounted import RewardToGo
from pgkit.rl.factors import factors_of
from pgkit.types import Factors, Trajectories
from tests.problems import Enumeration

Array = NDArray[np.float64]
GAMMA = 0.9
TREE = Process(
    start=[1.0, 0.0],
    outcomes={
        (0, 0): [(1.0, 1.0, 1)],
        (0, 1): [(1.0, 3.0, None)],
        (1, 0): [(1.0, 2.0, None)],
        (1, 1): [(1.0, -1.0, None)],
    },
    num_actions=2,
    horizon=2,
)
"""An end at once, or one more step: three trajectories."""
ESTIMATOR = ScoreFunction(gamma=GAMMA, discount_states=True)
Form = Callable[["Pool", Sequence[int], Sequence[int]], Array]
"""The weights `[n, T]` of trajectories (by number) that policies (by number) drew; an ended one keeps its last."""
Reference = Callable[[Array, Array, Sequence[int]], Array]
"""A baseline `[n, T]` of signals `[n, T]`, values `[n, T]` and the policies that drew the columns."""


class Pool:
    """Policies that act, numbered, and one that learns; seeds say which they are, 4 the one that learns."""

    def __init__(self, process: Process, seeds: Sequence[int]) -> None:
        self.target = Enumeration(process, seed=4)
        self.acting = [Enumeration(process, seed=seed) for seed in seeds]
        self.critic = self.target.critic(GAMMA, error=0.4)
        self.steps = [steps for _, steps in process.trajectories]

    @cached_property
    def log_densities(self) -> Tensor:
        """log μ_k(a|s) of every step of every trajectory, `[K, T, M]`."""
        return torch.stack([each.trajectories.behavior_log_prob for each in self.acting])

    @cached_property
    def chances(self) -> list[list[float]]:
        """The probability of every trajectory under every policy."""
        return [each.probabilities().tolist() for each in self.acting]

    def gradient(self) -> Tensor:
        """Returns ∇J `[P]` of the policy that learns."""
        return self.target.exact_gradient(GAMMA)

    def batches(self, ids: Sequence[int]) -> Iterator[tuple[tuple[int, ...], float]]:
        """Yields (trajectories, probability) of every batch whose columns these policies draw."""
        for drawn in itertools.product(range(len(self.steps)), repeat=len(ids)):
            yield drawn, math.prod(self.chances[k][m] for k, m in zip(ids, drawn, strict=True))

    def trajectories(self, drawn: Sequence[int], ids: Sequence[int]) -> Trajectories:
        """Returns a batch as the window hands it out, policy k of age k."""
        columns, who = torch.tensor(drawn), torch.tensor(ids)
        densities = self.log_densities[:, :, columns]
        return replace(
            self.target.trajectories.columns(columns),
            behavior_log_prob=densities[who, :, torch.arange(len(drawn))].T.contiguous(),
            behavior_id=who,
            log_densities=densities if len(self.acting) > 1 else None,
            age=who,
        )

    def factors(self, drawn: Sequence[int], ids: Sequence[int], weights: Weights) -> Factors:
        """Returns the factors of a batch."""
        return factors_of(
            self.trajectories(drawn, ids),
            policy=self.target.policy,
            critic=self.critic,
            weights=weights,
            returns=RewardToGo(gamma=GAMMA),
            estimator=ESTIMATOR,
        )

    def estimate(self, drawn: Sequence[int], ids: Sequence[int], weights: Weights, baseline: Baseline) -> Tensor:
        """Returns the gradient estimate `[P]` that an update would take."""
        factors = self.factors(drawn, ids, weights)
        coefficients = ESTIMATOR.coefficients(factors, baseline.value(factors))
        return torch.einsum("tn,tnp->p", coefficients, self.target.scores[:, list(drawn)]) / len(drawn)

    @cached_property
    def ratios(self) -> list[list[list[float]]]:
        """π/μ_k of every step of every trajectory under every policy."""
        own = self.target.table().detach().numpy()
        tables = [each.table().detach().numpy() for each in self.acting]
        return [[[own[s, a] / table[s, a] for s, a, *_ in steps] for steps in self.steps] for table in tables]

    @cached_property
    def scores(self) -> Array:
        """The scores `[M, T, P]`."""
        return self.target.scores.transpose(0, 1).numpy()

    def defined(self, drawn: Sequence[int], ids: Sequence[int], form: Form, reference: Reference) -> Array:
        """Returns the estimate `[P]` by its definition, Σ_t γ^t s_t (Σ_k≥t γ^(k−t) w_k r_k − w_t b_t)."""
        weights = form(self, drawn, ids)
        signal, values = np.zeros_like(weights), np.zeros_like(weights)
        for i, m in enumerate(drawn):
            steps = self.steps[m]
            for t in range(len(steps)):
                later = sum(GAMMA ** (k - t) * weights[i, k] * steps[k][2] for k in range(t, len(steps)))
                signal[i, t], values[i, t] = later / weights[i, t], float(self.critic.table[t, steps[t][0]])
        baseline = reference(signal, values, ids)
        total = np.zeros(self.scores.shape[2])
        for i, m in enumerate(drawn):
            for t in range(len(self.steps[m])):
                total += GAMMA**t * weights[i, t] * (signal[i, t] - baseline[i, t]) * self.scores[m, t]
        return total / len(drawn)


def own(pool: Pool, drawn: Sequence[int], ids: Sequence[int], *, prefix: bool) -> Array:
    """The ratio to the policy that acted."""
    return np.array([_course(pool.ratios[k][m], pool, prefix) for m, k in zip(drawn, ids, strict=True)])


def mixture(
    pool: Pool,
    drawn: Sequence[int],
    ids: Sequence[int],
    *,
    prefix: bool,
    exponent: float | None,
    defensive: float | None = None,
    decay: float = 1.0,
) -> Array:
    """Multiple importance sampling: h_k p / ((n_k/n) q_k), column by column, in densities and not in logarithms."""
    n, kinds = len(drawn), range(len(pool.acting))
    fractions = [sum(each == k for each in ids) / n for k in kinds]
    shares = [fraction * decay**k for k, fraction in enumerate(fractions)]
    shares = [share / sum(shares) for share in shares]
    if defensive is not None and len(shares) > 1:
        rest = sum(shares[1:])
        shares = [defensive, *((1 - defensive) * share / rest for share in shares[1:])]
    result = []
    for m, own_id in zip(drawn, ids, strict=True):
        courses = [_course(pool.ratios[k][m], pool, prefix) for k in kinds]
        row = []
        for t in range(pool.target.process.horizon):
            # q_k / p is the inverse of the ratio.
            densities = [1 / courses[k][t] for k in kinds]
            if exponent is None:
                heuristic = shares[own_id]
            else:
                powers = [(shares[k] * densities[k]) ** exponent for k in kinds]
                heuristic = powers[own_id] / sum(powers)
            row.append(heuristic / (fractions[own_id] * densities[own_id]))
        result.append(row)
    return np.array(result)


def _course(ratios: Sequence[float], pool: Pool, prefix: bool) -> list[float]:
    horizon = pool.target.process.horizon
    if not prefix:
        return [math.prod(ratios)] * horizon
    return [math.prod(ratios[: t + 1]) for t in range(horizon)]


def zero(signal: Array, values: Array, ids: Sequence[int]) -> Array:
    return np.zeros_like(signal)


def value(signal: Array, values: Array, ids: Sequence[int]) -> Array:
    return values


def mean(signal: Array, values: Array, ids: Sequence[int]) -> Array:
    return np.broadcast_to(signal.mean(axis=0), signal.shape)


def leave_one_out(signal: Array, values: Array, ids: Sequence[int]) -> Array:
    """The mean of the other columns."""
    n = len(signal)
    return np.array([sum(signal[j] for j in range(n) if j != i) / (n - 1) for i in range(n)])


def stratified(signal: Array, values: Array, ids: Sequence[int]) -> Array:
    """Each policy's others by their mean, policies by their share of the columns."""
    n = len(signal)
    result = np.zeros_like(signal)
    for i in range(n):
        for k in set(ids):
            others = [signal[j] for j in range(n) if ids[j] == k and j != i]
            result[i] += ids.count(k) / n * np.mean(others, axis=0)  # type: ignore[attr-defined]  # a tuple
    return result
