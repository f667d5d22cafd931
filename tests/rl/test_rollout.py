"""Slabs that are collected in torch are slabs of the environment that was simulated."""

from __future__ import annotations

import itertools
from typing import Any, final

import gymnasium
import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from pgkit.errors import RunFault, UsageError
from pgkit.policies.mlp import MLPPolicy
from pgkit.rl.collect import Batch
from pgkit.rl.lanes import Lanes
from pgkit.rl.rollout import TorchStepsCollector

STEPS, LANES = 40, 6
IDS = {
    "CartPole-v1": {"max_episode_steps": 12},
    "Pendulum-v1": {"max_episode_steps": 9},
    "pgkit/LQR-v0": {"horizon": 7},
}


def policy_of(lanes: Lanes, **chosen: Any) -> MLPPolicy:
    torch.manual_seed(0)
    policy = MLPPolicy(observation_space=lanes.observation_space, action_space=lanes.action_space, **chosen)
    with torch.no_grad():
        policy.network[-1].weight.mul_(100)  # type: ignore[operator]  # a Linear
    return policy


def collector_of(id: str, *, seed: int = 5, **chosen: Any) -> TorchStepsCollector:
    lanes = Lanes(id=id, num_envs=LANES, kwargs=IDS[id])
    collector = TorchStepsCollector(lanes=lanes, policy=policy_of(lanes), steps=STEPS, **chosen)
    collector.start([seed + lane for lane in range(LANES)])
    return collector


def slab(collector: TorchStepsCollector, generator: np.random.Generator) -> Batch:
    return collector.collect(collector.policy.actor(), collector.policy.law, generator)


def tensors(batch: Batch) -> list[Tensor]:
    rows = batch.trajectories
    return [rows.obs, rows.actions, rows.rewards, rows.behavior_log_prob, rows.terminated, rows.truncated, rows.mask]  # type: ignore[list-item]  # one Box


@pytest.mark.parametrize("id", ["CartPole-v1", "Pendulum-v1"])
def test_gymnasium_answers_the_same_actions_in_the_same_way(id: str) -> None:
    collector = collector_of(id, precision="float64")
    begun, env = collector._state.clone(), gymnasium.make(id).unwrapped
    rows = slab(collector, np.random.default_rng(1)).trajectories
    assert isinstance(rows.obs, Tensor)
    limit, ends = IDS[id]["max_episode_steps"], 0
    for lane in range(LANES):
        state, steps = begun[lane].numpy(), 0
        for t in range(STEPS):
            if not rows.mask[t, lane]:  # a reset: only the next observation means anything
                assert rows.rewards[t, lane] == 0 and not (rows.terminated | rows.truncated)[t, lane]
                state = collector.simulator.state(rows.obs[t + 1, lane].double()).numpy()
                assert np.abs(state[:1]).max() <= np.pi and steps == 0
                continue
            env.reset()
            env.state = state  # type: ignore[attr-defined]  # of both
            action = rows.actions[t, lane]
            applied = int(action) if action.dim() == 0 else collector.policy.law.to_environment(action.numpy())
            obs, reward, terminated, _, _ = env.step(applied)
            state, steps = np.array(env.state), steps + 1  # type: ignore[attr-defined]  # of both
            assert np.allclose(rows.obs[t + 1, lane], obs, atol=1e-5)
            assert float(rows.rewards[t, lane]) == pytest.approx(float(reward), abs=1e-5)
            assert rows.terminated[t, lane] == terminated
            assert rows.truncated[t, lane] == (steps == limit and not terminated)
            assert rows.starts[t, lane] == (steps == 1)
            over = bool(terminated) or steps == limit
            ends, steps = ends + over, 0 if over else steps
    assert ends > LANES and (rows.truncated.any() and (id != "CartPole-v1" or rows.terminated.any()))


@pytest.mark.parametrize("id", IDS)
def test_every_end_is_followed_by_one_reset_row(id: str) -> None:
    collector, generator = collector_of(id), np.random.default_rng(1)
    batches = [slab(collector, generator).trajectories for _ in range(3)]
    done = torch.cat([each.terminated | each.truncated for each in batches])
    mask, starts = (torch.cat([getattr(each, name) for each in batches]) for name in ("mask", "starts"))
    nobody = torch.zeros_like(done[:1])
    assert torch.equal(~mask, torch.cat([nobody, done[:-1]]))
    assert torch.equal(starts, torch.cat([~nobody, ~mask[:-1]]) & mask)
    for first, second in itertools.pairwise(batches):
        assert isinstance(first.obs, Tensor) and isinstance(second.obs, Tensor)
        assert torch.equal(first.obs[-1], second.obs[0])


def test_the_regulator_terminates_at_its_horizon_and_pays_what_it_should() -> None:
    rows = slab(collector_of("pgkit/LQR-v0"), np.random.default_rng(1)).trajectories
    time = torch.arange(STEPS)[:, None].expand(STEPS, LANES)
    assert torch.equal(rows.terminated, time % 8 == 6) and not rows.truncated.any()
    assert isinstance(rows.obs, Tensor)
    cost = rows.obs[:-1, :, 0] ** 2 + 0.3 * rows.obs[:-1, :, 1] ** 2 + 0.2 * rows.actions[..., 0] ** 2
    assert torch.allclose(rows.rewards, torch.where(rows.mask, -cost, 0.0), rtol=1e-4)


