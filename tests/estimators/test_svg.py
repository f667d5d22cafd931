"""Pathwise gradients of trajectories: what they equal exactly, on the paths of given noise and in expectation."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from gymnasium import spaces
from torch import Tensor

from pgkit.core.linear_quadratic import REGULATOR, LinearQuadratic
from pgkit.core.truth import exact_gradient
from pgkit.critics.expansion import Expansion
from pgkit.errors import UsageError
from pgkit.estimators.svg import SVG, SVG0, Pathwise
from pgkit.policies.laws import law_of
from pgkit.simulators.pendulum import Pendulum
from pgkit.simulators.regulator import Regulator
from pgkit.types import Trajectories
from tests.paths import batch_of, flat, gradient_of, no_critic, played, policy_of

pytestmark = pytest.mark.usefixtures("float64")
GAMMA = 0.9
STEPS = 3
DYNAMICS = replace(REGULATOR, horizon=STEPS)


def every_noise(steps: int) -> tuple[Tensor, Tensor, Tensor]:
    """Returns ±1 for every number that `steps` steps of the regulator draw, in every combination.

    Two nodes with equal weights integrate polynomials up to the third degree under the standard normal exactly; returns
    are quadratic in the noise, and so are their gradients along a path.
    """
    signs = torch.tensor(list(itertools.product((-1.0, 1.0), repeat=2 + 3 * steps - 2)), dtype=torch.float64)
    # What the last state draws is seen by nobody.
    signs = torch.cat([signs, torch.zeros(len(signs), 2, dtype=torch.float64)], dim=1)
    start, drawn, noise = signs.split((2, steps, 2 * steps), dim=1)
    return start, drawn.T[:, :, None], noise.unflatten(1, (steps, 2)).transpose(0, 1)


def on_every_noise() -> tuple[Any, Trajectories, Tensor]:
    policy = policy_of(2, bound=float("inf"))
    return policy, *played(policy, Regulator(DYNAMICS), *every_noise(STEPS), gamma=GAMMA)


class ExactQ:
    """The Q of a linear Gaussian policy on linear dynamics, at every step; wrong by `error` times the action."""

    tags = ()

    def __init__(self, policy: Any, dynamics: LinearQuadratic, error: float = 0.0) -> None:
        self.policy, self.dynamics, self.error = policy, dynamics, error
        self.values = no_critic().values
        matrices = (dynamics.transition, dynamics.input, dynamics.state_cost, dynamics.control_cost)
        self.moves, self.steers, self.state_cost, self.control_cost = (
            torch.tensor(m, dtype=torch.float64) for m in matrices
        )
        self.gain, self.offset = (each.detach() for each in (policy.network[-1].weight, policy.network[-1].bias))

    def _reward(self, obs: Tensor, actions: Tensor) -> Tensor:
        return -((obs @ self.state_cost) * obs).sum(-1) - ((actions @ self.control_cost) * actions).sum(-1)

    def quality(self, obs: Tensor, actions: Tensor) -> Tensor:
        """Returns Q_t up to a constant: the return of the mean path, as noise moves it by none but constants."""
        results = []
        for t in range(len(actions)):
            state, action, total = obs[t], actions[t], torch.zeros(obs.shape[1], dtype=torch.float64)
            for k in range(len(actions) - t):
                total = total + GAMMA**k * self._reward(state, action)
                state = state @ self.moves.T + action @ self.steers.T
                action = state @ self.gain.T + self.offset
            results.append(total)
        return torch.stack(results) + self.error * actions.sum(dim=-1)

    def expansion(self, obs: Any, actions: Tensor) -> Expansion:
        return Expansion(self.policy, obs, actions, quality=lambda encoded: self.quality(obs, encoded))

    def action_values(self, obs: Any) -> None:
        return None

    def probabilities(self, obs: Any) -> None:
        return None

    def chosen_values(self, obs: Any, actions: Tensor) -> Tensor:
        return self.quality(obs, actions)

    def update(self, trajectories: Any, targets: Any, mask: Any, weight: Any = None) -> dict[str, float | None]:
        return {}

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: Any) -> None: ...


@pytest.mark.parametrize("discounted", [True, False])
def test_the_expectation_is_the_gradient_in_closed_form(discounted: bool) -> None:
    policy, trajectories, _ = on_every_noise()
    exact = exact_gradient(DYNAMICS, policy, gamma=GAMMA, discount_states=discounted)
    found = gradient_of(
        policy, trajectories, SVG(gamma=GAMMA, discount_states=discounted), simulator=Regulator(DYNAMICS)
    )
    assert torch.allclose(found, exact, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("discounted", [True, False])
def test_with_the_exact_q_the_expectation_of_svg0_is_the_gradient_in_closed_form(discounted: bool) -> None:
    policy, trajectories, _ = on_every_noise()
    exact = exact_gradient(DYNAMICS, policy, gamma=GAMMA, discount_states=discounted)
    estimator = SVG0(gamma=GAMMA, discount_states=discounted)
    found = gradient_of(policy, trajectories, estimator, critic=ExactQ(policy, DYNAMICS))
    assert torch.allclose(found, exact, rtol=1e-10, atol=1e-10)
    wrong = gradient_of(policy, trajectories, estimator, critic=ExactQ(policy, DYNAMICS, error=0.1))
    assert (wrong - exact).norm() > 0.05


@pytest.mark.parametrize("horizon", range(1, STEPS + 2))
def test_a_horizon_counts_that_many_rewards_of_every_return(horizon: int) -> None:
    policy, trajectories, _ = on_every_noise()
    simulator, estimator = Regulator(DYNAMICS), SVG(gamma=GAMMA, horizon=horizon)
    # Of each step's action the first rewards are those of a regulator that stops so many steps behind it.
    expected = torch.zeros((), dtype=torch.float64)
    for t in range(STEPS):
        end = min(t + horizon, STEPS)
        rows = slice(t, end)
        piece = batch_of(policy, trajectories.obs[t : end + 1], trajectories.actions[rows], trajectories.rewards[rows])
        first = torch.zeros_like(piece.mask)
        first[0] = True
        whole = gradient_of(policy, piece, SVG(gamma=GAMMA), simulator=simulator)
        later = batch_of(policy, piece.obs[1:], piece.actions[1:], piece.rewards[1:]) if end > t + 1 else None
        rest = 0.0 if later is None else gradient_of(policy, later, SVG(gamma=GAMMA), simulator=simulator)
        expected = expected + whole - rest
    assert torch.allclose(gradient_of(policy, trajectories, estimator, simulator=simulator), expected, atol=1e-10)
    exact = exact_gradient(DYNAMICS, policy, gamma=GAMMA, discount_states=False)
    assert torch.allclose(expected, exact) == (horizon >= STEPS) == (estimator.unbiased or horizon >= STEPS)


@pytest.mark.parametrize("law", ["gaussian", "clipped_gaussian", "squashed_gaussian"])
@pytest.mark.parametrize("hidden", [[], [5]])
def test_on_one_path_it_is_the_derivative_of_the_return_of_the_same_noise(law: str, hidden: list[int]) -> None:
    policy, simulator, steps = policy_of(3, bound=2.0, law=law, hidden=hidden, log_std=0.5), Pendulum(), 12
    generator = torch.Generator().manual_seed(1)
    start = simulator.start(6, generator=generator, dtype=torch.float64, device=torch.device("cpu"))
    drawn = torch.randn(steps, 6, 1, generator=generator, dtype=torch.float64)
    assert law == "squashed_gaussian" or (drawn.abs() * 1.5 > 2).any()  # some are clipped
    noise = torch.zeros(steps, 6, 0, dtype=torch.float64)

    def total() -> Tensor:
        return played(policy, simulator, start, drawn, noise, gamma=GAMMA)[1].mean()

    trajectories, _ = played(policy, simulator, start, drawn, noise, gamma=GAMMA)
    found = gradient_of(policy, trajectories, SVG(gamma=GAMMA, discount_states=True), simulator=simulator)
    assert torch.allclose(found, flat(torch.autograd.grad(total(), list(policy.parameters()))), rtol=1e-10, atol=1e-10)
    assert torch.allclose(found, finite_differences(total, list(policy.parameters())), rtol=1e-5, atol=1e-6)


def finite_differences(function: Callable[[], Tensor], parameters: list[Any], step: float = 1e-6) -> Tensor:
    found = []
    with torch.no_grad():
        for parameter in parameters:
            numbers = parameter.view(-1)
            for index in range(len(numbers)):
                numbers[index] += step
                above = function()
                numbers[index] -= 2 * step
                found.append((above - function()) / (2 * step))
                numbers[index] += step
    return torch.stack(found)


@pytest.mark.parametrize("end", ["terminated", "truncated"])
def test_episodes_of_one_column_know_nothing_of_each_other(end: str) -> None:
    policy, trajectories, _ = on_every_noise()
    simulator, estimator = Regulator(DYNAMICS), SVG(gamma=GAMMA)
    obs, actions, rewards = trajectories.obs, trajectories.actions, trajectories.rewards
    assert isinstance(obs, Tensor)
    # Two episodes of a slab with the reset row between them, whose action nobody sees.
    time = torch.arange(2 * STEPS + 1)[:, None].expand(-1, obs.shape[1])
    ends = (time == STEPS - 1) | (time == 2 * STEPS)
    slab = batch_of(
        policy, torch.cat([obs, obs.flip(1)]), torch.cat([actions, 7 * actions[:1], actions.flip(1)]),
        torch.cat([rewards, rewards[:1], rewards.flip(1)]), mask=time != STEPS,
        **{"terminated": torch.zeros_like(ends), "truncated": torch.zeros_like(ends)} | {end: ends},
    )  # fmt: skip
    alone = gradient_of(policy, trajectories, estimator, simulator=simulator)
    assert torch.allclose(gradient_of(policy, slab, estimator, simulator=simulator), 2 * alone, atol=1e-10)


@pytest.mark.parametrize("estimator", [SVG(gamma=1.0), SVG0(gamma=1.0)])
def test_choices_have_no_derivatives(estimator: Pathwise) -> None:
    with pytest.raises(UsageError, match=r"^estimator: svg0? with actions Discrete, expected Box"):
        estimator.accepts(spaces.Discrete(2), 8)
    estimator.accepts(spaces.Box(-1, 1, (2,)), 1)


@pytest.mark.parametrize("law", ["gaussian", "clipped_gaussian", "squashed_gaussian"])
def test_laws_apply_and_draw_as_they_do_in_numpy(law: Any) -> None:
    made = law_of(spaces.Box(-2.0, 3.0, (2,)), law)
    parameters = torch.tensor([[0.3, -0.8, 0.2, 0.9]]).expand(50_000, -1)
    actions = made.draw(parameters, torch.Generator().manual_seed(1))
    assert torch.allclose(
        made.applied(actions), torch.from_numpy(made.to_environment(actions.numpy())).double(), atol=1e-5
    )
    assert torch.allclose(made.reparameterised(parameters, actions), actions, atol=1e-5)
    # Standard errors are at most .011 of the means and .008 of the deviations: five of them.
    assert torch.allclose(actions.mean(dim=0), parameters[0, :2], atol=0.055)
    assert torch.allclose(actions.std(dim=0), parameters[0, 2:].exp(), atol=0.04)


def test_choices_are_drawn_with_their_probabilities() -> None:
    made = law_of(spaces.Discrete(3, start=4))
    parameters = torch.tensor([[0.0, 1.0, -1e9]]).expand(50_000, -1)
    actions = made.draw(parameters, torch.Generator().manual_seed(1))
    shares = torch.bincount(actions, minlength=3) / len(actions)
    assert torch.allclose(shares, parameters[0].softmax(dim=-1), atol=0.01) and shares[2] == 0
    assert set(made.applied(actions).tolist()) == {4, 5}
