"""Trust-region policy optimisation: a natural step, shortened until it holds what it promises."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, final

import torch

from pgkit.core.natural import solve_conjugate_gradient
from pgkit.core.placed import told
from pgkit.objectives import Objective
from pgkit.options import Count, NonNegative, Positive, Range
from pgkit.types import Metrics
from pgkit.updates.climbing import LARGEST_LOG_RATIO, Climber, Schedule
from pgkit.updates.natural import thinned

STEP = ("update/step_norm", "update/backtracks", "update/rejected", "update/gain", "update/kl")


@final
class TrustRegion:
    """Maximises Σ r c, r = π(a|s) / π_old(a|s), subject to a mean KL(π_old ‖ π) of at most `max_kl` a row.

    x = (F + λI)⁻¹ g by conjugate gradients, F the Hessian of the divergence at the old policy on at most `max_rows`
    rows, evenly thinned; the step √(2δ / xᵀFx) x is multiplied by `backtrack` until the divergence over *all* rows is
    within the bound and the surrogate has gained, `max_backtracks` times at most; then it is rejected and the
    parameters stay. The optimizer's own settings are not used.
    Bias: that of the surrogate, whose states are the old policy's.
    Source: Schulman et al. 2015, arXiv:1502.05477.
    """

    needs_single_terms = True
    tags = (
        "gradient/norm", "update/surrogate", "policy/entropy", "update/damping", "update/curvature",
        "update/cg_residual", *STEP,
    )  # fmt: skip

    def __init__(
        self,
        *,
        optimizer: torch.optim.Optimizer,
        average: Literal["columns", "steps"] = "steps",
        max_kl: Positive = 0.01,
        damping: Positive = 0.1,
        iterations: Count = 10,
        max_rows: Count | None = None,
        backtrack: Annotated[float, Range(above=0, below=1)] = 0.8,
        max_backtracks: Count = 10,
        entropy_coefficient: NonNegative = 0.0,
        schedule: Schedule = "constant",
    ) -> None:
        self.average: Literal["columns", "steps"] = average
        self.max_kl, self.damping, self.iterations, self.max_rows = max_kl, damping, iterations, max_rows
        self.backtrack, self.max_backtracks = backtrack, max_backtracks
        self.entropy_coefficient, self.schedule = entropy_coefficient, schedule
        self._climber = Climber(optimizer, max_grad_norm=None, schedule="constant")

    def step(self, objective: Objective, *, progress: float) -> Metrics:
        """Changes the parameters, or leaves them; reports the step, its divergence a row and what the surrogate gained.

        Raises: RunFault where the gradient is not finite; the parameters are then left untouched.
        """
        limit = self.max_kl * (max(0.0, 1.0 - progress) if self.schedule == "linear" else 1.0)
        gradient, norm, surrogate, entropy = self._climber.gradient_of(objective)
        metrics: Metrics = {
            **dict.fromkeys(self.tags),
            "gradient/norm": norm,
            "update/surrogate": surrogate,
            "policy/entropy": entropy,
            "update/damping": self.damping,
        }
        stays: Metrics = dict.fromkeys(STEP, 0.0)
        if norm == 0:
            return metrics | stays
        most = self.max_rows or len(objective.valid)
        rows = thinned(objective.valid, most, objective.trajectories.num_columns)
        product = objective.curvature(rows)
        found = solve_conjugate_gradient(product, gradient, damping=self.damping, iterations=self.iterations)
        curvature, residual, length = told([
            found.solution @ product(found.solution), found.residual, torch.linalg.vector_norm(found.solution)
        ])  # fmt: skip
        metrics |= {"update/cg_residual": residual, "update/curvature": curvature}
        if limit == 0:  # the end of a schedule: nothing is tried, and nothing rejected
            return metrics | stays
        if not curvature > 0:
            return metrics | stays | {"update/rejected": 1.0}
        scale = (2 * limit / curvature) ** 0.5
        step = scale * found.solution
        before, start, old = objective.laws(), self._climber.position(), self._log_prob(objective)
        first = self._surrogate(objective, old)
        for tries in range(self.max_backtracks + 1):
            self._climber.advance(self.backtrack**tries * step)
            total, gain = told([objective.divergence(before).sum(), self._surrogate(objective, old) - first])
            divergence = total / len(objective.valid)
            if divergence <= limit and gain > 0:
                return metrics | {
                    "update/step_norm": self.backtrack**tries * scale * length,
                    "update/backtracks": float(tries),
                    "update/rejected": 0.0,
                    "update/gain": gain,
                    "update/kl": divergence,
                }
            self._climber.move(start)
        return metrics | stays | {"update/backtracks": float(self.max_backtracks), "update/rejected": 1.0}

    def state_dict(self) -> dict[str, Any]:
        """Returns an empty state: a step remembers nothing."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes an empty state."""

    def _log_prob(self, objective: Objective) -> torch.Tensor:
        with torch.no_grad():
            return objective.terms().log_prob

    def _surrogate(self, objective: Objective, old: torch.Tensor) -> torch.Tensor:
        """Returns Σ r c with its entropy bonus at the policy as it is; the coefficients hold their own weights."""
        with torch.no_grad():
            terms = objective.terms()
            ratio = (terms.log_prob - old).clamp(max=LARGEST_LOG_RATIO).exp()
            value = (ratio * terms.coefficients).sum() + self.entropy_coefficient * terms.entropy.sum()
        return value.double() / terms.num_samples
