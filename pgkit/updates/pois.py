"""Policy optimisation via importance sampling: uphill on a lower bound of the performance, on one batch at a time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, final

import torch

from pgkit.core.importance import effective_sample_size
from pgkit.core.lower_bound import Bound, per_decision_bound, trajectory_bound
from pgkit.core.score import state_discount
from pgkit.errors import UsageError
from pgkit.objectives import Objective
from pgkit.options import Count, Fraction, NonNegative, Positive, Range
from pgkit.types import Metrics
from pgkit.updates.climbing import Climber


@final
class POIS:
    """Maximises (1/N) Σ w_i R_i − R_max √((1 − δ) d₂ / (δ N)) over a batch of whole episodes, offline.

    The optimizer proposes each step; a line search halves it until the bound is better, or doubles it while it still
    gets better. Rewards are read as they are, so that returns, baseline and estimator matter to the instruments alone.
    `form="per_decision"` weights each reward by the actions up to it. Without `self_normalise` a policy of which the
    batch says nothing, all of whose weights are 0, looks better than negative returns.
    Bias: self-normalised O(1/N); the bound counts on d₂ and R_max being those of the batch.
    Source: Metelli, Papini, Faccio and Restelli 2018, arXiv:1809.06098.
    """

    corrects = True
    needs_single_terms = True
    reads_rewards = True
    average: Literal["columns", "steps"] = "columns"
    entropy_coefficient = 0.0
    tags = (
        "gradient/norm", "gradient/norm_clipped", "update/learning_rate", "policy/entropy", "update/bound",
        "update/bound_gain", "update/bound_penalty", "update/renyi", "update/effective_share", "update/iterations",
        "update/line_search_failed",
    )  # fmt: skip

    def __init__(
        self,
        *,
        optimizer: torch.optim.Optimizer,
        gamma: Fraction,
        form: Literal["trajectory", "per_decision"] = "trajectory",
        delta: Annotated[float, Range(above=0, below=1)] = 0.4,
        self_normalise: bool = True,
        largest_return: Positive | None = None,
        iterations: Count = 10,
        line_search: Count = 10,
        tolerance: NonNegative = 1e-4,
        max_grad_norm: Positive | None = None,
        schedule: Literal["constant", "linear"] = "constant",
    ) -> None:
        self.optimizer = optimizer
        self.gamma, self.form, self.delta, self.self_normalise = gamma, form, delta, self_normalise
        self.largest_return, self.iterations, self.line_search = largest_return, iterations, line_search
        self.tolerance = tolerance
        self._climber = Climber(optimizer, max_grad_norm=max_grad_norm, schedule=schedule)

    def step(self, objective: Objective, *, progress: float) -> Metrics:
        """Changes the parameters; reports the bound, what was gained and how much of the batch still counts.

        Raises: RunFault where a gradient is not finite; UsageError for a batch that does not hold whole episodes.
        """
        climber = self._climber
        climber.begin(progress)
        first = bound = self.bound(objective)
        norm, iterations, failed = 0.0, 0, False
        for iteration in range(self.iterations):
            climber.clear()
            climber.accumulate(bound.value)
            before, length = climber.position(), climber.step()
            norm = length if iteration == 0 else norm
            if failed := not self._searched(objective, before, float(bound.value.detach())):
                break
            found = self.bound(objective)
            gain = float(found.value.detach() - bound.value.detach())
            bound, iterations = found, iterations + 1
            if gain <= self.tolerance * float(first.penalty.detach()):
                break
        with torch.no_grad():
            rows = objective.terms()
            log_weight = self._log_weight(objective)[-1]
        return {
            "gradient/norm": norm,
            "gradient/norm_clipped": min(norm, climber.limit),
            "update/learning_rate": climber.learning_rate,
            "policy/entropy": float(rows.entropy.mean()),
            "update/bound": float(bound.value.detach()),
            "update/bound_gain": float(bound.value.detach() - first.value.detach()),
            "update/bound_penalty": float(bound.penalty.detach()),
            "update/renyi": float(bound.renyi.detach()),
            "update/effective_share": effective_sample_size(log_weight) / len(log_weight),
            "update/iterations": float(iterations),
            "update/line_search_failed": float(failed),
        }

    def bound(self, objective: Objective) -> Bound:
        """Returns the bound of a batch at the policy as it is, in the unit of the rewards, differentiable."""
        factors = objective.factors
        if factors.time is None or factors.rewards is None:
            raise UsageError("collect: slabs of steps, expected collect=episodes for update=pois")
        log_weight = self._log_weight(objective)
        discount = state_discount(factors.time, self.gamma).to(log_weight.dtype)
        rewards = torch.where(factors.mask, discount * factors.rewards, 0.0).to(log_weight.dtype)
        if self.form == "per_decision":
            return per_decision_bound(log_weight, rewards, delta=self.delta, self_normalise=self.self_normalise)
        return trajectory_bound(
            log_weight[-1],
            rewards.sum(dim=0),
            delta=self.delta,
            self_normalise=self.self_normalise,
            largest=self.largest_return,
        )

    def _log_weight(self, objective: Objective) -> torch.Tensor:
        """Returns the cumulative log weights `[T, N]` of the policy as it is, in double precision."""
        rows, mask = objective.terms(), objective.factors.mask
        ratio = (rows.log_prob - rows.behavior_log_prob).double()
        return ratio.new_zeros(mask.numel()).index_put((rows.index,), ratio).view_as(mask).cumsum(dim=0)

    @torch.no_grad()
    def _searched(self, objective: Objective, before: list[torch.Tensor], start: float) -> bool:
        """Moves to the best place found on the line of the step that was taken; back, and False, if none is better."""
        after, share, best, reached = self._climber.position(), 1.0, start, 0.0
        for _ in range(self.line_search):
            self._climber.move(before, towards=after, share=share)
            value = float(self.bound(objective).value)
            if value > best:
                best, reached = value, share
                if share < 1:
                    break
                share *= 2
            elif reached:
                break
            else:
                share /= 2
        self._climber.move(before, towards=after, share=reached)
        return reached > 0

    def state_dict(self) -> dict[str, Any]:
        """Returns the optimizer's state and the learning rates."""
        return self._climber.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Puts them back."""
        self._climber.load_state_dict(state)
