"""Builds the wheel and the source archive, installs the wheel into a clean environment and uses it as a stranger would.

Run with the interpreter of a development environment: `.venv/bin/python .ci/wheel_test.py`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
import tempfile
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RUN_FILES = (".hydra/config.yaml", "metrics.csv", "summary.json", "checkpoints/last")
MINE = """# A baseline of one's own: a class that exists, with another default.
_target_: pgkit.baselines.constant.MovingAverage
decay: 0.5
"""


def say(text: str) -> None:
    """Prints a line at once, so that it stands above what the commands print."""
    print(f"wheel test: {text}", flush=True)


def call(*command: str | Path, folder: Path) -> str:
    """Returns what a command prints, run in `folder` with nothing of this checkout on its path."""
    surroundings = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "VIRTUAL_ENV"))}
    say(" ".join(Path(word).name if isinstance(word, Path) else word for word in command))
    result = subprocess.run([*map(str, command)], cwd=folder, env=surroundings, capture_output=True, text=True)
    if result.returncode:
        sys.exit(f"{result.stdout}{result.stderr}\nwheel test: exit code {result.returncode}, expected 0")
    return result.stdout


def build(folder: Path) -> Path:
    """Returns the wheel, built from the source archive, after holding the contents of both to the checkout."""
    call(sys.executable, "-m", "build", "--outdir", folder, ROOT, folder=folder)
    (wheel,) = folder.glob("*.whl")
    (archive,) = folder.glob("*.tar.gz")
    configuration = {path.relative_to(ROOT).as_posix() for path in (ROOT / "conf").rglob("*.yaml")}
    modules = {path.relative_to(ROOT).as_posix() for path in (ROOT / "pgkit").rglob("*.py")} | {"pgkit/py.typed"}
    in_wheel = set(zipfile.ZipFile(wheel).namelist())
    with tarfile.open(archive) as opened:
        in_archive = {name.partition("/")[2] for name in opened.getnames()}
    for held, expected in (
        (in_archive, modules | configuration),
        (in_wheel, modules | {f"pgkit/{path}" for path in configuration}),
    ):
        assert configuration and expected <= held, f"the build lacks {sorted(expected - held)}"
    stray = {path for path in in_wheel if not path.startswith("pgkit")}
    assert not stray, f"the wheel holds {sorted(stray)}, expected pgkit/ alone"
    say(f"{len(configuration)} yaml files and {len(modules)} modules are in the wheel and in the source archive")
    return wheel


def install(wheel: Path, folder: Path) -> Path:
    """Returns the folder of programs of a new environment that holds the wheel, with the pinned dependencies."""
    venv.create(folder, with_pip=True)
    programs = folder / ("Scripts" if os.name == "nt" else "bin")
    options = ("--quiet", "--disable-pip-version-check", "-c", ROOT / "constraints.txt")
    call(programs / "python", "-m", "pip", "install", *options, wheel, folder=folder)
    return programs


def run_folder(folder: Path) -> Path:
    """Returns the one run in `folder`, after holding it to what a run promises to leave."""
    assert {path.name for path in folder.iterdir()} <= {"runs", "mine"}, sorted(folder.iterdir())
    (run,) = folder.glob("runs/*/*/*")
    for name in RUN_FILES:
        assert (run / name).exists(), f"{run} lacks {name}"
    assert list(run.glob("events.out.tfevents.*")), f"{run} lacks an event file"
    summary = json.loads((run / "summary.json").read_text())
    assert summary["status"] == "finished" and summary["env_steps"] >= 4000, summary
    return run


def use(programs: Path, folder: Path) -> None:
    """Trains from an empty folder, plays the policy back, and trains with a configuration folder of one's own."""
    python = programs / "python"
    empty, own = folder / "empty", folder / "own"
    empty.mkdir()
    call(python, "-m", "pgkit.train", "env=CartPole", "total_steps=4000", folder=empty)
    run = run_folder(empty)
    call(programs / "pgkit-evaluate", f"run={run}", "episodes=4", folder=empty)
    call(programs / "pgkit-report", run, folder=empty)
    assert (empty / "report.html").read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    assert "leave_one_out" in call(programs / "pgkit-train", "--help", folder=empty)

    (own / "mine" / "baseline").mkdir(parents=True)
    (own / "mine" / "baseline" / "mine.yaml").write_text(MINE)
    overrides = ("env=CartPole", "baseline=mine", "total_steps=4000")
    call(programs / "pgkit-train", "--config-dir", "mine", *overrides, folder=own)
    assert "decay: 0.5" in (run_folder(own) / ".hydra" / "config.yaml").read_text()


def main() -> None:
    """Runs every step in a temporary folder and takes it away again."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        wheel = build(folder)
        use(install(wheel, folder / "environment"), folder)
    say("passed")


if __name__ == "__main__":
    main()
