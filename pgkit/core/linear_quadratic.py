"""Linear dynamics, quadratic costs and a horizon: the gradient of a linear-Gaussian policy in closed form.

States move by x' = A x + B u + w with w ~ N(0, W), the reward is −xᵀQx − uᵀRu, and actions are u ~ N(F x + f, Σ).
Everything is quadratic in z = (x, 1), so that both the value to go and the second moment E[zzᵀ] of the states are
matrices that move by a recursion.
Source: Fazel et al. 2018, arXiv:1801.05039, without a horizon.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class LinearQuadratic:
    """A regulator over `horizon` steps: A `[X, X]`, B `[X, U]`, Q `[X, X]`, R `[U, U]`, in rows.

    The first state is N(0, start_scale² I) and W = state_scale² I.
    """

    transition: Sequence[Sequence[float]]
    input: Sequence[Sequence[float]]
    state_cost: Sequence[Sequence[float]]
    control_cost: Sequence[Sequence[float]]
    start_scale: float
    state_scale: float
    horizon: int

    @property
    def num_states(self) -> int:
        return len(self.transition)

    @property
    def num_controls(self) -> int:
        return len(self.control_cost)

    def policy_gradient_theorem(
        self, gain: Tensor, offset: Tensor, covariance: Tensor, gamma: float, *, discount_states: bool = True
    ) -> Tensor:
        """Returns Σ_t γ^t E[Q_t(x, u)] up to a constant, to be differentiated in this policy alone.

        States and Q belong to the policy given, detached; without γ^t the gradient is what most code estimates.
        Shapes: gain F `[U, X]`, offset f `[U]`, covariance Σ `[U, U]`.
        """
        policy = torch.cat([gain, offset[:, None]], dim=1)  # u = policy z + noise
        fixed, noise = policy.detach(), covariance.detach()
        moment, spread = self._start(), self._spread()
        moments = []
        moves, steers = self._augmented
        closed = moves + steers @ fixed
        for _ in range(self.horizon):
            moments.append(moment)
            moment = closed @ moment @ closed.T + steers @ noise @ steers.T + spread
        total, to_go = torch.zeros((), dtype=torch.float64), torch.zeros_like(spread)
        for t in reversed(range(self.horizon)):
            weight = gamma**t if discount_states else 1.0
            # What no action moves, the noise of later states and controls, is left out.
            total = total + weight * self._expected(policy, covariance, moments[t], gamma * to_go)
            to_go = self._quadratic(fixed, gamma * to_go)
        return -total

    def _expected(self, policy: Tensor, covariance: Tensor, moment: Tensor, to_go: Tensor) -> Tensor:
        """Returns E[xᵀQx + uᵀRu + z'ᵀ P z'] without the noise of the states, for discounted P."""
        _, steers = self._augmented
        noisy = (self._control_cost() + steers.T @ to_go @ steers) @ covariance
        return (self._quadratic(policy, to_go) @ moment).trace() + noisy.trace()

    def _quadratic(self, policy: Tensor, to_go: Tensor) -> Tensor:
        """Returns the matrix of the cost of a step and of what follows, as a function of z."""
        moves, steers = self._augmented
        closed = moves + steers @ policy
        own = torch.zeros_like(moves)
        own[:-1, :-1] = torch.tensor(self.state_cost, dtype=torch.float64)
        return own + policy.T @ self._control_cost() @ policy + closed.T @ to_go @ closed

    @cached_property
    def _augmented(self) -> tuple[Tensor, Tensor]:
        """The dynamics of z: `[X+1, X+1]` and `[X+1, U]`."""
        moves = torch.eye(self.num_states + 1, dtype=torch.float64)
        moves[:-1, :-1] = torch.tensor(self.transition, dtype=torch.float64)
        steers = torch.zeros(self.num_states + 1, self.num_controls, dtype=torch.float64)
        steers[:-1] = torch.tensor(self.input, dtype=torch.float64)
        return moves, steers

    def _control_cost(self) -> Tensor:
        return torch.tensor(self.control_cost, dtype=torch.float64)

    def _start(self) -> Tensor:
        """Returns E[zzᵀ] at the start."""
        scales = torch.full((self.num_states + 1,), self.start_scale**2, dtype=torch.float64)
        scales[-1] = 1.0
        return scales.diag()

    def _spread(self) -> Tensor:
        """Returns the covariance of the states' noise, of z."""
        scales = torch.full((self.num_states + 1,), self.state_scale**2, dtype=torch.float64)
        scales[-1] = 0.0
        return scales.diag()


REGULATOR = LinearQuadratic(
    transition=[[1.0, 0.3], [0.0, 0.9]],
    input=[[0.0], [0.5]],
    state_cost=[[1.0, 0.0], [0.0, 0.3]],
    control_cost=[[0.2]],
    start_scale=1.0,
    state_scale=0.1,
    horizon=20,
)
"""A push on a mass with friction: place and speed, one force."""
