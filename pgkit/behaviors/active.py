"""A policy whose trajectories tell most about the gradient of the one that learns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, final

import torch
from torch import Tensor

from pgkit.behaviors.base import LaneBehavior, copied
from pgkit.core.module_state import overwritten
from pgkit.core.unrolling import law_parameters, mean_divergence
from pgkit.errors import UsageError
from pgkit.options import Count, Positive
from pgkit.types import Factors, Metrics, Trajectories


@final
class Active(LaneBehavior):
    """Acts by a policy fitted to the trajectory density ∝ p_θ(τ) |g(τ)|, that of least variance of the gradient.

    Before each update a copy of the policy takes `steps` steps of Adam up the cross-entropy Σ_i |g_i| log p(τ_i), where
    g_i are the batch's per-column gradients, importance weights included, the shares |g_i| / Σ|g| without their mean
    so that equal gradients leave the policy as it is, and acts in the next batch on `lanes` lanes. The others are left
    to the policy that learns: without them weights have no bound.
    Bias: none under weights that know both policies; it is what it learns from that is noisy.
    Source: Papini, Manganini, Metelli and Restelli 2024, arXiv:2405.05630.
    """

    tags = ("behavior/cross_entropy_gain", "behavior/divergence")

    def __init__(
        self,
        *,
        policy: Any,
        num_lanes: int,
        lanes: Count | None = 4,
        steps: Count = 5,
        learning_rate: Positive = 1e-3,
    ) -> None:
        super().__init__(policy=policy, num_lanes=num_lanes, lanes=lanes)
        if self.count == num_lanes:
            raise UsageError(
                f"behavior.lanes: {'null' if lanes is None else lanes}, expected fewer than env.num_envs={num_lanes}: "
                "some lanes must be left to the policy that learns"
            )
        self.steps, self.learning_rate = steps, learning_rate
        self._other = copied(policy)

    @property
    def other(self) -> Any:
        """The fitted policy."""
        return self._other

    def learn(self, trajectories: Trajectories, factors: Factors, coefficients: Tensor) -> Metrics:
        """Fits the policy of the next batch; reports what the cross-entropy gained a step, and KL(policy || fitted).

        Raises: UsageError for an estimator with several terms a row.
        """
        if coefficients.ndim > 2 or factors.scores is None:
            raise UsageError("behavior: active with several terms a row, expected estimator=score_function")
        lengths = torch.cat([rows[0].norm(dim=1) for _, rows in factors.scores.gradients(coefficients[None])])
        overwritten(self._other, self.policy)
        if not lengths.sum() > 0:
            return dict.fromkeys(self.tags)
        # Less the mean share of what counts: E[∇log p] = 0, a baseline of the cross-entropy's own score function.
        share = lengths / lengths.sum() - 1 / len(lengths)
        rows = trajectories.rows(factors.mask.reshape(-1).nonzero().squeeze(-1))
        counts = share[rows.index % len(lengths)]
        optimizer = torch.optim.Adam(self._other.parameters(), lr=self.learning_rate)
        first = last = 0.0
        for step in range(self.steps + 1):
            laws = law_parameters(self._other, trajectories, rows)
            value = (counts * self._other.law.log_prob(laws, rows.actions)).sum()
            first, last = (float(value.detach()) if step == 0 else first), float(value.detach())
            if step < self.steps:
                optimizer.zero_grad()
                (-value).backward()
                optimizer.step()
        optimizer.zero_grad()
        divergence = mean_divergence(self.policy, self._other, trajectories, rows.index)
        return dict(zip(self.tags, (last - first, divergence), strict=True))

    def state_dict(self) -> dict[str, Any]:
        """Returns the fitted policy."""
        return {"policy": self._other.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Puts it back."""
        self._other.load_state_dict(state["policy"])
