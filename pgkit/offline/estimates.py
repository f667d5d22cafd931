"""Every estimator on one data set: its value, its interval, and how far its weights can be trusted."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from pgkit.core import off_policy_value as value_of
from pgkit.core.importance import effective_sample_size, largest_share, pareto_k
from pgkit.core.off_policy_intervals import bootstrap_interval
from pgkit.core.off_policy_tabular import marginal_values
from pgkit.errors import UsageError, did_you_mean
from pgkit.rl.fitted_q import FittedQ, FittedValues
from pgkit.run.trajectory_files import SavedTrajectories

BIAS = {
    "trajectory": "none",
    "per_decision": "none",
    "self_normalised": "1/N",
    "self_normalised_per_decision": "1/N",
    "doubly_robust": "none",
    "weighted_doubly_robust": "1/N",
    "direct_method": "of the model",
    "marginal": "1/N",
}
"""Every estimator, in the order of the table, and what its bias is of the order of where weights are exact."""
FITTED = ("doubly_robust", "weighted_doubly_robust", "direct_method")
"""Those that read a fitted Q."""
OF_STATES = (*FITTED, "marginal")
"""Those that take a policy for a law of actions given the last observation."""
PARETO_LIMIT = 0.7
FEWEST = 20
"""Episodes, in effect, below which an average says little."""


@dataclass(frozen=True, kw_only=True)
class Health:
    """What the weights behind an estimate are worth: averages over its steps, and the worst Pareto k among them."""

    effective_sample_size: float
    largest_share: float
    pareto_k: float | None

    def doubts(self) -> list[str]:
        """Returns what speaks against averages with these weights."""
        found = []
        if self.effective_sample_size < FEWEST:
            found.append(f"{self.effective_sample_size:.1f} episodes in effect, fewer than {FEWEST}")
        if self.pareto_k is not None and self.pareto_k > PARETO_LIMIT:
            found.append(f"Pareto k {self.pareto_k:.2f} is above {PARETO_LIMIT}: the largest weights decide")
        return found


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """One line of the table; `why_not` says what kept an estimator from a value."""

    name: str
    bias: str
    value: float | None = None
    standard_error: float | None = None
    low: float | None = None
    high: float | None = None
    interval: str = "none"
    health: Health | None = None
    why_not: str = ""


@dataclass(frozen=True, kw_only=True)
class Question:
    """The data set, the ratios of the target's probabilities to the behaviour's on it, and what is asked of them."""

    saved: SavedTrajectories
    log_ratio: Tensor
    policy: Any
    gamma: float
    confidence: float
    resamples: int
    folds: int
    fit_steps: int
    seed: int

    def generator(self, purpose: str) -> np.random.Generator:
        """Returns the random numbers for one purpose: what else is asked changes none of them."""
        return np.random.default_rng([self.seed, zlib.crc32(purpose.encode())])

    @property
    def states(self) -> Tensor:
        """Observations of a tabular data set, counted from 0, `[T, N]`."""
        assert isinstance(self.saved.trajectories.obs, Tensor)
        return self.saved.trajectories.obs[:-1] - int(self.space.start)

    @property
    def space(self) -> spaces.Discrete:
        """The observations of a tabular data set."""
        assert isinstance(self.saved.observation_space, spaces.Discrete)
        return self.saved.observation_space

    @property
    def num_episodes(self) -> int:
        """N."""
        return self.saved.trajectories.num_columns


def is_tabular(saved: SavedTrajectories) -> bool:
    """Returns whether observations and actions can be counted."""
    return all(isinstance(space, spaces.Discrete) for space in (saved.observation_space, saved.action_space))


def chosen(names: str | Sequence[str], *, tabular: bool, memory: bool = False) -> list[str]:
    """Returns the names of estimators that `all` or a list stands for, without those of states if there is a memory.

    Raises: UsageError for one that is not there or does not apply.
    """
    if names == "all":
        return [name for name in BIAS if not (memory and name in OF_STATES) and (tabular or name != "marginal")]
    listed = [names] if isinstance(names, str) else list(names)
    if not listed:
        raise UsageError("estimators: none, expected all or a list of names")
    for name in listed:
        if name not in BIAS:
            raise UsageError(f"estimators: {name}, expected all or some of {', '.join(BIAS)}{did_you_mean(name, BIAS)}")
        if memory and name in OF_STATES:
            raise UsageError(f"estimators: {name} for a policy that has a memory, expected those of importance weights")
        if name == "marginal" and not tabular:
            raise UsageError("estimators: marginal, expected Discrete observations and actions for it")
    return [name for name in BIAS if name in listed]


def estimates(question: Question, names: Sequence[str]) -> list[Estimate]:
    """Returns the lines of the table, in the order of the names."""
    fitted = _fitted(question) if set(names) & set(FITTED) else None
    return [_estimate(name, question, fitted) for name in names]


def health_of(log_weight: Tensor) -> Health:
    """Returns the health of weights `[K, N]` of K steps.

    Raises: UsageError where those of a step are all 0.
    """
    # Fewer rows say the same: neighbours among hundreds of steps have nearly the same weights.
    rows = log_weight[torch.linspace(0, len(log_weight) - 1, min(40, len(log_weight))).round().long()]
    shapes = [shape for shape in map(pareto_k, rows) if shape is not None]
    return Health(
        effective_sample_size=float(np.mean([effective_sample_size(row) for row in rows])),
        largest_share=float(np.mean([largest_share(row) for row in rows])),
        pareto_k=max(shapes, default=None),
    )


def _estimate(name: str, question: Question, fitted: FittedValues | None) -> Estimate:
    line = Estimate(name=name, bias=BIAS[name])
    try:
        line = replace(line, health=_health(name, question))
    except UsageError:
        nothing = Health(effective_sample_size=0.0, largest_share=0.0, pareto_k=None)
        line = replace(line, health=nothing)
    try:
        if name == "marginal":
            return _marginal(line, question)
        terms = _terms(name, question, fitted)
    except UsageError as error:
        return replace(line, why_not=str(error))
    line = replace(line, value=terms.value())
    if name == "direct_method":
        # What varies with the data is the fit, and resampling its start states would hide that.
        return line
    line = replace(line, standard_error=terms.standard_error())
    return _with_interval(line, question, terms.resampled, terms.without_each())


def _with_interval(
    line: Estimate, question: Question, statistic: Callable[[Tensor], Tensor], without_each: Tensor | None
) -> Estimate:
    found = bootstrap_interval(
        statistic,
        num_samples=question.num_episodes,
        confidence=question.confidence,
        resamples=question.resamples,
        generator=question.generator(line.name),
        without_each=without_each,
    )
    if found is None:
        return line
    method = "percentile bootstrap" if without_each is None else "BCa bootstrap"
    return replace(line, low=found.low, high=found.high, interval=method)


def _terms(name: str, question: Question, fitted: FittedValues | None) -> value_of.Terms:
    batch, normalise = question.saved.trajectories, name.startswith(("self_normalised", "weighted"))
    of = (batch.rewards, question.log_ratio, batch.mask)
    if name in ("trajectory", "self_normalised"):
        return value_of.trajectory_terms(*of, gamma=question.gamma, normalise=normalise)
    if name.endswith("per_decision"):
        return value_of.per_decision_terms(*of, gamma=question.gamma, normalise=normalise)
    assert fitted is not None
    if name == "direct_method":
        return value_of.direct_terms(fitted.values)
    return value_of.doubly_robust_terms(
        *of, values=fitted.values, chosen=fitted.chosen, gamma=question.gamma, normalise=normalise
    )


def _marginal(line: Estimate, question: Question) -> Estimate:
    batch = question.saved.trajectories

    def statistic(counts: Tensor) -> Tensor:
        return marginal_values(
            question.states,
            question.log_ratio,
            batch.rewards,
            batch.mask,
            counts,
            num_states=int(question.space.n),
            gamma=question.gamma,
        )

    whole = float(statistic(torch.ones(1, question.num_episodes, dtype=torch.float64))[0])
    return _with_interval(replace(line, value=whole, health=None), question, statistic, None)


def _health(name: str, question: Question) -> Health | None:
    if name in ("direct_method", "marginal"):
        return None
    log_weight = value_of.prefix_log_weights(question.log_ratio)
    return health_of(log_weight[-1:] if name in ("trajectory", "self_normalised") else log_weight)


def _fitted(question: Question) -> FittedValues:
    fitted = FittedQ(
        question.saved.trajectories,
        question.log_ratio,
        question.policy,
        observation_space=question.saved.observation_space,
        action_space=question.saved.action_space,
        gamma=question.gamma,
        steps=question.fit_steps,
    )
    return fitted.cross_fitted(folds=question.folds, generator=question.generator("fit"))
