"""Variance-reduced policy gradients: a new batch tells what has changed since an old gradient, not all of it anew.

All rest on one identity. For episodes τ of the policy as it is, θ, and parameters θ' of before,

    E[g(τ|θ) − ω g(τ|θ')] = ∇J(θ) − ∇J(θ'),   ω = p_θ'(τ) / p_θ(τ) = exp Σ_t (log π_θ' − log π_θ),

and where θ' is near θ the two gradients of one episode are nearly the same: their difference is small, and so is its
variance.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Annotated, Any, Literal, final

import torch
from torch import Tensor

from pgkit.core.importance import effective_sample_size
from pgkit.objectives import Objective, RowTerms
from pgkit.options import Count, Fraction, Positive, Range
from pgkit.types import Metrics
from pgkit.updates.climbing import Climber

LARGEST_LOG_WEIGHT = 30.0
"""Episodes of which the policy of before makes more than e^30 times as much count e^30."""


class VarianceReduced(ABC):
    """Steps along an estimate v of the gradient that is carried from step to step.

    It begins with a snapshot: the mean gradient of `snapshot_batches` batches, between which the policy stands still.
    Bias: none where weights are not clamped, given an unbiased v; a policy that normalises observations is another one
    at the same parameters once its moments have moved, and that is not corrected for.
    """

    needs_single_terms = True
    average: Literal["columns", "steps"] = "columns"
    entropy_coefficient = 0.0
    follows = True
    """Whether v and the parameters that it belongs to are those of the last step, or stay those of the snapshot."""
    tags = (
        "gradient/norm", "gradient/norm_clipped", "update/learning_rate", "policy/entropy",
        "update/batch_gradient_norm", "update/effective_share", "update/snapshot",
    )  # fmt: skip

    def __init__(
        self,
        *,
        optimizer: torch.optim.Optimizer,
        max_grad_norm: float | None,
        schedule: Literal["constant", "linear"],
        snapshot_batches: int = 1,
    ) -> None:
        self.optimizer, self.snapshot_batches = optimizer, snapshot_batches
        self._climber = Climber(optimizer, max_grad_norm=max_grad_norm, schedule=schedule)
        self._estimate: Tensor | None = None  # v, None while a snapshot is being made
        self._anchor: list[Tensor] = []  # the parameters that v belongs to
        self._sum: Tensor | float = 0.0
        self._batches = self._steps = 0

    def recursion(self, estimate: Tensor, gradient: Tensor, earlier: Tensor) -> Tensor:
        """Returns the next estimate `[P]` of v, the batch's gradient, and its weighted gradient at v's parameters."""
        return estimate + gradient - earlier

    @abstractmethod
    def over(self, steps: int) -> bool:
        """Returns whether the next step asks for a new snapshot, after so many since the last."""

    def step(self, objective: Objective, *, progress: float) -> Metrics:
        """Changes the parameters, unless a snapshot is being made; reports how much of the batch the old policy knows.

        Raises: RunFault where the estimate is not finite; the parameters are then left untouched.
        """
        climber = self._climber
        climber.begin(progress)
        rows = objective.terms()
        gradient = climber.gradient(_surrogate(rows, rows.coefficients))
        position, share = climber.position(), None
        if making := self._estimate is None:
            self._sum = self._sum + gradient
            self._batches += 1
            if self._batches == self.snapshot_batches:
                self._estimate, self._anchor = self._sum / self._batches, position
                self._sum, self._batches, self._steps = 0.0, 0, 0
            direction = self._estimate
        else:
            earlier, share = self._earlier(objective, rows, position)
            direction = self.recursion(self._estimate, gradient, earlier)
            if self.follows:
                self._estimate, self._anchor = direction, position
        norm = None
        if direction is not None:
            norm = climber.ascend(direction)
            self._steps += 1
            if self.over(self._steps):
                self._estimate = None
        return {
            "gradient/norm": norm,
            "gradient/norm_clipped": None if norm is None else min(norm, climber.limit),
            "update/learning_rate": climber.learning_rate,
            "policy/entropy": float(rows.entropy.detach().mean()),
            "update/batch_gradient_norm": float(gradient.norm()),
            "update/effective_share": share,
            "update/snapshot": float(making),
        }

    def _earlier(self, objective: Objective, rows: RowTerms, position: list[Tensor]) -> tuple[Tensor, float]:
        """Returns the mean of ω g(τ|θ') at the parameters of v, and the effective share of the batch under ω."""
        num_columns = objective.trajectories.num_columns
        column = rows.index % num_columns
        self._climber.move(self._anchor)
        try:
            before = objective.terms(rows.index)
            change = (before.log_prob - rows.log_prob).detach().double()
            log_weight = change.new_zeros(num_columns).index_add(0, column, change)
            weight = log_weight.clamp(max=LARGEST_LOG_WEIGHT).exp().to(rows.coefficients.dtype)
            gradient = self._climber.gradient(_surrogate(before, rows.coefficients * weight[column]))
        finally:
            self._climber.move(position)
        return gradient, effective_sample_size(log_weight) / num_columns

    def state_dict(self) -> dict[str, Any]:
        """Returns the optimizer's state, the estimate and the parameters that it belongs to."""
        return {
            **self._climber.state_dict(),
            "estimate": self._estimate,
            "anchor": list(self._anchor),
            "sum": self._sum,
            "batches": self._batches,
            "steps": self._steps,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Puts them back."""
        self._climber.load_state_dict(state)
        self._estimate, self._anchor = state["estimate"], list(state["anchor"])
        self._sum, self._batches, self._steps = state["sum"], state["batches"], state["steps"]


class Periodic(VarianceReduced, ABC):
    """One that makes a new snapshot after every `period` steps."""

    def __init__(
        self,
        *,
        optimizer: torch.optim.Optimizer,
        snapshot_batches: Count = 4,
        period: Count = 4,
        max_grad_norm: Positive | None = None,
        schedule: Literal["constant", "linear"] = "constant",
    ) -> None:
        super().__init__(
            optimizer=optimizer, max_grad_norm=max_grad_norm, schedule=schedule, snapshot_batches=snapshot_batches
        )
        self.period = period

    def over(self, steps: int) -> bool:
        """Returns whether the period is over."""
        return steps >= self.period


@final
class SVRPG(Periodic):
    """v = μ + g(θ) − ω g(θ̃): every step is corrected from the last snapshot μ at θ̃.

    Source: Papini, Binaghi, Canonaco, Pirotta and Restelli 2018, arXiv:1806.05618.
    """

    follows = False


@final
class SRVR(Periodic):
    """v_t = v_{t−1} + g(θ_t) − ω g(θ_{t−1}): every step is corrected from the one before, between snapshots.

    Source: Xu, Gao and Gu 2020, arXiv:1909.08610.
    """


@final
class STORM(VarianceReduced):
    """v_t = g(θ_t) + (1 − a) (v_{t−1} − ω g(θ_{t−1})): momentum that is corrected for its age; no snapshots.

    a = 1 is the plain gradient, a = 0 never forgets.
    Source: Yuan, Lian, Liu and Zhou 2020, arXiv:2003.04302.
    """

    def __init__(
        self,
        *,
        optimizer: torch.optim.Optimizer,
        forget: Fraction = 0.2,
        max_grad_norm: Positive | None = None,
        schedule: Literal["constant", "linear"] = "constant",
    ) -> None:
        super().__init__(optimizer=optimizer, max_grad_norm=max_grad_norm, schedule=schedule)
        self.forget = forget

    def recursion(self, estimate: Tensor, gradient: Tensor, earlier: Tensor) -> Tensor:
        """Returns g + (1 − a) (v − ω g')."""
        return gradient + (1 - self.forget) * (estimate - earlier)

    def over(self, steps: int) -> bool:
        """Returns False: the first batch is the only snapshot."""
        return False


@final
class PAGE(VarianceReduced):
    """v_t = v_{t−1} + g(θ_t) − ω g(θ_{t−1}), or with some probability a new snapshot: no periods to choose.

    Source: Gargiani, Zanelli, Martinelli, Summers and Lygeros 2022, arXiv:2202.00308.
    """

    def __init__(
        self,
        *,
        optimizer: torch.optim.Optimizer,
        generator: torch.Generator,
        snapshot_batches: Count = 4,
        probability: Annotated[float, Range(above=0, most=1)] = 0.25,
        max_grad_norm: Positive | None = None,
        schedule: Literal["constant", "linear"] = "constant",
    ) -> None:
        super().__init__(
            optimizer=optimizer, max_grad_norm=max_grad_norm, schedule=schedule, snapshot_batches=snapshot_batches
        )
        self.generator, self.probability = generator, probability

    def over(self, steps: int) -> bool:
        """Draws."""
        return float(torch.rand((), generator=self.generator)) < self.probability

    def state_dict(self) -> dict[str, Any]:
        """Returns what all have, and the generator."""
        return {**super().state_dict(), "generator": self.generator.get_state()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Puts them back."""
        super().load_state_dict(state)
        self.generator.set_state(state["generator"])


def _surrogate(rows: RowTerms, coefficients: Tensor) -> Tensor:
    return (rows.log_prob * coefficients).sum() / rows.num_samples