@pytest.mark.parametrize("id", IDS)
def test_returns_and_lengths_are_those_of_the_episodes_that_ended_in_their_order(id: str) -> None:
    collector, generator = collector_of(id), np.random.default_rng(1)
    batches = [slab(collector, generator) for _ in range(2)]
    total, length = torch.zeros(LANES, dtype=torch.float64), torch.zeros(LANES, dtype=torch.long)
    for batch in batches:
        rows, returns, lengths = batch.trajectories, [], []
        for t in range(STEPS):
            total, length = total + rows.rewards[t], length + rows.mask[t]
            ended = rows.terminated[t] | rows.truncated[t]
            returns += total[ended].tolist()
            lengths += length[ended].tolist()
            total, length = total.masked_fill(ended, 0.0), length.masked_fill(ended, 0)
        assert list(batch.lengths) == lengths and np.allclose(batch.returns, returns, rtol=1e-5)
        assert batch.env_steps == int(rows.mask.sum()) and batch.discarded_steps == 0


@pytest.mark.parametrize("id", IDS)
def test_what_was_collected_can_be_learnt_from(id: str) -> None:
    collector = collector_of(id)
    generator = np.random.default_rng(1)
    slab(collector, generator)
    rows = slab(collector, generator).trajectories
    assert isinstance(rows.obs, Tensor)
    log_prob = collector.policy.log_prob(rows.obs[:-1], rows.actions)
    assert torch.allclose(log_prob, rows.behavior_log_prob, atol=1e-5)
    (rows.rewards * log_prob).sum().backward()
    simulator = collector.simulator  # it has worked in inference mode, and is still differentiated
    state = simulator.state(rows.obs[:-1]).requires_grad_()
    actions = collector.policy.law.applied(rows.actions)
    following, _, _ = simulator.step(state, actions, state.new_zeros(*state.shape[:2], simulator.num_noises))
    (slope,) = torch.autograd.grad(following.square().sum(), state)
    assert torch.isfinite(slope).all() and slope.any()
    assert all(torch.isfinite(each.grad).all() for each in collector.policy.parameters())


@final
class Heard(TorchDispatchMode):
    """Remembers the names of the operations that run."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.add(func.overloadpacket.__name__)
        return func(*args, **kwargs or {})


@pytest.mark.parametrize(
    ("id", "law"),
    [*((id, "auto") for id in IDS), *(("Pendulum-v1", law) for law in ("clipped_gaussian", "squashed_gaussian"))],
)
def test_no_row_waits_for_the_device_or_brings_numbers_of_the_host(id: str, law: Any) -> None:
    lanes = Lanes(id=id, num_envs=LANES)
    # Tanh is numpy's on the host, and on the host alone.
    collector = TorchStepsCollector(lanes=lanes, policy=policy_of(lanes, law=law, activation="relu"), steps=2)
    collector.start(range(LANES))
    slab(collector, np.random.default_rng(1))
    with torch.no_grad(), Heard() as heard:
        collector._step(torch.Generator())
    assert "addmm" in heard.names
    assert not heard.names & {"_local_scalar_dense", "nonzero", "masked_select", "lift_fresh", "equal"}


def test_seeds_say_everything() -> None:
    def first(seed: int, noise: int) -> list[Tensor]:
        return tensors(slab(collector_of("Pendulum-v1", seed=seed), np.random.default_rng(noise)))

    same = [torch.equal(a, b) for a, b in zip(first(5, 1), first(5, 1), strict=True)]
    assert all(same)
    assert not torch.equal(first(5, 1)[0][0], first(6, 1)[0][0])  # other first states
    assert not torch.equal(first(5, 1)[1], first(5, 2)[1])  # other actions


def test_parameters_that_are_no_numbers_are_named() -> None:
    collector = collector_of("CartPole-v1")
    with torch.no_grad():
        next(collector.policy.parameters()).fill_(torch.nan)
    with pytest.raises(RunFault, match=r"^policy: parameters of the action law are not finite"):
        slab(collector, np.random.default_rng(1))


@pytest.mark.parametrize(
    ("id", "chosen", "said"),
    [
        ("Acrobot-v1", {}, "^collect: torch_steps on Acrobot-v1, expected an environment with a simulator"),
        ("Pendulum-v1", {"law": "beta"}, "^policy.law: Beta with collect=torch_steps, expected auto, gaussian"),
    ],
)
def test_what_cannot_run_in_torch_is_named(id: str, chosen: dict[str, Any], said: str) -> None:
    lanes = Lanes(id=id, num_envs=2)
    with pytest.raises(UsageError, match=said):
        TorchStepsCollector(lanes=lanes, policy=policy_of(lanes, **chosen))
