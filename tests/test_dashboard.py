"""The dashboard serves the laid-out page to this machine and to no other."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from pgkit.run.closing import closing_block
from tests.fabricated import fabricate
from tests.faults.command import ROOT, run
from tests.run.test_closing import SUMMARY

LOOPBACK = "0100007F"
"""127.0.0.1 as the kernel writes it."""
MODULE = (sys.executable, "-m", "pgkit.dashboard")


@contextmanager
def dashboard(*command: str, cwd: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Yields a running dashboard and the address it printed, and ends it as a person would."""
    process = subprocess.Popen(
        [*command, "--no-browser"],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        yield process, process.stdout.readline().strip()
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)


def listening(pid: int) -> list[str]:
    """Returns the addresses that a process waits on, as `address:port` in the kernel's own words."""
    links = [os.readlink(link) for link in Path(f"/proc/{pid}/fd").iterdir()]
    own = {link.removeprefix("socket:[").removesuffix("]") for link in links if link.startswith("socket:[")}
    tables = [Path(f"/proc/{pid}/net/{name}").read_text().splitlines()[1:] for name in ("tcp", "tcp6")]
    rows = [line.split() for lines in tables for line in lines]
    return [row[1] for row in rows if row[3] == "0A" and row[9] in own]


def test_it_serves_the_laid_out_page_to_this_machine_alone_and_ends_on_control_c(tmp_path: Path) -> None:
    fabricate(tmp_path / "runs" / "a", updates=6)
    with dashboard(*MODULE, "runs/a", cwd=tmp_path) as (process, address):
        found = re.fullmatch(r"(http://127\.0\.0\.1:(\d+)/)#custom_scalars", address)
        assert found, address
        with urllib.request.urlopen(f"{found[1]}data/plugin/custom_scalars/layout", timeout=30) as answer:
            pages = [page["title"] for page in json.load(answer)["category"]]
        assert pages[:2] == ["Gradient", "Estimators"]
        with urllib.request.urlopen(f"{found[1]}data/runs", timeout=30) as answer:
            assert {".", "panel/zero", "dial/lambda_0.95"} <= set(json.load(answer))
        assert listening(process.pid) == [f"{LOOPBACK}:{int(found[2]):04X}"]
    assert process.returncode == 0


def test_the_command_that_a_run_prints_serves_this_machine_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fabricate(tmp_path / "runs" / "a b", updates=1)
    monkeypatch.chdir(tmp_path)
    line = next(line for line in closing_block(SUMMARY, Path("runs/a b")).splitlines() if "pgkit.dashboard" in line)
    with dashboard(*shlex.split(line.removeprefix("  dashboard")), cwd=tmp_path) as (process, address):
        port = int(address.removeprefix("http://127.0.0.1:").removesuffix("/#custom_scalars"))
        assert listening(process.pid) == [f"{LOOPBACK}:{port:04X}"]


def test_with_the_usual_port_taken_it_is_the_next_free_one(tmp_path: Path) -> None:
    fabricate(tmp_path / "run", updates=1)
    with socket.socket() as taken:
        with suppress(OSError):  # then somebody else holds it, which is as good
            taken.bind(("127.0.0.1", 6006))
            taken.listen()
        with dashboard(*MODULE, "run", cwd=tmp_path) as (process, address):
            found = re.fullmatch(r"http://127\.0\.0\.1:(\d+)/#custom_scalars", address)
            assert found and 6006 < int(found[1]) < 6106
            assert listening(process.pid) == [f"{LOOPBACK}:{int(found[1]):04X}"]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["nowhere"], "nowhere: is no folder, expected that of a run, or one that holds runs"),
        (["plain.txt"], "plain.txt: is no folder, expected that of a run, or one that holds runs"),
        (["empty"], "empty: holds no event file, expected runs with logger=tensorboard"),
        (
            ["csv"],
            "csv: holds no event file, expected runs with logger=tensorboard, or pgkit.report, which reads metrics.csv",
        ),
    ],
)
def test_a_path_without_a_run_is_one_line(tmp_path: Path, arguments: list[str], expected: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "plain.txt").touch()
    fabricate(tmp_path / "csv", updates=1, tensorboard=False)
    ended = run("-m", "pgkit.dashboard", *arguments, "--no-browser", cwd=tmp_path)
    assert (ended.returncode, ended.stdout, ended.stderr) == (2, "", f"pgkit: {expected}\n")


def test_a_port_that_is_taken_is_one_line(tmp_path: Path) -> None:
    fabricate(tmp_path / "run", updates=1)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        ended = run("-m", "pgkit.dashboard", "run", "--port", port, "--no-browser", cwd=tmp_path)
    assert ended.returncode == 2 and ended.stdout == ""
    assert re.fullmatch(rf"pgkit: --port: {port} \(.*\), expected a free port\n", ended.stderr)
