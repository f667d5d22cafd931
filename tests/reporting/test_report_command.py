"""What `python -m pgkit.report` writes, and what it refuses to overwrite."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pgkit.errors import UsageError
from pgkit.report import report
from tests.fabricated import fabricate
from tests.faults.command import run


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    fabricate(tmp_path / "runs" / "a", updates=6, tensorboard=False)
    return tmp_path


def test_it_writes_one_file_and_says_so(folder: Path) -> None:
    ended = run("-m", "pgkit.report", "runs/a", "-o", "page.html", cwd=folder)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout == "page.html: 1 run, open it in a browser\n"
    assert sorted(path.name for path in folder.iterdir()) == ["page.html", "runs"]


def test_a_report_replaces_a_report(folder: Path) -> None:
    for _ in range(2):
        assert report([folder / "runs"], folder / "page.html") == 1


def test_what_a_user_made_is_overwritten_by_force_alone(folder: Path) -> None:
    page = folder / "page.html"
    page.write_text("my own page about pgkit.report")
    with pytest.raises(UsageError, match="is no report, expected another name or --force"):
        report([folder / "runs"], page)
    assert page.read_text() == "my own page about pgkit.report"
    report([folder / "runs"], page, force=True)
    assert page.read_text().startswith("<!DOCTYPE html>")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["nowhere"], "nowhere: does not exist, expected the folder of a run, or one that holds runs"),
        (["empty"], "empty: holds no metrics.csv, expected the folder of a run, or one that holds runs"),
        (["runs", "-o", "empty"], "empty: is a folder, expected a file such as empty/report.html"),
        (
            ["runs", "-o", "no/a.html"],
            "no/a.html: No such file or directory, expected a file that can be written",
        ),
        (["runs/a/metrics.csv", "x"], "x: does not exist, expected the folder of a run, or one that holds runs"),
    ],
)
def test_a_path_that_cannot_be_used_is_one_line(folder: Path, arguments: list[str], expected: str) -> None:
    (folder / "empty").mkdir()
    ended = run("-m", "pgkit.report", *arguments, cwd=folder)
    assert (ended.returncode, ended.stdout, ended.stderr) == (2, "", f"pgkit: {expected}\n")
    assert not list(folder.glob(".*")) and not (folder / "report.html").exists()


@pytest.mark.parametrize("step", ["write_text", "replace"])
def test_an_old_report_survives_a_disk_that_fails(folder: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    report([folder / "runs"], folder / "page.html")
    before = (folder / "page.html").read_text()

    def full(*_: object, **__: object) -> int:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(Path, step, full)
    with pytest.raises(UsageError, match="No space left on device"):
        report([folder / "runs"], folder / "page.html")
    assert (folder / "page.html").read_text() == before and sorted(os.listdir(folder)) == ["page.html", "runs"]


def test_more_runs_than_a_page_can_compare_are_refused(tmp_path: Path) -> None:
    for seed in range(25):
        fabricate(tmp_path / f"seed{seed}", updates=1, tensorboard=False)
    with pytest.raises(UsageError, match="25 runs, expected at most 24"):
        report([tmp_path], tmp_path / "page.html")
