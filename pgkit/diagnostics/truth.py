"""How far the gradient is from the exact one, where that is known."""

from __future__ import annotations

from typing import Any, final

import torch
from torch import Tensor

from pgkit.core.linear_quadratic import LinearQuadratic
from pgkit.core.processes import Process
from pgkit.core.truth import exact_gradient
from pgkit.core.unrolling import is_recurrent
from pgkit.diagnostics.features import unit_of_rewards
from pgkit.diagnostics.gradients import Unanswered, chunks_in_use
from pgkit.errors import UsageError
from pgkit.options import Count, Fraction
from pgkit.snapshot import Facts, Snapshot
from pgkit.types import Metrics


@final
class Truth:
    """The exact gradient of the policy of each batch, and what the estimate in use makes of it.

    The exact gradient is that of the expected discounted return where states are weighted by γ^t, by
    `estimator.discount_states` or `returns=total`, and otherwise of what most code estimates, the same sum without
    γ^t; in the unit of the return's rewards, without the entropy bonus. `bias` is the norm of the mean of (estimate −
    exact) over all measurements so far, in which noise averages out; `noise` is what noise alone makes of that norm,
    the standard error of the mean from its scatter between measurements. A bias that does not stand out of it is not
    resolved.
    """

    tags = ("truth/norm", "truth/cosine", "truth/bias", "truth/noise")

    def __init__(self, *, facts: Facts, policy: Any, gamma: Fraction, every: Count = 1) -> None:
        if not isinstance(facts.dynamics, Process | LinearQuadratic):
            raise UsageError(
                f"diagnostics: truth on {facts.env}, expected an environment whose gradient is known, without a time "
                "limit: env=ShortCorridor, Chain, Gamble, Ring, RecallCue or LQR"
            )
        if not facts.whole_episodes:
            raise UsageError("diagnostics: truth on slabs of steps, expected collect=episodes")
        if is_recurrent(policy):
            raise UsageError("diagnostics: truth with a policy that has a memory, expected policy=mlp")
        self.every, self.gamma, self.discounted, self.dynamics = every, gamma, facts.discounted, facts.dynamics
        try:
            self._exact(policy)
        except ValueError as error:
            raise UsageError(
                f"diagnostics: truth on {facts.env} with a policy that is not linear and Gaussian, expected "
                "policy.hidden_sizes=[] and policy.normalise_observations=false"
            ) from error
        self._count, self._sum, self._squares = 0, torch.zeros(()), 0.0
        self._unanswered = Unanswered()

    def measure(self, snapshot: Snapshot) -> Metrics:
        """Returns the norm of the exact gradient, the batch's cosine with it, and the bias of the estimate so far."""
        unit = unit_of_rewards(snapshot)
        if unit is None:
            return self._unanswered(self.tags, "the return does not only scale the rewards")
        exact = unit * self._exact(snapshot.before)
        estimate = _mean_gradient(snapshot)
        if not torch.isfinite(estimate).all():
            return self._unanswered(self.tags, "the gradient is not finite")
        error = estimate - exact
        self._count, self._sum = self._count + 1, self._sum + error
        self._squares += float(error.square().sum())
        mean = self._sum / self._count
        lengths = float(exact.norm() * estimate.norm())
        scatter = max(0.0, self._squares / self._count - float(mean.square().sum()))
        return {
            "truth/norm": float(exact.norm()),
            "truth/cosine": float(exact @ estimate) / lengths if lengths > 0 else None,
            "truth/bias": float(mean.norm()),
            "truth/noise": (scatter / (self._count - 1)) ** 0.5 if self._count > 1 else None,
        }

    def _exact(self, policy: Any) -> Tensor:
        return exact_gradient(self.dynamics, policy, gamma=self.gamma, discount_states=self.discounted)


def _mean_gradient(snapshot: Snapshot) -> Tensor:
    """Returns the gradient of the batch `[P]` in double precision, control variate included."""
    total, count = torch.zeros((), dtype=torch.float64), 0
    for _, gradients in chunks_in_use(snapshot, snapshot.coefficients.shape[1]):
        total, count = total + gradients.double().sum(dim=0), count + len(gradients)
    return total / count
