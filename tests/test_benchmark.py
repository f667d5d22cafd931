"""The benchmark's table says what its runs say, and no preset runs longer than what it is compared with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from experiments.benchmark import table
from pgkit.config import compose

PRESETS = [
    ("cartpole_ppo", "CartPole"),
    *((f"{env.lower()}_{agent}", env) for env in ("Acrobot", "LunarLander", "Pendulum") for agent in ("ppo", "a2c")),
    *((f"mountaincarcontinuous_{agent}", "MountainCarContinuous") for agent in ("ppo", "a2c")),
    ("hopper_ppo", "Hopper"),
    *((f"mujoco_{agent}", env) for agent in ("ppo", "trpo") for env in ("HalfCheetah", "Hopper", "Walker2d")),
]


def a_run(folder: Path, seed: int, deterministic: float, **differing: Any) -> None:
    """Writes what a finished run of the preset for MountainCarContinuous leaves."""
    (folder / ".hydra").mkdir(parents=True)
    choices = "hydra: {runtime: {choices: {experiment: mountaincarcontinuous_ppo, agent: ppo}}}"
    (folder / ".hydra" / "hydra.yaml").write_text(choices)
    (folder / ".hydra" / "config.yaml").write_text("env: {wrappers: [time_aware, {frame_skip: {num: 32}}]}")
    laws = {"deterministic": {"mean": deterministic}, "stochastic": {"mean": 0.0}}
    summary = {"status": "finished", "env": "MountainCarContinuous-v0", "seed": seed, "env_steps": 500, "eval": laws}
    summary |= {"train_cpu_seconds": 1.0, "versions": {"pgkit": "0"}, **differing}
    (folder / "summary.json").write_text(json.dumps(summary))


def test_the_interquartile_mean_forgets_a_quarter_at_each_end() -> None:
    values = np.array([1e9, 4.0, 2.0, 3.0, 5.0, -1e9, 6.0, 7.0])
    assert table.interquartile_mean(values) == 4.5
    assert table.interquartile_mean(values[None]).tolist() == [4.5]


def test_the_interval_holds_its_mean_and_narrows_with_seeds() -> None:
    values = np.random.default_rng(3).normal(size=80)
    widths = []
    for seeds in (5, 20, 80):
        middle, low, high = table.interval(values[:seeds])
        assert low < middle < high
        widths.append(high - low)
    assert widths[0] > widths[1] > widths[2]


def test_a_row_counts_the_environments_own_steps_and_takes_the_word_of_its_interval(tmp_path: Path) -> None:
    for seed, value in enumerate((90.0, 91.0, 92.0, 93.0, 94.0)):
        a_run(tmp_path / str(seed), seed, value)
    text = table.report(table.runs(tmp_path))
    assert "| 16,000 | 5 | 92.0 [" in text and "| yes, and its interval |" in text


def test_a_few_seeds_are_printed_themselves(tmp_path: Path) -> None:
    for seed, value in enumerate((87.0, 91.0)):
        a_run(tmp_path / str(seed), seed, value)
    assert "| 2 | 87.0, 91.0 |" in (text := table.report(table.runs(tmp_path))) and "| 1 of 2 |" in text


def test_a_return_below_the_published_one_is_not_reached(tmp_path: Path) -> None:
    for seed in range(5):
        a_run(tmp_path / str(seed), seed, 88.0)
    assert "| no |" in table.report(table.runs(tmp_path))


def test_what_cannot_be_compared_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="no summary"):
        table.runs(tmp_path)
    a_run(tmp_path / "a", 0, 1.0)
    a_run(tmp_path / "b", 0, 1.0)
    with pytest.raises(SystemExit, match="share a seed"):
        table.runs(tmp_path)
    a_run(tmp_path / "c", 1, 1.0, status="interrupted")
    with pytest.raises(SystemExit, match="interrupted"):
        table.runs(tmp_path)


@pytest.mark.parametrize(("preset", "env"), PRESETS, ids=lambda value: value)
def test_no_preset_asks_for_more_steps_than_what_it_is_compared_with(preset: str, env: str) -> None:
    config = compose("train", [f"experiment={preset}", *([f"env={env}"] if preset.startswith("mujoco") else [])])
    frames = config.total_steps * table.frames_of(config.env.wrappers)
    agent = preset.rpartition("_")[2]
    assert all(frames <= goal.steps for goal in table.PUBLISHED[config.env.id, agent])
