"""Batches of a small problem as an update sees them."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from pgkit.core.processes import CHAIN, Process
from pgkit.estimators.score_function import ScoreFunction
from pgkit.returns.discounted import RewardToGo
from pgkit.rl.objective import PolicyObjective
from tests.problems import Enumeration, columns_of


def objective_of(
    problem: Enumeration,
    columns: Tensor,
    *,
    average: Literal["columns", "steps"] = "columns",
    entropy: float = 0.0,
    gamma: float = 1.0,
    baseline: float = 0.0,
) -> PolicyObjective:
    """Returns the objective of some trajectories under rewards-to-go, less a constant."""
    factors = columns_of(problem.factors(RewardToGo(gamma=gamma)), columns)
    estimator = ScoreFunction(gamma=gamma)
    return PolicyObjective(
        policy=problem.policy,
        trajectories=problem.trajectories.columns(columns),
        factors=factors,
        coefficients=estimator.coefficients(factors, torch.full_like(factors.signal, baseline)),
        average=average,
        entropy_coefficient=entropy,
    )


def drawn(problem: Enumeration, size: int, seed: int = 0) -> Tensor:
    """Returns the numbers of `size` trajectories drawn from the policy as it is."""
    generator = torch.Generator().manual_seed(seed)
    return torch.multinomial(problem.probabilities().detach(), size, replacement=True, generator=generator)


def parameters_of(problem: Enumeration) -> Tensor:
    """Returns the parameters `[P]`, a copy."""
    return torch.cat([each.detach().reshape(-1) for each in problem.policy.parameters()])


def put(problem: Enumeration, parameters: Tensor) -> None:
    """Sets the parameters."""
    # Parameters become views of what they are set to, hence a copy.
    torch.nn.utils.vector_to_parameters(parameters.clone(), problem.policy.parameters())


def sgd(problem: Enumeration, lr: float = 0.1) -> Any:
    return torch.optim.SGD(problem.policy.parameters(), lr=lr)


def chain(seed: int = 0, process: Process = CHAIN) -> Enumeration:
    return Enumeration(process, seed=seed)
