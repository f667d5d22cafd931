"""Decision processes without a horizon: exact gradients by linear equations, trajectories long enough to be samples.

A trajectory is cut after so many steps that what is cut off is below 1e-6 of the objective, far below what any number
of samples shows; the exact gradients are those of the uncut one.
"""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints

from pgkit.options import Count, Fraction
from pgkit.problems.known import KnownProblem, as_leaves, flat_gradient
from pgkit.types import Expectation, Parameters

Size = torch.Size | list[int] | tuple[int, ...]


@final
class Trajectories(Distribution):
    """The law of (state, action) at every step, `[H, 2]`; a score of it sums the scores of the actions.

    Shapes: logits `[S, A]`, start `[S]`, transition `[S, A, S]`; the log-probability holds the policy's terms alone,
    as the dynamics do not move with it.
    """

    arg_constraints = {"logits": constraints.real_vector}  # noqa: RUF012  # torch's own form

    def __init__(self, logits: Tensor, start: Tensor, transition: Tensor, horizon: int) -> None:
        self.logits, self._start, self._transition = logits, start, transition
        super().__init__(event_shape=torch.Size([horizon, 2]), validate_args=False)

    @property
    def support(self) -> constraints.Constraint:
        """Whole numbers."""
        return constraints.independent(constraints.nonnegative_integer, 2)

    def sample(self, sample_shape: Size = ()) -> Tensor:
        """Returns trajectories `[*sample_shape, H, 2]`."""
        count, horizon = torch.Size(sample_shape).numel(), self.event_shape[0]
        uniform = torch.rand(horizon, 2, count, dtype=torch.float64)
        policy, following = self.logits.detach().softmax(1).cumsum(1), self._transition.cumsum(2)
        state = _pick(self._start.cumsum(0), torch.rand(count, dtype=torch.float64))
        steps = []
        for t in range(horizon):
            action = _pick(policy[state], uniform[t, 0])
            steps.append(torch.stack([state, action], dim=-1))
            state = _pick(following[state, action], uniform[t, 1])
        return torch.stack(steps, dim=1).reshape(*sample_shape, horizon, 2)

    def log_prob(self, value: Tensor) -> Tensor:
        """Returns Σ_t log π(a_t|s_t) `[…]` of trajectories `[…, H, 2]`."""
        return self.logits.log_softmax(1)[value[..., 0], value[..., 1]].sum(-1)


@final
class InfiniteHorizon(KnownProblem):
    """The discounted return of a softmax policy on a fixed process without an end: to be maximised."""

    maximise = True

    def __init__(
        self, *, states: Count = 4, actions: Count = 3, gamma: Fraction = 0.7, horizon: Count = 40, spread: float = 2.0
    ) -> None:
        self.gamma, self.horizon = gamma, horizon
        numbers = torch.arange(states * actions * states, dtype=torch.float64).reshape(states, actions, states)
        self.transition = (spread * torch.sin(1.7 * numbers + 1)).softmax(2)
        self.rewards = torch.cos(2.3 * numbers[:, :, 0] / states)
        self.start = torch.full((states,), 1 / states, dtype=torch.float64)

    def parameters(self) -> dict[str, Tensor]:
        """Returns the logits `[S, A]`."""
        return {"logits": 0.5 * torch.sin(torch.arange(self.rewards.numel()).double()).reshape(self.rewards.shape)}

    def expectation(self) -> Expectation:
        """Returns the expected discounted return of a trajectory."""
        discount = self.gamma ** torch.arange(self.horizon, dtype=torch.float64)
        return Expectation(
            cost=lambda path: self.rewards[path[..., 0], path[..., 1]] @ discount,
            law=lambda theta: Trajectories(theta["logits"], self.start, self.transition, self.horizon),
        )

    def value(self, parameters: Parameters) -> Tensor:
        """Returns J, differentiable: V = (I − γ P_π)⁻¹ r_π, weighted by the start."""
        policy = parameters["logits"].softmax(1)
        moves, rewards = torch.einsum("sa,sat->st", policy, self.transition), (policy * self.rewards).sum(1)
        return self.start @ torch.linalg.solve(torch.eye(len(moves), dtype=moves.dtype) - self.gamma * moves, rewards)

    def exact_gradient(self, parameters: Parameters) -> Tensor:
        """Returns d(s) π(a|s) A(s, a), where d solves (I − γ P_πᵀ) d = start.

        Source: Sutton, McAllester, Singh and Mansour 2000; Agarwal et al. 2021, arXiv:1908.00261.
        """
        policy = parameters["logits"].detach().softmax(1)
        moves, rewards = torch.einsum("sa,sat->st", policy, self.transition), (policy * self.rewards).sum(1)
        system = torch.eye(len(moves), dtype=moves.dtype) - self.gamma * moves
        value, occupancy = torch.linalg.solve(system, rewards), torch.linalg.solve(system.T, self.start)
        advantage = self.rewards + self.gamma * self.transition @ value - value[:, None]
        return (occupancy[:, None] * policy * advantage).reshape(-1)

    def objective(self, parameters: Parameters) -> float:
        """Returns J."""
        return float(self.value(parameters))


