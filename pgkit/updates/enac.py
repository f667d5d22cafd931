"""Episodic natural actor-critic: the natural gradient as a regression of returns on summed scores."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, final

import torch
from torch import Tensor

from pgkit.core.natural import regress_on_scores
from pgkit.core.score import state_discount
from pgkit.errors import RunFault, UsageError
from pgkit.objectives import Objective
from pgkit.options import Fraction, Positive
from pgkit.types import Metrics
from pgkit.updates.climbing import Climber, Schedule
from pgkit.updates.within import advance_within


@final
class EpisodicNatural:
    """Fits R(τ) ≈ b + Sᵀ(τ) w over the episodes of a batch, S = Σ_t ∇log π(a_t|s_t), and steps along w.

    w is the natural gradient, b the baseline that comes with it. λ is `damping` times the trace of the
    covariance of the scores, however many episodes there are, plus `damping_floor`. The step is as long as
    KL(π_old ‖ π) ≤ `max_kl` a row allows, measured on the batch. Rewards are read as they are and weighted as the batch
    is, so that returns, baseline and estimator matter to the instruments alone. The optimizer's own settings are not
    used.
    Bias: b is fitted to the batch itself, O(1/N); damping turns the direction towards the plain gradient.
    Source: Peters and Schaal 2008 (Neurocomputing 71:1180), algorithm 2.
    """

    reads_rewards = True
    average: Literal["columns", "steps"] = "columns"
    entropy_coefficient = 0.0
    tags = (
        "gradient/norm", "policy/entropy", "update/damping", "update/curvature", "update/step_norm",
        "update/natural_cosine", "update/kl", "update/explained_returns",
    )  # fmt: skip

    def __init__(
        self,
        *,
        optimizer: torch.optim.Optimizer,
        gamma: Fraction,
        max_kl: Positive = 0.05,
        damping: Positive = 6.25e-3,
        damping_floor: Positive = 1e-6,
        schedule: Schedule = "constant",
    ) -> None:
        self.gamma, self.max_kl, self.schedule = gamma, max_kl, schedule
        self.damping, self.damping_floor = damping, damping_floor
        self._climber = Climber(optimizer, max_grad_norm=None, schedule="constant")

    def step(self, objective: Objective, *, progress: float) -> Metrics:
        """Changes the parameters; reports the regression, the step and the divergence a row that it made.

        Raises: RunFault where the gradient is not finite; UsageError for a batch that does not hold whole episodes.
        """
        limit = self.max_kl * (max(0.0, 1.0 - progress) if self.schedule == "linear" else 1.0)
        scores, returns, weights = self._episodes(objective)
        shares = weights / weights.sum()
        centred = scores - shares @ scores
        gradient = (shares * (returns - shares @ returns)) @ centred
        norm = float(gradient.norm())
        if not norm < float("inf"):
            raise RunFault(f"gradient/norm: {norm}, expected a finite number; the parameters were left as they were")
        before = objective.laws()
        with torch.no_grad():
            entropy = float(objective.terms().entropy.mean())
        trace = float(shares @ centred.square().sum(dim=1))
        damping = self.damping * trace + self.damping_floor
        found = regress_on_scores(scores, returns, damping=damping, weights=weights)
        # Score sums of an episode carry its whole divergence: over its rows, it is that of a row.
        curvature = float(shares @ (centred @ found.slope).square()) * scores.shape[0] / len(objective.valid)
        metrics: Metrics = {
            **dict.fromkeys(self.tags, 0.0),
            "gradient/norm": norm,
            "policy/entropy": entropy,
            "update/damping": damping,
            "update/curvature": curvature,
            "update/explained_returns": found.explained,
            "update/natural_cosine": None,
        }
        if not curvature > self.damping_floor * float(found.slope @ found.slope):
            return metrics
        step = (2 * limit / curvature) ** 0.5 * found.slope
        share, metrics["update/kl"] = advance_within(self._climber, objective, step, before, limit)
        metrics["update/step_norm"] = share * float(step.norm())
        metrics["update/natural_cosine"] = float(torch.cosine_similarity(gradient, found.slope, dim=0))
        return metrics

    def _episodes(self, objective: Objective) -> tuple[Tensor, Tensor, Tensor]:
        """Returns score sums `[N, P]`, discounted returns and weights `[N]` of the episodes, in double precision."""
        factors = objective.factors
        if factors.time is None or factors.rewards is None or factors.scores is None:
            raise UsageError("collect: slabs of steps, expected collect=episodes for update=enac")
        mask = factors.mask.double()
        scores = factors.scores.per_sample(factors.mask.to(factors.signal.dtype)).double()
        discount = state_discount(factors.time, self.gamma).double()
        returns = torch.where(factors.mask, discount * factors.rewards.double(), 0.0).sum(dim=0)
        # Log weights are cumulative: those of an episode stand in its last row.
        last = (mask.cumsum(dim=0).argmax(dim=0), torch.arange(mask.shape[1], device=mask.device))
        return scores, returns, factors.log_weight[last].double().exp()

    def state_dict(self) -> dict[str, Any]:
        """Returns an empty state: a natural step remembers nothing."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes an empty state."""
