"""Every space that is supported trains, and what the environment rewards is what is learnt."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete

from pgkit.assemble import assemble
from pgkit.rl.collect import Batch
from pgkit.types import Rows
from tests.end_to_end.envs import Shapes
from tests.end_to_end.runs import configuration, gym, train, train_briefly, watching


@pytest.mark.parametrize("observation", Shapes.OBSERVATIONS)
@pytest.mark.parametrize("agent", ["reinforce", "vpg"])
def test_every_observation_space_trains(tmp_path: Path, agent: str, observation: str) -> None:
    slab = ("collect.steps=6", "critic.steps=2", "critic.normalise_observations=true") if agent == "vpg" else ()
    run = train(
        tmp_path,
        *gym("Shapes"),
        f"agent={agent}",
        *slab,
        f"env.kwargs={{observation:{observation},action:half_infinite}}",
        "policy.normalise_observations=true",
        "total_steps=60",
        "evaluation.episodes=4",
    )
    assert run.summary["updates"] >= 2
    assert all(torch.isfinite(tensor).all() for tensor in run.parameters.values())
    assert all(tensor.dtype == torch.float32 for name, tensor in run.parameters.items() if name.startswith("network"))
    assert set(run.summary["eval"]) == {"deterministic", "stochastic"}


@pytest.mark.parametrize("action", Shapes.ACTIONS)
def test_every_action_space_trains_and_keeps_actions_as_sampled(action: str) -> None:
    batches: list[Batch] = []
    kept = watching(lambda batch: batches.append(batch))
    train_briefly(*gym("Shapes"), f"env.kwargs={{action:{action}}}", "total_steps=60", through=kept)
    assert len(batches) >= 2
    first, rows = batches[0].trajectories, batches[0].trajectories.rows()
    # Those that the environment's bounds would have cut are still there, with the density that they were drawn with.
    low, high = first.actions.amin(), first.actions.amax()
    space = Shapes.ACTIONS[action]
    if isinstance(space, Discrete):
        assert (int(low), int(high)) == (0, int(space.n) - 1)
    elif isinstance(space, Box) and action != "infinite":
        assert not all(space.contains(np.asarray(each)) for each in rows.actions.numpy().astype(space.dtype))
    fresh = assemble(configuration(*gym("Shapes"), f"env.kwargs={{action:{action}}}", "total_steps=60")).policy
    behaviour = first.behavior_log_prob.flatten()[rows.index]
    assert torch.allclose(fresh.log_prob(rows.obs, rows.actions), behaviour, atol=1e-5)


def test_only_the_action_that_pays_is_learnt() -> None:
    parts, journal = train_briefly(*gym("Bandit"), "total_steps=1000", "optimizer.lr=0.03")
    obs = torch.ones(1, 2)
    probability = (
        parts.policy.log_prob(obs, torch.tensor([0])).detach().exp()
    )  # actions count from 0, the space from -1
    assert float(probability) > 0.95
    assert journal.record.return_mean_100 > 0.9


@pytest.mark.parametrize("agent", ["reinforce", "vpg"])
def test_a_continuous_optimum_is_learnt(agent: str) -> None:
    slab = ("collect.steps=16", "critic.steps=5") if agent == "vpg" else ("collect.episodes=16",)
    parts, _ = train_briefly(
        *gym("ContinuousBandit"), f"agent={agent}", *slab, "total_steps=2000", "policy.initial_log_std=-1",
        "optimizer.lr=0.02", "diagnostics=none",
    )  # fmt: skip
    action = parts.policy.law.mode(parts.policy.actor()(np.ones((1, 2), np.float32)))[0]
    assert action == pytest.approx([0.5, -0.25], abs=0.1)


def test_moments_of_observations_are_those_of_what_was_seen(tmp_path: Path) -> None:
    seen: list[Rows] = []
    run = train(
        tmp_path,
        *gym("Constant"),
        "policy.normalise_observations=true",
        "total_steps=200",
        "evaluation.episodes=8",
        through=watching(lambda batch: seen.append(batch.trajectories.rows())),
    )
    everything = torch.cat([rows.obs for rows in seen]).double()
    assert len(everything) == run.summary["env_steps"]
    assert torch.allclose(run.parameters["encoder.mean"], everything.mean(dim=0), atol=1e-9)
    assert float(run.parameters["encoder.count"]) == len(everything)
