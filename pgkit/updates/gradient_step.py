"""One optimizer step on the whole batch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, final

import torch

from pgkit.errors import RunFault
from pgkit.objectives import Objective
from pgkit.options import NonNegative, Positive
from pgkit.types import Metrics
from pgkit.updates.preview import Preview


@final
class GradientStep:
    """Evaluates the objective once, clips its gradient if asked to, and takes one optimizer step.

    `average` names the scale of the objective: a mean over columns (trajectories) or over valid steps; clip norms,
    entropy weights and learning rates mean something else under each.
    """

    tags = ("gradient/norm", "gradient/norm_clipped", "update/surrogate", "update/learning_rate", "policy/entropy")

    def __init__(
        self,
        *,
        optimizer: torch.optim.Optimizer,
        average: Literal["columns", "steps"] = "columns",
        max_grad_norm: Positive | None = None,
        entropy_coefficient: NonNegative = 0.0,
        schedule: Literal["constant", "linear"] = "constant",
    ) -> None:
        self.optimizer = optimizer
        self.average: Literal["columns", "steps"] = average
        self.max_grad_norm = max_grad_norm
        self.entropy_coefficient = entropy_coefficient
        self.schedule = schedule
        self._parameters = [p for group in optimizer.param_groups for p in group["params"]]
        self._learning_rates = [float(group["lr"]) for group in optimizer.param_groups]

    def step(self, objective: Objective, *, progress: float) -> Metrics:
        """Changes the parameters; reports the gradient's norm before and after clipping, surrogate and entropy.

        Raises: RunFault where the gradient is not finite; parameters and optimizer moments are then left untouched.
        """
        if self.schedule == "linear":
            for group, rate in zip(self.optimizer.param_groups, self._learning_rates, strict=True):
                group["lr"] = rate * max(0.0, 1.0 - progress)
        self.optimizer.zero_grad()
        surrogate = entropy = 0.0
        for part in objective.parts():
            # Objectives are maximised and optimizers minimise: the one sign flip.
            part.value.neg().backward()
            surrogate += float(part.value.detach())
            entropy += float(part.entropy.detach())
        limit = float("inf") if self.max_grad_norm is None else self.max_grad_norm
        norm = float(torch.nn.utils.get_total_norm([p.grad for p in self._parameters if p.grad is not None]))
        if not norm < float("inf"):
            raise RunFault(f"gradient/norm: {norm}, expected a finite number; the parameters were left as they were")
        if norm > limit:
            torch._foreach_mul_([p.grad for p in self._parameters if p.grad is not None], limit / norm)
        self.optimizer.step()
        return {
            "gradient/norm": norm,
            "gradient/norm_clipped": min(norm, limit),
            "update/surrogate": surrogate,
            "update/learning_rate": float(self.optimizer.param_groups[0]["lr"]),
            "policy/entropy": entropy,
        }

    def preview(self) -> Preview:
        """Returns what the step from here would be for any gradient of this update's objective, by a copy."""
        return Preview(self.optimizer, max_grad_norm=self.max_grad_norm)

    def state_dict(self) -> dict[str, Any]:
        """Returns the optimizer's state and the learning rates that the schedule starts from."""
        return {"optimizer": self.optimizer.state_dict(), "learning_rates": list(self._learning_rates)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Puts them back."""
        self.optimizer.load_state_dict(state["optimizer"])
        self._learning_rates = list(state["learning_rates"])
