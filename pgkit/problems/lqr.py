"""The linear quadratic regulator: a gradient of a control problem in closed form.

States move by x' = A x + B u + w, controls are u = −K x + noise, and the cost is Σ γ^t (xᵀQx + uᵀRu).
"""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor
from torch.distributions import Distribution, Normal, constraints

from pgkit.options import Count, Fraction, Positive
from pgkit.problems.known import KnownProblem
from pgkit.types import Expectation, Parameters

Size = torch.Size | list[int] | tuple[int, ...]


@final
class Rollouts(Distribution):
    """The law of (state, control) at every step, `[H, X + U]`, reparameterised by the noise of states and controls.

    The log-probability holds the controls' terms alone, as the dynamics do not move with the gain.
    """

    arg_constraints = {"gain": constraints.real_vector}  # noqa: RUF012  # torch's own form
    has_rsample = True

    def __init__(self, gain: Tensor, problem: LQR) -> None:
        self.gain, self._problem = gain, problem
        states = problem.transition.shape[0]
        super().__init__(event_shape=torch.Size([problem.horizon, states + gain.shape[0]]), validate_args=False)

    @property
    def support(self) -> constraints.Constraint:
        """Real numbers."""
        return constraints.independent(constraints.real, 2)

    def rsample(self, sample_shape: Size = ()) -> Tensor:
        """Returns rollouts `[*sample_shape, H, X + U]`, differentiable in the gain."""
        problem, count = self._problem, torch.Size(sample_shape).numel()
        states = problem.transition.shape[0]
        noise = torch.randn(problem.horizon, count, self.event_shape[1], dtype=torch.float64)
        state = problem.start_scale * torch.randn(count, states, dtype=torch.float64)
        steps = []
        for t in range(problem.horizon):
            control = -state @ self.gain.T + problem.control_scale * noise[t, :, states:]
            steps.append(torch.cat([state, control], dim=-1))
            state = state @ problem.transition.T + control @ problem.input.T
            state = state + problem.state_scale * noise[t, :, :states]
        return torch.stack(steps, dim=1).reshape(*sample_shape, *self.event_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        """Returns Σ_t log π(u_t|x_t) `[…]` of rollouts `[…, H, X + U]`."""
        states = self._problem.transition.shape[0]
        mean = -value[..., :states] @ self.gain.T
        law = Normal(mean, self._problem.control_scale, validate_args=False)
        return law.log_prob(value[..., states:]).sum((-1, -2))


@final
class LQR(KnownProblem):
    """The expected discounted cost of a linear controller with two states and one control, as a function of its gain.

    `distance` is that of the gain from the one that solves the Riccati equation.
    Source: Fazel et al. 2018, arXiv:1801.05039.
    """

    differentiable = True

    def __init__(
        self,
        *,
        gamma: Fraction = 0.8,
        horizon: Count = 60,
        start_scale: Positive = 1.0,
        state_scale: Positive = 0.1,
        control_scale: Positive = 0.5,
    ) -> None:
        self.gamma, self.horizon = gamma, horizon
        self.start_scale, self.state_scale, self.control_scale = start_scale, state_scale, control_scale
        self.transition = torch.tensor([[1.0, 0.3], [0.0, 0.9]], dtype=torch.float64)
        self.input = torch.tensor([[0.0], [0.5]], dtype=torch.float64)
        self.state_cost = torch.diag(torch.tensor([1.0, 0.3], dtype=torch.float64))
        self.control_cost = torch.tensor([[0.2]], dtype=torch.float64)

    def parameters(self) -> dict[str, Tensor]:
        """Returns a gain `[U, X]` that stabilises, but is not the best."""
        return {"gain": torch.tensor([[0.2, 0.4]], dtype=torch.float64)}

    def expectation(self) -> Expectation:
        """Returns the expected cost of a rollout."""
        discount = self.gamma ** torch.arange(self.horizon, dtype=torch.float64)

        def cost(path: Tensor) -> Tensor:
            states, controls = path[..., : len(self.transition)], path[..., len(self.transition) :]
            costs = ((states @ self.state_cost) * states).sum(-1) + ((controls @ self.control_cost) * controls).sum(-1)
            return costs @ discount

        return Expectation(cost=cost, law=lambda theta: Rollouts(theta["gain"], self))

    def exact_gradient(self, parameters: Parameters) -> Tensor:
        """Returns ∇_K = 2 [(R + γ BᵀPB) K − γ BᵀPA] S, P and S solving their Lyapunov equations."""
        gain = parameters["gain"].detach()
        cost_to_go, closed = self._cost_to_go(gain), self.transition - self.input @ gain
        spread = _lyapunov(closed, self._start() + self.gamma / (1 - self.gamma) * self._noise(), self.gamma)
        left = self.control_cost + self.gamma * self.input.T @ cost_to_go @ self.input
        gradient = 2 * (left @ gain - self.gamma * self.input.T @ cost_to_go @ self.transition) @ spread
        return gradient.reshape(-1)

    def value(self, parameters: Parameters) -> Tensor:
        """Returns the expected cost, differentiable."""
        cost_to_go = self._cost_to_go(parameters["gain"])
        noisy = self.gamma / (1 - self.gamma) * (cost_to_go @ self._noise()).trace()
        control = self.control_cost.trace() * self.control_scale**2 / (1 - self.gamma)
        return (cost_to_go @ self._start()).trace() + noisy + control

    def objective(self, parameters: Parameters) -> float:
        """Returns the expected cost."""
        return float(self.value(parameters))

    def distance(self, parameters: Parameters) -> float:
        """Returns |K − K*|."""
        return float((parameters["gain"] - self.best_gain()).norm())

    def best_gain(self) -> Tensor:
        """Returns K* `[U, X]`, by iterating the Riccati equation."""
        cost_to_go = self.state_cost
        for _ in range(500):
            left = self.control_cost + self.gamma * self.input.T @ cost_to_go @ self.input
            gain = torch.linalg.solve(left, self.gamma * self.input.T @ cost_to_go @ self.transition)
            closed = self.transition - self.input @ gain
            cost_to_go = self.state_cost + self.gamma * self.transition.T @ cost_to_go @ closed
        return gain

    def _cost_to_go(self, gain: Tensor) -> Tensor:
        closed = self.transition - self.input @ gain
        return _lyapunov(closed.T, self.state_cost + gain.T @ self.control_cost @ gain, self.gamma)

    def _start(self) -> Tensor:
        return self.start_scale**2 * torch.eye(len(self.transition), dtype=torch.float64)

    def _noise(self) -> Tensor:
        """Returns W + B Σ Bᵀ."""
        own = self.state_scale**2 * torch.eye(len(self.transition), dtype=torch.float64)
        return own + self.control_scale**2 * self.input @ self.input.T


def _lyapunov(matrix: Tensor, constant: Tensor, gamma: float) -> Tensor:
    """Returns the X with X = constant + γ M X Mᵀ."""
    size = constant.numel()
    system = torch.eye(size, dtype=constant.dtype) - gamma * torch.kron(matrix, matrix)
    return torch.linalg.solve(system, constant.reshape(-1)).reshape(constant.shape)
