"""Runs are read whatever state their files are in."""

from __future__ import annotations

import random
import re
from pathlib import Path

import pytest

from pgkit.errors import UsageError
from pgkit.reporting.page import page
from pgkit.reporting.runs import Run, read_runs
from tests.fabricated import fabricate

HEADER = "update,env_steps,return/mean,gradient/snr,gradient/snr_low\n"


def read(folder: Path, text: str | bytes) -> Run:
    folder.mkdir(exist_ok=True)
    (folder / "metrics.csv").write_bytes(text.encode() if isinstance(text, str) else text)
    (run,) = read_runs([folder])
    assert page([run]).startswith("<!DOCTYPE html>")
    return run


def test_a_value_is_known_where_it_was_measured(tmp_path: Path) -> None:
    run = read(tmp_path, HEADER + "1,10,1.5,,\n2,20,,0.25,\n3,30,2.5,,\n")
    assert run.series["return/mean"].steps == (10, 30) and run.series["return/mean"].text == "2.5"
    assert run.latest == {"return/mean": 2.5, "gradient/snr": 0.25}
    assert (run.axis, run.updates, run.last_step) == ("env_steps", 3, 30)


@pytest.mark.parametrize(
    "tail",
    ["3,30,2.", "3,30,250", "3,30", "3,", "\x00\x00\x00", "3,30,9,9\n", "3,x,9,9,9\n", '3,"30', "3,30,nan,inf,\n"],
)
def test_a_torn_or_broken_line_is_as_if_it_were_not_there(tmp_path: Path, tail: str) -> None:
    whole = read(tmp_path, HEADER + "1,10,1.5,,\n2,20,2.0,0.25,\n")
    torn = read(tmp_path, HEADER + "1,10,1.5,,\n2,20,2.0,0.25,\n" + tail)
    assert torn.series == whole.series


@pytest.mark.parametrize("text", ["", "upd", HEADER, HEADER.strip()])
def test_a_run_without_a_finished_update_has_a_page(tmp_path: Path, text: str) -> None:
    run = read(tmp_path, text)
    assert run.updates == 0 and not run.series
    assert "Not measured" in page([run])


@pytest.mark.parametrize("text", ["a,b,c\n1,2,3\n", "x\n", b"\xff\xfe\n"])
def test_a_file_of_something_else_is_named(tmp_path: Path, text: str | bytes) -> None:
    with pytest.raises(UsageError, match=r"metrics\.csv: begins with .*, expected the metrics of a run"):
        read(tmp_path, text)


def test_bytes_that_are_no_text_cost_their_own_line_alone(tmp_path: Path) -> None:
    run = read(tmp_path, HEADER.encode() + b"1,10,1.5,,\n2,20,\xff\xfe,,\n3,30,3.5,,\n")
    assert run.series["return/mean"].values == (1.5, 3.5)


def test_an_end_of_an_interval_that_is_older_than_its_point_is_not_shown_with_it(tmp_path: Path) -> None:
    fresh = read(tmp_path, HEADER + "1,10,,0.5,0.1\n2,20,,0.6,0.2\n")
    stale = read(tmp_path, HEADER + "1,10,,0.5,0.1\n2,20,,0.6,\n")
    assert fresh.latest["gradient/snr_low"] == 0.2
    assert "gradient/snr_low" not in stale.latest


@pytest.mark.parametrize("text", ["", "{", "[]", "\xff"])
def test_a_broken_summary_or_a_broken_list_of_settings_costs_only_itself(tmp_path: Path, text: str) -> None:
    fabricate(tmp_path / "run", updates=2, tensorboard=False)
    for name in ("summary.json", ".hydra/overrides.yaml"):
        (tmp_path / "run" / name).write_bytes(text.encode("latin-1"))
    (run,) = read_runs([tmp_path])
    assert run.settings == () and run.updates == 2 and "no summary" in run.status


def test_runs_are_named_by_what_tells_them_apart_and_counted_once(tmp_path: Path) -> None:
    for name in ("x/seed0", "y/seed0"):
        fabricate(tmp_path / name, updates=1, tensorboard=False)
    paths = [tmp_path, tmp_path / "x", tmp_path / "y" / "seed0" / "metrics.csv"]
    assert [run.name for run in read_runs(paths)] == ["x/seed0", "y/seed0"]
    assert [run.name for run in read_runs(paths[1:2])] == ["seed0"]


EXTREMES = (
    "",
    "0",
    "-0.0",
    "1",
    "-3",
    "1e308",
    "-1e308",
    "9e29",
    "-9e29",
    "2e-30",
    "5e-324",
    "-5e-324",
    "1e-12",
    "123456.789",
)


@pytest.mark.parametrize("seed", range(40))
def test_whatever_the_numbers_are_the_page_has_places_for_them(tmp_path: Path, seed: int) -> None:
    draw = random.Random(seed)
    tags = list(fabricate(tmp_path / "whole", updates=1, tensorboard=False)[0])
    few = draw.sample(EXTREMES, 3)  # a seed may know only small numbers, or only large ones
    lines = [",".join(["1", draw.choice(("0", "20")), *(draw.choice(few) for _ in tags)]) for _ in range(4)]
    text = "\n".join([",".join(["update", "env_steps", *tags]), *lines, ""])
    made = page([read(tmp_path / "run", text), read(tmp_path / "other", text)])
    places = re.findall(r'(?: d| points| x1?| y1?| width| height)="([^"]*)"', made)
    assert not [place for place in places if re.search("nan|inf|e[+-]", place)]
