"""The last words of a run can be acted on."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest

from pgkit.dashboard import HOST, PAGE
from pgkit.run.closing import DASHBOARD, closing_block, dashboard_command, header_line, shorten

RESULT = {"mean": 487.25, "low": 471.2, "high": 498.8, "episodes": 20}
SUMMARY: dict[str, Any] = {
    "status": "finished",
    "env_steps": 200_016,
    "updates": 153,
    "episodes": 612,
    "wall_seconds": 6.21,
    "train_cpu_seconds": 6.04,
    "return_mean_100": 489.2,
    "reward_threshold": 475.0,
    "solved_at_steps": 71_336,
    "eval": {
        "deterministic": {**RESULT, "mean": 500.0, "low": None, "high": None, "episodes": 1},
        "stochastic": RESULT,
    },
    "metrics_incomplete": False,
}


def test_the_header_says_what_is_about_to_run() -> None:
    line = header_line(
        env="CartPole-v1",
        agent="reinforce",
        vectorization="sync",
        num_lanes=8,
        num_parameters=4610,
        folder=Path("runs/a"),
    )
    assert line == "CartPole-v1 · reinforce · 8 sync lanes · 4,610 parameters · runs/a"


def test_the_closing_block_says_status_return_and_both_evaluations() -> None:
    text = closing_block(SUMMARY, Path("runs/a"))
    for part in (
        "finished: 200,016 steps, 612 episodes, 153 updates in 6.2 s",
        "489.2, mean of the last 100 training episodes; goal 475 reached at 71,336 steps",
        "deterministic 500.0, 1 episode\n",
        "stochastic 487.2 [471.2, 498.8], 20 episodes",
    ):
        assert part in text


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"return_mean_100": None}, "no finished episode"),
        ({"solved_at_steps": None}, "goal 475 not reached"),
        ({"episodes": 7}, "mean of the last 7 training episodes"),
        ({"reward_threshold": None}, "489.2, mean of the last 100 training episodes\n"),
        ({"metrics_incomplete": True}, "incomplete"),
        ({"status": "interrupted", "eval": None}, "interrupted: "),
    ],
)
def test_the_closing_block_names_what_is_missing(change: dict[str, Any], part: str) -> None:
    assert part in closing_block({**SUMMARY, **change}, Path("runs/a"))


def test_one_command_opens_the_dashboard() -> None:
    text = closing_block(SUMMARY, Path("runs/a"))
    assert text.count("-m pgkit.dashboard") == 1 and "-m pgkit.dashboard runs/a\n" in text
    assert text.endswith("serves http://127.0.0.1:6006/#custom_scalars, or the next free port")
    assert f"http://{HOST}:6006/{PAGE}" == DASHBOARD


def test_the_command_survives_spaces_in_the_folder(tmp_path: Path) -> None:
    words = shlex.split(dashboard_command(tmp_path / "a b"))
    assert words[1:] == ["-m", "pgkit.dashboard", str(tmp_path / "a b")]


def test_the_command_names_a_program_that_exists_without_an_activated_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PATH", os.defpath)
    assert Path(shlex.split(dashboard_command(Path("runs/a")))[0]).absolute() == Path(sys.executable)
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent))
    assert dashboard_command(Path("runs/a")) == "python -m pgkit.dashboard runs/a"


def test_paths_are_short_inside_the_working_folder_and_whole_outside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert shorten(tmp_path / "here" / "runs" / "a") == os.path.join("runs", "a")
    assert shorten(Path("runs")) == "runs"
    assert shorten(tmp_path / "there") == str(tmp_path / "there")
