"""Simulators do, step by step, what Gymnasium's environments and our own do."""

from __future__ import annotations

import copy
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from torch import Tensor

from pgkit.rl.known import Regulator as RegulatorEnvironment
from pgkit.rl.lanes import Lanes
from pgkit.rl.simulated import simulator_of
from pgkit.simulators.base import Simulator
from pgkit.simulators.cart_pole import CartPole
from pgkit.simulators.pendulum import Pendulum
from pgkit.simulators.regulator import Regulator

CPU = torch.device("cpu")
EXACT = {"rtol": 1e-10, "atol": 1e-10}
SIMULATORS: list[Simulator] = [CartPole(), Pendulum(), Regulator(RegulatorEnvironment().dynamics)]


def begun(simulator: Simulator, count: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return simulator.start(count, generator=torch.Generator().manual_seed(0), dtype=dtype, device=CPU)


def put(env: gymnasium.Env[Any, Any], state: Tensor) -> Any:
    """Returns an environment that was reset and stands in a state."""
    env.reset(seed=0)
    inner: Any = env.unwrapped
    inner.state = state.numpy().copy()
    return inner


@pytest.mark.parametrize("sutton_barto_reward", [False, True])
def test_cart_poles_fall_as_gymnasiums_do(sutton_barto_reward: bool) -> None:
    simulator = CartPole(sutton_barto_reward=sutton_barto_reward)
    lanes, steps = 16, 120
    state, none = begun(simulator, lanes), torch.zeros(lanes, 0)
    made = (gymnasium.make("CartPole-v1", sutton_barto_reward=sutton_barto_reward) for _ in range(lanes))
    envs = [put(env, row) for env, row in zip(made, state, strict=True)]
    actions = torch.randint(2, (steps, lanes), generator=torch.Generator().manual_seed(1))
    fallen = torch.zeros(lanes, dtype=torch.bool)
    for t in range(steps):
        state, reward, terminated = simulator.step(state, actions[t], none)
        for lane in (~fallen).nonzero()[:, 0].tolist():
            obs, expected, ended, _, _ = envs[lane].step(int(actions[t, lane]))
            assert torch.allclose(state[lane], torch.as_tensor(envs[lane].state), **EXACT)
            assert np.array_equal(simulator.observe(state)[lane].float().numpy(), obs)
            assert reward[lane] == expected and terminated[lane] == ended
        fallen |= terminated
    assert fallen.all()


@pytest.mark.parametrize("gravity", [10.0, 9.81])
def test_pendulums_swing_as_gymnasiums_do(gravity: float) -> None:
    simulator = Pendulum(g=gravity)
    lanes, steps = 8, 100
    state, none = begun(simulator, lanes) * torch.tensor([1.0, 8.0]), torch.zeros(lanes, 0)
    envs = [put(gymnasium.make("Pendulum-v1", g=gravity), row) for row in state]
    torques = 3 * torch.randn(steps, lanes, 1, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    fastest = 0.0
    for t in range(steps):
        state, reward, terminated = simulator.step(state, torques[t], none)
        for lane, env in enumerate(envs):
            obs, expected, ended, _, _ = env.step(torques[t, lane].numpy())
            assert torch.allclose(state[lane], torch.as_tensor(env.state), **EXACT)
            assert np.array_equal(simulator.observe(state)[lane].float().numpy(), obs)
            assert reward[lane] == pytest.approx(expected, abs=1e-10) and terminated[lane] == ended
        fastest = max(fastest, float(state[:, 1].abs().max()))
    assert fastest == 8 and (torques.abs() > 2).any()  # both bounds were met


def test_the_regulator_moves_as_its_environment_does() -> None:
    env = RegulatorEnvironment(horizon=7)
    simulator = simulator_of(Lanes(id="pgkit/LQR-v0", kwargs={"horizon": 7}))
    assert simulator is not None and simulator.horizon == 7
    env.reset(seed=4)
    state, draws = torch.as_tensor(env.state), copy.deepcopy(env.np_random)
    for t in range(7):
        action, noise = np.array([np.sin(t)]), torch.as_tensor(draws.standard_normal(2))
        state, reward, terminated = simulator.step(state, torch.as_tensor(action), noise)
        _, expected, ended, _, _ = env.step(action)
        assert torch.allclose(state, torch.as_tensor(env.state), **EXACT)
        assert float(reward) == pytest.approx(expected, abs=1e-10)
        assert not terminated and ended == (t == 6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("simulator", SIMULATORS, ids=lambda each: type(each).__name__)
def test_a_state_that_was_seen_goes_on_as_it_would_have(simulator: Simulator, dtype: torch.dtype) -> None:
    state = 3 * begun(simulator, 32, dtype)
    recovered = simulator.state(simulator.observe(state))
    actions = torch.ones(32) if isinstance(simulator, CartPole) else torch.ones(32, 1, dtype=dtype)
    noise = torch.ones(32, simulator.num_noises, dtype=dtype)
    first, second = (simulator.step(each, actions, noise) for each in (state, recovered))
    assert state.dtype == first[0].dtype == first[1].dtype == dtype and first[2].dtype == torch.bool
    close = {"rtol": 0.0, "atol": 1e-5 if dtype == torch.float32 else 1e-10}
    assert torch.allclose(simulator.observe(first[0]), simulator.observe(second[0]), **close)
    assert torch.allclose(first[1], second[1], **close)


@pytest.mark.parametrize("simulator", SIMULATORS, ids=lambda each: type(each).__name__)
def test_any_leading_shape_is_a_batch(simulator: Simulator) -> None:
    state = begun(simulator, 6)
    actions = torch.ones(6) if isinstance(simulator, CartPole) else torch.ones(6, 1, dtype=torch.float64)
    noise = torch.ones(6, simulator.num_noises, dtype=torch.float64)
    flat = simulator.step(state, actions, noise)
    folded = simulator.step(*(each.unflatten(0, (2, 3)) for each in (state, actions, noise)))
    assert all(torch.equal(one, other.flatten(0, 1)) for one, other in zip(flat, folded, strict=True))


@pytest.mark.parametrize("name", ["CartPole-v1", "Pendulum-v1", "pgkit/LQR-v0"])
def test_first_states_are_spread_as_the_environments_are(name: str) -> None:
    env, simulator = gymnasium.make(name), simulator_of(Lanes(id=name))
    assert simulator is not None
    env.reset(seed=0)
    inner: Any = env.unwrapped
    states = torch.stack([torch.as_tensor(env.reset() and np.array(inner.state)) for _ in range(4000)])
    drawn = begun(simulator, 4000)
    # Deviations of a uniform or normal number from 4000 draws err by 1.2 % at most: five of them, of both.
    assert torch.allclose(states.std(dim=0), drawn.std(dim=0), rtol=0.09)
    assert torch.allclose(states.mean(dim=0) / states.std(dim=0), drawn.mean(dim=0) / drawn.std(dim=0), atol=0.12)


@pytest.mark.parametrize(
    ("id", "wrappers", "reward_clip"),
    [("Acrobot-v1", [], None), ("Pendulum-v1", ["time_aware"], None), ("Pendulum-v1", [], [-1.0, 1.0])],
)
def test_what_nobody_can_simulate_has_no_simulator(id: str, wrappers: list[Any], reward_clip: Any) -> None:
    assert simulator_of(Lanes(id=id, wrappers=wrappers, reward_clip=reward_clip)) is None
