"""Exact gradients against sums over all trajectories, and against derivatives taken at one step at a time."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor, nn

from pgkit.core.linear_quadratic import REGULATOR, LinearQuadratic
from pgkit.core.processes import CHAIN, GAMBLE, RING, SHORT_CORRIDOR, Process
from pgkit.core.truth import exact_gradient, linear_gaussian, policy_table
from pgkit.policies.mlp import MLPPolicy

pytestmark = [pytest.mark.exact, pytest.mark.usefixtures("float64")]


def policy_on(dynamics: Any, hidden: list[int], **keywords: Any) -> MLPPolicy:
    """Returns a policy with random parameters."""
    if isinstance(dynamics, Process):
        seen, acts = spaces.Discrete(dynamics.num_observations), spaces.Discrete(dynamics.num_actions)
    else:
        seen = spaces.Box(-np.inf, np.inf, (dynamics.num_states,), np.float32)
        acts = spaces.Box(-np.inf, np.inf, (dynamics.num_controls,), np.float32)
    policy = MLPPolicy(observation_space=seen, action_space=acts, hidden_sizes=hidden, **keywords)
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.copy_(0.4 * torch.randn(parameter.shape, generator=generator))
    return policy


def gradient(value: Tensor, policy: nn.Module) -> Tensor:
    return torch.cat([each.reshape(-1) for each in torch.autograd.grad(value, list(policy.parameters()))])


@pytest.mark.parametrize("process", [CHAIN, GAMBLE, replace(CHAIN, observed=[0, 0]), replace(RING, horizon=3)])
@pytest.mark.parametrize("hidden", [[], [5]])
def test_the_gradient_of_any_policy_is_that_of_the_sum_over_all_trajectories(
    process: Process, hidden: list[int]
) -> None:
    policy = policy_on(process, hidden)
    logits = torch.stack([policy(torch.tensor(seen)) for seen in process.observations])
    value = process.probabilities(logits.softmax(1)) @ process.returns(0.8)
    found = exact_gradient(process, policy, gamma=0.8, discount_states=True)
    torch.testing.assert_close(found, gradient(value, policy), rtol=0, atol=1e-10)


def test_without_discounted_states_it_is_the_expected_score_times_the_return_to_go() -> None:
    policy, gamma = policy_on(CHAIN, [5]), 0.8
    table = policy_table(policy.log_prob, CHAIN)
    probabilities, total = CHAIN.probabilities(table).detach(), torch.zeros(())
    for chance, (_, steps) in zip(probabilities, CHAIN.trajectories, strict=True):
        for t, (state, action, *_) in enumerate(steps):
            to_go = sum(gamma**u * step[2] for u, step in enumerate(steps[t:]))
            total = total + chance * to_go * table[state, action].log()
    found = exact_gradient(CHAIN, policy, gamma=gamma, discount_states=False)
    torch.testing.assert_close(found, gradient(total, policy), rtol=0, atol=1e-10)
    other = exact_gradient(CHAIN, policy, gamma=gamma, discount_states=True)
    assert float((found - other).norm()) > 1e-3


def test_the_short_corridor_without_an_end_has_its_closed_form() -> None:
    process = replace(SHORT_CORRIDOR, horizon=3000)
    policy = policy_on(process, [])
    right = policy(torch.tensor(0)).softmax(0)[1]
    value = (2 * right - 4) / (right * (1 - right))
    found = exact_gradient(process, policy, gamma=1.0, discount_states=True)
    torch.testing.assert_close(found, gradient(value, policy), rtol=0, atol=1e-9)


WIDE = LinearQuadratic(
    transition=[[0.9, 0.2], [-0.1, 0.8]],
    input=[[0.3, 0.0], [0.1, 0.5]],
    state_cost=[[1.0, 0.1], [0.1, 0.4]],
    control_cost=[[0.3, 0.05], [0.05, 0.2]],
    start_scale=0.7,
    state_scale=0.2,
    horizon=6,
)


def objective(dynamics: LinearQuadratic, policies: list[tuple[Tensor, Tensor, Tensor]], gamma: float) -> Tensor:
    """Returns E[Σ γ^t r_t] with a policy (F, f, Σ) of its own at every step, by mean and covariance of the state."""
    a, b, q, r = (
        torch.tensor(each, dtype=torch.float64)
        for each in (dynamics.transition, dynamics.input, dynamics.state_cost, dynamics.control_cost)
    )
    mean, total = torch.zeros(2), torch.zeros(())
    spread = dynamics.start_scale**2 * torch.eye(2)
    for t, (gain, offset, noise) in enumerate(policies):
        control = gain @ mean + offset
        scatter = gain @ spread @ gain.T + noise
        cost = mean @ q @ mean + (q @ spread).trace() + control @ r @ control + (r @ scatter).trace()
        total = total - gamma**t * cost
        closed = a + b @ gain
        mean = closed @ mean + b @ offset
        spread = closed @ spread @ closed.T + b @ noise @ b.T + dynamics.state_scale**2 * torch.eye(2)
    return total


@pytest.mark.parametrize("dynamics", [REGULATOR, WIDE])
@pytest.mark.parametrize("discount_states", [True, False])
def test_a_linear_gaussian_policy_has_the_gradient_of_the_moments(
    dynamics: LinearQuadratic, discount_states: bool
) -> None:
    policy, gamma = policy_on(dynamics, []), 0.9
    linear, log_std = policy.network[0], policy.log_std
    assert log_std is not None
    theta = (linear.weight, linear.bias, (2 * log_std.value).exp().diag())
    # One leaf a step: the gradient at step t carries γ^t, which the practical one takes away again.
    steps = [tuple(each.detach().requires_grad_() for each in theta) for _ in range(dynamics.horizon)]
    derivatives = torch.autograd.grad(
        objective(dynamics, steps, gamma),
        [leaf for step in steps for leaf in step],  # type: ignore[arg-type]  # three each
    )
    weights = [1.0 if discount_states else gamma**-t for t in range(dynamics.horizon)]
    sums = [sum(w * derivatives[3 * t + i] for t, w in enumerate(weights)) for i in range(3)]
    value = sum((total * each).sum() for total, each in zip(sums, theta, strict=True))
    found = exact_gradient(dynamics, policy, gamma=gamma, discount_states=discount_states)
    expected = gradient(value, policy)  # type: ignore[arg-type]  # a sum of tensors
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


def test_a_linear_gaussian_is_recognised_by_its_log_probabilities_alone() -> None:
    policy = policy_on(WIDE, [])
    law = linear_gaussian(policy.log_prob, 2, 2)
    assert law is not None and policy.log_std is not None
    for found, expected in zip(
        law, (policy.network[0].weight, policy.network[0].bias, (2 * policy.log_std.value).exp().diag()), strict=True
    ):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)


def test_what_is_not_linear_or_not_gaussian_is_told_from_it() -> None:
    assert linear_gaussian(policy_on(WIDE, [5]).log_prob, 2, 2) is None
    clipped = policy_on(WIDE, [], normalise_observations=True)
    assert linear_gaussian(clipped.log_prob, 2, 2) is None
    assert linear_gaussian(lambda x, u: -(u - x).abs().sum(-1), 2, 2) is None
    assert linear_gaussian(lambda x, u: (u - x).square().sum(-1), 2, 2) is None
    with pytest.raises(ValueError, match="linear"):
        exact_gradient(WIDE, policy_on(WIDE, [5]), gamma=1.0, discount_states=True)


def test_the_policy_keeps_its_precision_and_its_gradients() -> None:
    policy = policy_on(CHAIN, [4]).float()
    found = exact_gradient(CHAIN, policy, gamma=0.9, discount_states=True)
    assert found.dtype == torch.float64
    assert all(each.dtype == torch.float32 and each.grad is None for each in policy.parameters())
