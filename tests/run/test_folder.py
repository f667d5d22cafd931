"""One run, one folder: the lock, and files that are whole at every moment."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from pgkit.errors import UsageError
from pgkit.run import folder as module
from pgkit.run.folder import LOCK, RunFolder, write_json

HOLD = """
import sys, time
from pathlib import Path
from pgkit.run.folder import RunFolder
folder = RunFolder(Path(sys.argv[1]))
print("held", flush=True)
time.sleep(600)
"""


def hold(path: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    return process


def test_a_second_run_is_refused_naming_process_and_host(tmp_path: Path) -> None:
    process = hold(tmp_path / "run")
    try:
        with pytest.raises(UsageError) as error:
            RunFolder(tmp_path / "run")
    finally:
        process.kill()
        process.wait()
    message = str(error.value)
    assert f"process {process.pid}" in message and socket.gethostname() in message
    assert message.startswith("hydra.run.dir: ") and "\n" not in message


def test_a_second_run_in_the_same_process_is_refused(tmp_path: Path) -> None:
    with RunFolder(tmp_path), pytest.raises(UsageError, match=f"process {os.getpid()}"):
        RunFolder(tmp_path)


def test_the_lock_of_a_killed_run_is_recovered(tmp_path: Path) -> None:
    process = hold(tmp_path)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert (tmp_path / LOCK).exists()
    with RunFolder(tmp_path) as folder:
        assert json.loads((folder.path / LOCK).read_text())["pid"] == os.getpid()


def test_a_lock_of_another_host_is_never_taken(tmp_path: Path) -> None:
    (tmp_path / LOCK).write_text(json.dumps({"pid": 1, "host": "elsewhere"}))
    with pytest.raises(UsageError, match="process 1 on host elsewhere"):
        RunFolder(tmp_path)
    assert json.loads((tmp_path / LOCK).read_text())["host"] == "elsewhere"


@pytest.mark.parametrize("content", [b"", b"\x00\xff", b"[]", b'{"pid"'])
def test_a_torn_lock_file_does_not_lock_for_ever(tmp_path: Path, content: bytes) -> None:
    (tmp_path / LOCK).write_bytes(content)
    RunFolder(tmp_path).close()


def test_leaving_lets_the_next_one_in_and_leaves_no_lock_behind(tmp_path: Path) -> None:
    with RunFolder(tmp_path):
        pass
    assert not (tmp_path / LOCK).exists()
    RunFolder(tmp_path).close()


def test_of_many_that_want_a_stale_folder_at_once_one_gets_it(tmp_path: Path) -> None:
    for _ in range(20):
        (tmp_path / LOCK).write_text(json.dumps({"pid": 2**22 + 1, "host": socket.gethostname()}))
        held: list[RunFolder] = []
        barrier = threading.Barrier(8)

        def contend(held: list[RunFolder] = held, barrier: threading.Barrier = barrier) -> None:
            barrier.wait()
            with contextlib.suppress(UsageError):
                held.append(RunFolder(tmp_path))

        threads = [threading.Thread(target=contend) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(held) == 1
        held[0].close()


def test_a_finished_run_is_not_written_over(tmp_path: Path) -> None:
    with RunFolder(tmp_path) as folder:
        write_json(folder.summary, {"status": "finished"})
    with pytest.raises(UsageError, match=r"finished run.*summary\.json"):
        RunFolder(tmp_path)
    assert not (tmp_path / LOCK).exists()


def test_a_folder_that_cannot_be_made_is_a_named_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=r"^hydra\.run\.dir: .*file"):
        RunFolder(tmp_path / "file" / "run")


def test_a_read_only_folder_is_a_named_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> int:  # what a mode of 0555 does to anyone but root
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(module, "_lock", refuse)
    with pytest.raises(UsageError, match=r"Permission denied\), expected a folder that can be written"):
        RunFolder(tmp_path)


def test_a_name_with_spaces_and_letters_of_any_script_works(tmp_path: Path) -> None:
    with RunFolder(tmp_path / "ein Lauf, λ=0.9 走") as folder:
        write_json(folder.summary, {"agent": "λ"})
        assert json.loads(folder.summary.read_text(encoding="utf-8")) == {"agent": "λ"}


def test_a_lock_file_that_loses_its_name_while_it_is_being_locked_counts_for_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flock, path, calls = fcntl.flock, tmp_path / LOCK, []

    def owner_leaves_and_another_comes(descriptor: int, operation: int) -> None:
        calls.append(operation)
        if len(calls) == 1:
            path.unlink()
            path.touch()
        flock(descriptor, operation)

    with monkeypatch.context() as patch:
        patch.setattr(module.fcntl, "flock", owner_leaves_and_another_comes)
        folder = RunFolder(tmp_path)
    with folder, pytest.raises(UsageError):
        RunFolder(tmp_path)


def test_a_file_that_cannot_take_its_place_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Path, target: Path) -> Path:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(OSError):
        write_json(tmp_path / "summary.json", {"new": 1})
    assert not list(tmp_path.iterdir())


def test_json_that_cannot_be_written_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "summary.json"
    write_json(path, {"old": 1})
    with pytest.raises(ValueError):
        write_json(path, {"new": float("nan")})
    assert json.loads(path.read_text()) == {"old": 1}
    assert [each.name for each in tmp_path.iterdir()] == ["summary.json"]
