"""The objective of one batch, as a function of the policy's parameters."""

from __future__ import annotations

from typing import Literal, final

import torch
from torch import Tensor

from pgkit.core import score
from pgkit.types import ObjectiveValue, Trajectories


@final
class PolicyObjective:
    """Σ c log π(a|s) + β H, summed over steps and averaged over columns, or averaged over valid steps.

    The score-function surrogate with its entropy bonus: it evaluates the policy on all valid rows or on those asked
    for; a random subset of rows gives an unbiased estimate of the whole.
    """

    def __init__(
        self,
        *,
        policy: torch.nn.Module,
        trajectories: Trajectories,
        coefficients: Tensor,
        mask: Tensor,
        average: Literal["columns", "steps"],
        entropy_coefficient: float,
    ) -> None:
        self.policy, self.trajectories = policy, trajectories
        self.coefficients = coefficients.reshape(-1)
        whole = mask is trajectories.mask
        self.valid = trajectories.valid if whole else mask.reshape(-1).nonzero().squeeze(-1)
        self.everything = None if whole else self.valid
        columns = average == "columns"
        self.steps_per_unit = max(len(self.valid), 1) / trajectories.num_columns if columns else 1.0
        self.entropy_coefficient = entropy_coefficient

    def __call__(self, rows: Tensor | None = None) -> ObjectiveValue:
        """Returns the objective on flat `rows`, all valid ones by default."""
        taken = self.trajectories.rows(self.everything if rows is None else rows)
        parameters = self.policy(taken.obs)
        log_prob = self.policy.law.log_prob(parameters, taken.actions)
        num_samples = max(len(taken.index), 1) / self.steps_per_unit
        surrogate = score.surrogate(log_prob, self.coefficients[taken.index], num_samples=num_samples)
        if self.entropy_coefficient == 0:
            return ObjectiveValue(value=surrogate, entropy=self.policy.law.entropy(parameters.detach()).mean())
        entropy = self.policy.law.entropy(parameters)
        bonus = self.entropy_coefficient * entropy.sum() / num_samples
        return ObjectiveValue(value=surrogate + bonus, entropy=entropy.mean())
