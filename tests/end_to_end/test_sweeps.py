"""Several runs by one command: a folder each, one page for all, and no failure that stops another."""

from __future__ import annotations

import json
from pathlib import Path

from tensorboard.plugins.hparams import metadata, plugin_data_pb2

from tests.end_to_end.runs import events_of, metrics_of
from tests.faults.command import run


def row_of(folder: Path) -> dict[str, object]:
    """Returns what a run shows on the HParams page."""
    events = events_of(folder)
    content = events.summary_metadata[metadata.SESSION_START_INFO_TAG].plugin_data.content
    started = plugin_data_pb2.HParamsPluginData.FromString(content).session_start_info
    return {name: getattr(value, value.WhichOneof("kind")) for name, value in started.hparams.items()}


def test_seeds_get_a_folder_each_and_a_row_each(tmp_path: Path) -> None:
    shared = ("total_steps=300", "evaluation.episodes=0", "hydra.sweep.dir=all")
    ended = run("-m", "pgkit.train", "--multirun", "seed=range(2)", *shared, cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    folders = sorted(path.parent for path in (tmp_path / "all").glob("*/summary.json"))
    assert len(folders) == 2
    for seed, folder in enumerate(folders):
        assert f"seed={seed}" in folder.name
        assert row_of(folder)["seed"] == seed
        assert row_of(folder)["baseline"] == "leave_one_out"
        assert json.loads((folder / "summary.json").read_text())["status"] == "finished"
    first, second = (metrics_of(folder)[0] for folder in folders)
    assert first["gradient/norm"] != second["gradient/norm"]


def test_a_job_that_fails_stops_no_other_and_is_named(tmp_path: Path) -> None:
    swept = "env.kwargs.fault=raise,huge"
    shared = (
        "env=gym", "env.id=tests.rl.envs:Faulty-v0", "env.kwargs.at=200", "collect=steps", "returns.cut=zero",
        "baseline=zero", "env.num_envs=2", "evaluation.episodes=0", "total_steps=800", "hydra.sweep.dir=all",
    )  # fmt: skip
    ended = run("-m", "pgkit.train", "--multirun", swept, *shared, cwd=tmp_path)
    assert ended.returncode == 1
    failed, finished = sorted((tmp_path / "all").glob("*/"), key=lambda folder: "fault=huge" in folder.name)
    said = [line for line in ended.stderr.splitlines() if line.startswith("pgkit: ")]
    assert len(said) == 1 and f"all/{failed.name}: lane 0, seed" in said[0] and "ZeroDivisionError" in said[0]
    assert "Traceback" not in ended.stderr
    assert json.loads((failed / "summary.json").read_text())["status"] == "failed"
    assert "ZeroDivisionError" in (failed / "error.txt").read_text()
    assert json.loads((finished / "summary.json").read_text())["status"] == "finished"
    assert not (finished / "error.txt").exists()
