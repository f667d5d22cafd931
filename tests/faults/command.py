"""Commands as a user types them, in an empty folder, and what must hold of every refusal."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

TOY = """
import sys, time
from pgkit.app import run_app
from pgkit.errors import EnvironmentFault, UsageError

def dry(config, trusted):
    if config.seed == 99:
        raise UsageError("env.id: tried and refused")

def task(config, folder):
    (folder / "torch").write_text(str("torch" in sys.modules))
    if config.seed == 3:
        raise EnvironmentFault("lane 1: fell over")
    if config.seed == 4:
        raise KeyError("a bug")
    if config.seed == 6:
        raise KeyboardInterrupt
    if config.seed >= 100:
        try:
            (folder / "started").touch()
            time.sleep(100)
        except KeyboardInterrupt:
            time.sleep(1)
            (folder / "closed").touch()
            raise
    (folder / "done").write_text(f"{config.seed} {config.optimizer.lr}")

if __name__ == "__main__":
    run_app("train", dry=dry, task=task)
    assert "torch" not in sys.modules
"""
"""An entry point that does next to nothing, for what belongs to the wrapper and not to training."""


def run(*command: str, cwd: Path, traceback: bool = False) -> subprocess.CompletedProcess[str]:
    """Returns what `python command...` said and how it ended."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PGKIT_TRACEBACK": "1" if traceback else ""}
    environment.pop("HYDRA_FULL_ERROR", None)
    return subprocess.run(
        [sys.executable, *command], cwd=cwd, env=environment, capture_output=True, text=True, timeout=120, check=False
    )


def train(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Returns how `python -m pgkit.train arguments...` ended."""
    return run("-m", "pgkit.train", *arguments, cwd=cwd)


def toy(*arguments: str, cwd: Path, traceback: bool = False) -> subprocess.CompletedProcess[str]:
    """Returns how the toy entry point ended; its file lies outside `cwd`."""
    script = cwd.parent / f"{cwd.name}-toy.py"
    script.write_text(TOY, encoding="utf-8")
    return run(str(script), *arguments, cwd=cwd, traceback=traceback)


def interrupted_toy(*arguments: str, cwd: Path, started: list[Path]) -> tuple[int, str]:
    """Returns exit code and errors of the toy entry point that gets a Ctrl-C, as all of its processes do, once every
    file in `started` is there."""
    script = cwd.parent / f"{cwd.name}-toy.py"
    script.write_text(TOY, encoding="utf-8")
    process = subprocess.Popen(
        [sys.executable, str(script), *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + 100
    while process.poll() is None and time.monotonic() < deadline and not all(file.exists() for file in started):
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=100)
    return process.returncode, errors


def refusal(ended: subprocess.CompletedProcess[str], *, cwd: Path, code: int = 2) -> str:
    """Returns the one line of a refusal, after which nothing lies in `cwd` that did not lie there before."""
    assert ended.returncode == code, ended
    lines = ended.stderr.splitlines()
    assert len(lines) == 1 and lines[0].startswith("pgkit: "), ended.stderr
    assert "Traceback" not in ended.stdout + ended.stderr
    assert not list(cwd.iterdir())
    return lines[0].removeprefix("pgkit: ")
