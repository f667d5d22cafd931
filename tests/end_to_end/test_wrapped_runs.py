"""Whole runs inside wrappers: what learning sees, what is logged, and what playback builds again."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from pgkit import playback
from pgkit.rl.collect import Batch
from pgkit.run.trajectory_files import load_trajectories
from tests.end_to_end.runs import gym, train_briefly, watching
from tests.faults.command import run

SKIPPED = ("env.num_envs=2", "env.wrappers=[{frame_skip:{num:2}}]")
BRIEF = ("total_steps=60", "evaluation.episodes=4", "diagnostics=none")


@pytest.mark.parametrize("collect", [("collect.episodes=4",), ("agent=vpg", "collect.steps=12")])
def test_learning_sees_clipped_rewards_and_the_log_raw_returns(collect: tuple[str, ...]) -> None:
    batches: list[Batch] = []
    # Five steps that pay 1 each, two at a time: 2, 2 and 1.
    chosen = (*gym("Constant"), *SKIPPED, *collect, *BRIEF, "env.reward_clip=[-1,1]")
    train_briefly(*chosen, through=watching(batches.append))
    rewards = np.concatenate([batch.trajectories.rewards[batch.trajectories.mask] for batch in batches])
    assert set(rewards.tolist()) == {1.0} and {value for batch in batches for value in batch.returns} == {5.0}
    batches.clear()
    train_briefly(*chosen[:-1], through=watching(batches.append))
    rewards = np.concatenate([batch.trajectories.rewards[batch.trajectories.mask] for batch in batches])
    assert set(rewards.tolist()) == {1.0, 2.0} and {value for batch in batches for value in batch.returns} == {5.0}


def test_playback_builds_the_wrappers_of_the_run_again(tmp_path: Path) -> None:
    place = tmp_path / "mine"
    typed = (
        "env=CartPole",
        "env.vectorization=auto",
        "env.wrappers=[time_aware,{frame_stack:{num:2}}]",
        "env.reward_clip=[-0.5,0.5]",
    )
    ended = run("-m", "pgkit.train", *typed, *BRIEF, f"hydra.run.dir={place}", cwd=tmp_path)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "env.vectorization: sync, as time_aware and frame_stack cannot wrap the vectorised form" in ended.stdout
    kept = tmp_path / "kept.safetensors"
    ended = run("-m", "pgkit.evaluate", f"run={place}", "episodes=4", f"trajectories={kept}", cwd=tmp_path)
    assert (ended.returncode, ended.stderr) == (0, "")
    evaluation = json.loads(next(place.glob("evaluations/*/evaluation.json")).read_text())
    saved = load_trajectories(kept)
    trajectories = saved.trajectories
    assert saved.observation_space.shape == (2, 5)
    # CartPole pays 1 a step, clipped for learning alone.
    assert set(trajectories.rewards[trajectories.mask].tolist()) == {1.0}
    assert evaluation["stochastic"]["mean"] == evaluation["stochastic"]["length_mean"]
    lanes = playback.lanes_of(place, num_envs=2)
    assert lanes.observation_space.shape == (2, 5) and lanes.learnt(9.0) == 9.0
    altered = place / ".hydra" / "config.yaml"
    altered.write_text(altered.read_text().replace("num: 2", "num: 3"))
    ended = run("-m", "pgkit.evaluate", f"run={place}", "episodes=4", cwd=tmp_path)
    assert ended.returncode == 2 and "observation space" in ended.stderr


@pytest.mark.parametrize(
    ("asked", "resolved", "width"), [("auto", "sync", 7), ("vector_entry_point", "vector_entry_point", 4)]
)
def test_playback_takes_the_form_whose_spaces_the_policy_knows(asked: str, resolved: str, width: int) -> None:
    node = {"_target_": "pgkit.rl.lanes.Lanes", "id": "tests.rl.envs:OtherSpaces-v0", "vectorization": asked}
    lanes = playback.pausing_lanes(node, num_envs=2, trusted=["tests"])
    assert (lanes.vectorization, lanes.observation_space.shape) == (resolved, (width,))
    same = playback.pausing_lanes({**node, "id": "CartPole-v1"}, num_envs=2, trusted=[])
    assert same.vectorization == "sync"
