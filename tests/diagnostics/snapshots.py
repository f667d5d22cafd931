"""Snapshots of enumerated problems: what an instrument sees of a batch, before any update was made."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from pgkit.estimators.score_function import ScoreFunction
from pgkit.protocols import Baseline
from pgkit.returns.discounted import RewardToGo
from pgkit.snapshot import Facts, Snapshot
from pgkit.types import Coupling
from tests.problems import Enumeration, columns_of


def snapshot(
    problem: Enumeration, columns: Tensor, baseline: Baseline, *, coupling: Coupling | None = None
) -> Snapshot:
    """Returns a snapshot of some columns of a problem, reward-to-go as their return."""
    estimator = ScoreFunction(gamma=1.0)
    factors = columns_of(problem.factors(RewardToGo(gamma=1.0), estimator=estimator), columns)
    reference = baseline.value(factors)
    assert factors.scores is not None
    return Snapshot(
        trajectories=problem.trajectories.columns(columns),
        factors=factors,
        baseline=reference,
        estimator=estimator,
        coefficients=estimator.coefficients(factors, reference),
        coupling=coupling or baseline.coupling,
        before=problem.policy,
        policy=problem.policy,
        scores=factors.scores,
    )


def facts_of(problem: Enumeration, columns: int) -> Facts:
    """Returns what an instrument is told before the first batch."""
    layout, start = {}, 0
    for name, parameter in problem.policy.named_parameters():
        layout[name] = slice(start, start + parameter.numel())
        start += parameter.numel()
    return Facts(env="Toy", columns=columns, whole_episodes=True, has_values=False, layout=layout)


def ordered(problem: Enumeration, num_columns: int) -> Iterator[tuple[Tensor, float]]:
    """Yields (columns `[N]`, probability) of every batch, order included."""
    probabilities = problem.probabilities().tolist()
    for columns in itertools.product(range(len(probabilities)), repeat=num_columns):
        yield torch.tensor(columns), math.prod(probabilities[column] for column in columns)


def expectation(problem: Enumeration, num_columns: int, function: Callable[[Tensor], Tensor]) -> Tensor:
    """Returns the expectation of a function of a batch's columns over all ordered batches."""
    return sum((p * function(columns) for columns, p in ordered(problem, num_columns)), torch.zeros(()))


def drawn(problem: Enumeration, num_columns: int, *, seed: int) -> Tensor:
    """Returns the columns of a batch drawn at random."""
    generator = torch.Generator().manual_seed(seed)
    return torch.multinomial(problem.probabilities().detach(), num_columns, replacement=True, generator=generator)
