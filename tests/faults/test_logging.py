"""A full disk ends the metrics and not the run; a reader who leaves ends neither."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

RUN = """
import json, resource, sys
from pathlib import Path
from pgkit.loggers.csv import CSVLogger
from pgkit.loggers.group import LoggerGroup
from pgkit.loggers.tensorboard import TensorBoardLogger

folder, limit = Path(sys.argv[1]), int(sys.argv[2])
tags = ("return/mean", "gradient/snr")
warnings = []
kinds = (TensorBoardLogger, CSVLogger)
group = LoggerGroup([each(folder=folder, tags=tags, axis="env_steps") for each in kinds], warn=warnings.append)
group.start({"seed": 0})
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
for update in range(1000):
    group.write({"return/mean": float(update), "gradient/snr": None}, step=update)
group.finish({"return_mean_100": 1.0}, status="finished")
group.close()
print(json.dumps({"updates": update + 1, "warnings": warnings, "incomplete": group.incomplete}))
"""

SPEAK = """
import sys
from pgkit.run.progress import Progress
with Progress(total=1000, goal=None) as progress:
    for step in range(1000):
        progress.print("x" * 200)
        progress.update(done=step + 1, outcome=1.0, snr=None)
print("said by someone else")
open(sys.argv[1], "w").write("reached the end")
"""


def run(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize("limit", [2_000, 5_003, 8_191, 12_345])
def test_training_goes_on_when_the_disk_fills_up(tmp_path: Path, limit: int) -> None:
    result = run(RUN, tmp_path, limit)
    assert result.returncode == 0, result.stderr
    outcome = json.loads(result.stdout)
    assert outcome["updates"] == 1000
    assert outcome["incomplete"] is True
    assert len(outcome["warnings"]) == 1 and "incomplete" in outcome["warnings"][0]
    assert result.stderr == ""


def test_what_was_written_before_the_disk_filled_up_can_be_read(tmp_path: Path) -> None:
    run(RUN, tmp_path, 8_191)
    lines = (tmp_path / "metrics.csv").read_text().splitlines()
    assert lines[1:4] == ["1,0,0.0,", "2,1,1.0,", "3,2,2.0,"]
    points = EventAccumulator(str(tmp_path), size_guidance={"scalars": 0}).Reload().Scalars("return/mean")
    assert [point.step for point in points] == list(range(len(points)))
    assert len(points) > 50


def test_with_room_on_the_disk_nothing_is_missing(tmp_path: Path) -> None:
    outcome = json.loads(run(RUN, tmp_path, 10**8).stdout)
    assert outcome == {"updates": 1000, "warnings": [], "incomplete": False}
    assert len((tmp_path / "metrics.csv").read_text().splitlines()) == 1001


@pytest.mark.parametrize("lines", [0, 1])
def test_a_reader_who_leaves_does_not_end_the_run(tmp_path: Path, lines: int) -> None:
    end = tmp_path / "end"
    with subprocess.Popen(
        [sys.executable, "-c", SPEAK, str(end)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        for _ in range(lines):
            process.stdout.readline()
        process.stdout.close()
        errors = process.stderr.read().decode()
        assert process.wait(timeout=60) == 0
    assert end.read_text() == "reached the end"
    assert errors == ""


def test_a_full_disk_under_the_output_does_not_end_the_run(tmp_path: Path) -> None:
    end = tmp_path / "end"
    with open("/dev/full", "w") as full:
        result = subprocess.run([sys.executable, "-c", SPEAK, str(end)], stdout=full, stderr=subprocess.PIPE, text=True)
    assert (result.returncode, result.stderr) == (0, "")
    assert end.read_text() == "reached the end"