@final
class ShortCorridor(KnownProblem):
    """Steps to the end of a corridor whose second place swaps left and right, all places looking the same: maximised.

    The reward is −1 a step. With p the probability of `right`, J = (2p − 4) / (p (1 − p)), best at p = 2 − √2.
    Source: Sutton and Barto 2018, example 13.1.
    """

    maximise = True

    def __init__(self, *, start: float = 0.0, horizon: Count = 250) -> None:
        self._start, self._horizon = start, horizon
        left, right, end = 0, 1, 3
        self._transition = torch.zeros(4, 2, 4, dtype=torch.float64)
        moves = {(0, left): 0, (0, right): 1, (1, left): 2, (1, right): 0, (2, left): 1, (2, right): end}
        for (state, action), successor in (moves | {(end, left): end, (end, right): end}).items():
            self._transition[state, action, successor] = 1

    def parameters(self) -> dict[str, Tensor]:
        """Returns the preference for going right, a logit."""
        return {"preference": torch.tensor(float(self._start), dtype=torch.float64)}

    def expectation(self) -> Expectation:
        """Returns the expected number of steps, negative."""
        return Expectation(cost=lambda path: -(path[..., 0] < 3).double().sum(-1), law=self._law)

    def exact_gradient(self, parameters: Parameters) -> Tensor:
        """Returns dJ/dp · p (1 − p) by the closed form."""
        leaves = as_leaves(parameters)
        return flat_gradient(self._value(leaves), leaves)

    def objective(self, parameters: Parameters) -> float:
        """Returns J."""
        return float(self._value(parameters))

    def distance(self, parameters: Parameters) -> float:
        """Returns how far the probability of going right is from 2 − √2."""
        return abs(float(parameters["preference"].sigmoid()) - (2 - 2**0.5))

    def _value(self, parameters: Parameters) -> Tensor:
        right = parameters["preference"].sigmoid()
        return (2 * right - 4) / (right * (1 - right))

    def _law(self, parameters: Parameters) -> Distribution:
        preference = parameters["preference"]
        choice = torch.stack([torch.zeros_like(preference), preference])
        # At the end nothing is chosen any more: its logits are constants, so that they have no score.
        logits = torch.cat([choice.expand(3, 2), torch.zeros(1, 2, dtype=choice.dtype)])
        start = torch.tensor([1.0, 0.0, 0.0, 0.0], dtype=torch.float64)
        return Trajectories(logits, start, self._transition, self._horizon)


def _pick(cumulative: Tensor, uniform: Tensor) -> Tensor:
    """Returns the outcome `[N]` that each uniform number falls on; cumulative probabilities `[…, K]`."""
    picked = (uniform[:, None] > cumulative).sum(-1)
    return picked.clamp(max=cumulative.shape[-1] - 1)
