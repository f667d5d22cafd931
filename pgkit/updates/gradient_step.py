"""One optimizer step on the whole batch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, final

import torch
from torch import Tensor

from pgkit.core.placed import told
from pgkit.objectives import Ascent, Objective
from pgkit.options import NonNegative, Positive
from pgkit.types import Metrics
from pgkit.updates.climbing import Climber, expect_finite
from pgkit.updates.preview import Preview

ATTEMPTS = 20
"""To shorten a step that goes too far; then it is not taken."""


@final
class GradientStep:
    """Evaluates the objective once, clips its gradient if asked to, and takes one optimizer step.

    `average` names the scale of the objective: a mean over columns (trajectories) or over valid steps; clip norms,
    entropy weights and learning rates mean something else under each. `max_trajectory_kl` shortens the step until the
    mean over columns of Σ_t KL(π_old ‖ π_new) is within it. To second order the effective share of a batch under the
    next policy is exp(−2 KL): a limit of 0.35 keeps half of it for later.
    """

    tags: tuple[str, ...] = (
        "gradient/norm", "gradient/norm_clipped", "update/surrogate", "update/learning_rate", "policy/entropy",
    )  # fmt: skip

    def __init__(
        self,
        *,
        optimizer: torch.optim.Optimizer,
        average: Literal["columns", "steps"] = "columns",
        max_grad_norm: Positive | None = None,
        max_trajectory_kl: Positive | None = None,
        entropy_coefficient: NonNegative = 0.0,
        schedule: Literal["constant", "linear"] = "constant",
    ) -> None:
        self.optimizer = optimizer
        self.average: Literal["columns", "steps"] = average
        self.max_grad_norm, self.max_trajectory_kl = max_grad_norm, max_trajectory_kl
        if max_trajectory_kl is not None:
            self.tags = (*self.tags, "update/step_scale")
        self.entropy_coefficient = entropy_coefficient
        self._climber = Climber(optimizer, max_grad_norm=max_grad_norm, schedule=schedule)

    def step(self, objective: Objective, *, progress: float) -> Metrics:
        """Changes the parameters; reports the gradient's norm before and after clipping, surrogate and entropy.

        Raises: RunFault where the gradient is not finite; parameters and optimizer moments are then left untouched.
        """
        climber = self._climber
        climber.begin(progress)
        found, limit = objective.ascent(), self.max_trajectory_kl
        length, scale = (
            (climber.follow(found.gradient), None) if limit is None else self._limited(objective, found, limit)
        )
        norm, value, entropy = told([length, found.value, found.entropy])
        metrics: Metrics = {
            "gradient/norm": expect_finite(norm),
            "gradient/norm_clipped": min(norm, climber.limit),
            "update/surrogate": value,
            "update/learning_rate": climber.learning_rate,
            "policy/entropy": entropy,
        }
        return metrics if limit is None else metrics | {"update/step_scale": scale}

    def _limited(self, objective: Objective, found: Ascent, limit: float) -> tuple[float | Tensor, float]:
        """Takes a step, or the part of it that stays within a divergence; returns the gradient's norm and that part."""
        before, laws = self._climber.position(), objective.laws()
        norm = self._climber.ascend(found.gradient)
        after, scale = self._climber.position(), 1.0
        for _ in range(ATTEMPTS):
            divergence = float(objective.divergence(laws).mean())
            if divergence <= limit:
                return norm, scale
            # To second order the divergence is quadratic in the step: this is the step that meets the limit.
            scale *= max(0.1, min(0.95, (0.95 * limit / divergence) ** 0.5))
            self._climber.move(before, towards=after, share=scale)
        self._climber.move(before)
        return norm, 0.0

    def preview(self) -> Preview:
        """Returns what the step from here would be for any gradient of this update's objective, by a copy.

        It knows of no divergence: that depends on where the step leads.
        """
        return Preview(self.optimizer, max_grad_norm=self.max_grad_norm)

    def state_dict(self) -> dict[str, Any]:
        """Returns the optimizer's state and the learning rates that the schedule starts from."""
        return self._climber.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Puts them back."""
        self._climber.load_state_dict(state)
