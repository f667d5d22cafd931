"""The natural gradient: a step of given length in the policy's own geometry."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, final

import torch
from torch import Tensor

from pgkit.core.fisher import empirical_vector_product
from pgkit.core.kronecker import solve_kronecker
from pgkit.core.natural import solve_by_samples, solve_conjugate_gradient, solve_diagonal
from pgkit.core.placed import told
from pgkit.errors import UsageError
from pgkit.objectives import Objective
from pgkit.options import Count, NonNegative, Positive
from pgkit.types import Metrics
from pgkit.updates.climbing import Climber, Schedule
from pgkit.updates.within import advance_within

Solve = Literal["samples", "conjugate_gradient", "diagonal", "kronecker"]


@final
class NaturalStep:
    """θ ← θ + √(2δ / xᵀFx) x with x = (F + λI)⁻¹ g: the step that KL(π_old ‖ π) ≈ δ a row allows.

    F comes from at most `max_rows` steps of the batch, evenly thinned. `samples` solves exactly among them, F the
    second moment of their scores; `conjugate_gradient` uses products with the Hessian of the divergence, exact in the
    actions; `diagonal` keeps the squares of single parameters, `kronecker` (K-FAC) the blocks of layers. λ is `damping`
    times the trace of F, E|∇log π|², however many rows there are, plus `damping_floor`: a settled policy has a Fisher
    matrix of nearly 0, and a step is left out where even its curvature is below the floor. One that moves the policy
    further than δ over the whole batch is shortened until it does not; `update/step_share` says what was left of it.
    Where λ is small, steps run so far along flat directions that their divergence is no longer quadratic, and the
    bound leaves little of them. The optimizer's own settings are not used.
    Bias: the direction is that of the gradient's own estimate; damping turns it towards the plain gradient.
    Source: Kakade 2001 (NeurIPS); Martens 2020, arXiv:1412.1193; Wu et al. 2017, arXiv:1708.05144, for K-FAC.
    """

    tags: tuple[str, ...] = (
        "gradient/norm", "update/surrogate", "policy/entropy", "update/damping", "update/curvature",
        "update/step_norm", "update/step_share", "update/natural_cosine", "update/kl",
    )  # fmt: skip

    def __init__(
        self,
        *,
        optimizer: torch.optim.Optimizer,
        average: Literal["columns", "steps"] = "columns",
        solve: Solve = "samples",
        max_kl: Positive = 0.01,
        damping: Positive = 1e-3,
        damping_floor: Positive = 1e-6,
        max_rows: Count = 800,
        iterations: Count = 10,
        entropy_coefficient: NonNegative = 0.0,
        schedule: Schedule = "constant",
    ) -> None:
        self.average: Literal["columns", "steps"] = average
        self.solve, self.max_kl, self.damping, self.damping_floor = solve, max_kl, damping, damping_floor
        self.max_rows, self.iterations = max_rows, iterations
        self.entropy_coefficient, self.schedule = entropy_coefficient, schedule
        if solve == "conjugate_gradient":
            self.tags = (*self.tags, "update/cg_residual")
        self._climber = Climber(optimizer, max_grad_norm=None, schedule="constant")

    def step(self, objective: Objective, *, progress: float) -> Metrics:
        """Changes the parameters; reports the gradient, the step and the divergence a row that it made.

        Raises: RunFault where the gradient is not finite; the parameters are then left untouched.
        """
        limit = self.max_kl * (max(0.0, 1.0 - progress) if self.schedule == "linear" else 1.0)
        gradient, norm, surrogate, entropy = self._climber.gradient_of(objective)
        metrics: Metrics = {
            **dict.fromkeys(self.tags),
            "gradient/norm": norm,
            "update/surrogate": surrogate,
            "policy/entropy": entropy,
        }
        index = thinned(objective.valid, self.max_rows, objective.trajectories.num_columns)
        if len(index) == 0 or norm == 0:
            return metrics | {"update/step_norm": 0.0, "update/kl": 0.0}
        before = objective.laws()
        geometry = _Geometry(objective, index, self)
        metrics["update/damping"] = geometry.damping
        direction, left = geometry.solved(gradient.double())
        cosine = torch.cosine_similarity(gradient.double(), direction, dim=0)
        figures = [direction @ geometry.product(direction), direction @ direction, cosine]
        curvature, square, *rest = told([*figures, *left])
        metrics |= dict(zip(("update/natural_cosine", "update/cg_residual"), rest, strict=False))
        metrics["update/curvature"] = curvature
        length = (2 * limit / curvature) ** 0.5 if curvature > self.damping_floor * square else 0.0
        # Few rows understate the curvature, long steps leave the quadratic model: what the divergence allows is
        # known once the step was tried.
        share, metrics["update/kl"] = advance_within(self._climber, objective, length * direction, before, limit)
        metrics["update/step_share"] = share if length else None
        metrics["update/step_norm"] = share * length * square**0.5
        return metrics

    def state_dict(self) -> dict[str, Any]:
        """Returns an empty state: a natural step remembers nothing."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes an empty state."""


def thinned(valid: Tensor, max_rows: int, num_columns: int) -> Tensor:
    """Returns at most so many of the flat rows, evenly spaced along each column.

    Along flat rows a stride that shares a factor with the number of columns would see some columns alone.
    """
    if len(valid) <= max_rows:
        return valid
    return valid[(valid % num_columns).argsort(stable=True)][:: -(-len(valid) // max_rows)]


@final
class _Geometry:
    """The Fisher matrix of some rows, in the form that a way of solving needs; all in double precision."""

    def __init__(self, objective: Objective, index: Tensor, update: NaturalStep) -> None:
        scores = objective.factors.scores
        if scores is None:
            raise UsageError("update: natural without scores, expected factors of trajectories")
        self._update, self._index = update, index
        self._scores = scores.of_steps(index).double()
        self._layers = scores.layers_of_steps(index) if update.solve == "kronecker" else None
        if update.solve == "kronecker" and self._layers is None:
            raise UsageError("update.solve: kronecker with layers that do not factor, expected samples or diagonal")
        trace = float(self._scores.square().sum()) / len(index)
        self.damping = update.damping * trace + update.damping_floor
        self.product: Callable[[Tensor], Tensor] = (
            objective.curvature(index)
            if update.solve == "conjugate_gradient"
            else lambda vector: empirical_vector_product(self._scores, vector)
        )

    def solved(self, gradient: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Returns (F + λI)⁻¹ g `[P]`, and what conjugate gradients left of it, where those were taken."""
        if self._update.solve == "conjugate_gradient":
            found = solve_conjugate_gradient(
                self.product, gradient, damping=self.damping, iterations=self._update.iterations
            )
            return found.solution, [found.residual]
        if self._layers is not None:
            mask = torch.ones(1, len(self._index), dtype=torch.bool, device=self._index.device)
            return solve_kronecker(self._layers, mask, gradient, damping=self.damping), []
        if self._update.solve == "diagonal":
            return solve_diagonal(self._scores, gradient, damping=self.damping), []
        return solve_by_samples(self._scores, gradient, damping=self.damping), []
