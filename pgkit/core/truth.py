"""The exact gradient of a policy on dynamics that are known: the policy as a table, or as a linear Gaussian.

A policy is known by its log-probabilities alone, so that any will do whose law is the one asked for.
Source: Sutton, McAllester, Singh and Mansour 2000 (NeurIPS), for the policy gradient theorem.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import MultivariateNormal

from pgkit.core.linear_quadratic import LinearQuadratic
from pgkit.core.processes import Process

Dynamics = Process | LinearQuadratic
LogProb = Callable[[Tensor, Tensor], Tensor]


def exact_gradient(dynamics: Dynamics, policy: Any, *, gamma: float, discount_states: bool) -> Tensor:
    """Returns the gradient `[P]` in double precision, parameters in the order of the module; the policy stays as it is.

    With `discount_states` it is that of E[Σ γ^t r_t]; without, what is estimated where states are not weighted by γ^t.

    Raises: ValueError where a policy on linear dynamics is no linear Gaussian.
    """
    twin: nn.Module = copy.deepcopy(policy).double().cpu()  # a small matter, and the tables are there
    log_prob: LogProb = twin.log_prob  # type: ignore[assignment]  # a method of every policy
    if isinstance(dynamics, Process):
        table = policy_table(log_prob, dynamics)
        objective = dynamics.policy_gradient_theorem(table, gamma, discount_states=discount_states)
    else:
        law = linear_gaussian(log_prob, dynamics.num_states, dynamics.num_controls)
        if law is None:
            raise ValueError("policy: not linear and Gaussian")
        objective = dynamics.policy_gradient_theorem(*law, gamma, discount_states=discount_states)
    parameters = [parameter for parameter in twin.parameters() if parameter.requires_grad]
    gradients = torch.autograd.grad(objective, parameters, allow_unused=True, materialize_grads=True)
    device = next(policy.parameters()).device
    return torch.cat([gradient.reshape(-1) for gradient in gradients]).to(device)


def policy_table(log_prob: LogProb, process: Process) -> Tensor:
    """Returns π(a|s) `[S, A]` of a policy that sees `process.observations`, differentiable."""
    seen = torch.arange(process.num_observations)[:, None].expand(-1, process.num_actions)
    actions = torch.arange(process.num_actions).expand_as(seen)
    return log_prob(seen, actions).exp()[list(process.observations)]


def linear_gaussian(log_prob: LogProb, num_states: int, num_controls: int) -> tuple[Tensor, Tensor, Tensor] | None:
    """Returns F `[U, X]`, f `[U]` and Σ `[U, U]` of a law N(F x + f, Σ), differentiable; None where it is no such law.

    The logarithm of a Gaussian is quadratic, so differences of it between a few actions give mean and covariance
    exactly; at other points, also far ones, the law must agree with what was found.
    """
    places = torch.cat([torch.zeros(1, num_states), torch.eye(num_states)]).double()  # the origin and one step each way
    units = torch.eye(num_controls, dtype=torch.float64)
    rows = [torch.stack([_curvature(log_prob, places[0], first, second) for second in units]) for first in units]
    covariance = torch.linalg.inv(torch.stack(rows))
    slopes = torch.stack([_slope(log_prob, places, unit) for unit in units])  # [U, X+1], precision times mean
    means = (covariance @ slopes).T
    offset, gain = means[0], (means[1:] - means[0]).T
    points = 30 * torch.sin(1.0 + torch.arange(16 * (num_states + num_controls), dtype=torch.float64)).reshape(16, -1)
    states, actions = points[:, :num_states], points[:, num_states:]
    try:
        expected = MultivariateNormal(offset + states @ gain.T, covariance).log_prob(actions)
    except ValueError:  # no covariance at all
        return None
    agrees = torch.allclose(log_prob(states, actions), expected, rtol=1e-6, atol=1e-6)
    return (gain, offset, covariance) if agrees else None


def _slope(log_prob: LogProb, states: Tensor, direction: Tensor) -> Tensor:
    """Returns the derivative `[M]` of a quadratic log-density at action 0."""
    action = direction.expand(len(states), -1)
    return (log_prob(states, action) - log_prob(states, -action)) / 2


def _curvature(log_prob: LogProb, state: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """Returns minus the mixed second difference of a quadratic log-density, its precision in these two directions."""
    actions = torch.stack([first + second, first - second, second - first, -first - second])
    values = log_prob(state.expand(4, -1), actions)
    return -(values[0] - values[1] - values[2] + values[3]) / 4
