"""Several runs by one command: a folder each, one page for all, and no failure that stops another."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from tensorboard.plugins.hparams import metadata, plugin_data_pb2

from pgkit.run.seeds import Streams, draw_seeds
from tests.end_to_end.runs import events_of, metrics_of
from tests.faults.command import run


def row_of(folder: Path) -> dict[str, object]:
    """Returns what a run shows on the HParams page."""
    events = events_of(folder)
    content = events.summary_metadata[metadata.SESSION_START_INFO_TAG].plugin_data.content
    started = plugin_data_pb2.HParamsPluginData.FromString(content).session_start_info
    return {name: getattr(value, value.WhichOneof("kind")) for name, value in started.hparams.items()}


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> tuple[subprocess.CompletedProcess[str], list[Path]]:
    """A sweep over two seeds, of which the first meets an environment that raises, and the folders of its jobs."""
    place = tmp_path_factory.mktemp("sweep")
    unlucky = draw_seeds(Streams.from_seed(0).environments, 2)[0]
    ended = run(
        "-m", "pgkit.train", "--multirun", "seed=range(2)", "env=gym", "env.id=tests.rl.envs:Faulty-v0",
        f"env.kwargs={{fault:raise,at:200,only:{unlucky}}}", "collect=steps", "returns.cut=zero", "baseline=zero",
        "env.num_envs=2", "evaluation.episodes=0", "total_steps=800", "hydra.sweep.dir=all", cwd=place,
    )  # fmt: skip
    return ended, sorted(place.glob("all/*/"), key=lambda folder: "seed=1" in folder.name)


def test_every_job_has_a_folder_named_by_its_overrides_and_a_row_of_the_page(sweep: Any) -> None:
    _, folders = sweep
    assert len(folders) == 2
    for seed, folder in enumerate(folders):
        assert f"seed={seed}" in folder.name and "baseline=zero" in folder.name
        row = row_of(folder)
        assert (row["seed"], row["baseline"], row["collect.steps"]) == (seed, "zero", 128)
    first, second = (metrics_of(folder)[0] for folder in folders)
    assert first["gradient/norm"] != second["gradient/norm"]


def test_a_job_that_fails_stops_no_other_and_is_named(sweep: Any) -> None:
    ended, (failed, finished) = sweep
    assert ended.returncode == 1
    said = [line for line in ended.stderr.splitlines() if line.startswith("pgkit: ")]
    assert len(said) == 1 and f"all/{failed.name}: lane 0, seed" in said[0] and "ZeroDivisionError" in said[0]
    assert "Traceback" not in ended.stderr
    assert json.loads((failed / "summary.json").read_text())["status"] == "failed"
    assert "ZeroDivisionError" in (failed / "error.txt").read_text()
    assert json.loads((finished / "summary.json").read_text())["status"] == "finished"
    assert not (finished / "error.txt").exists()
