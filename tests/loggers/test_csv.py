"""What `metrics.csv` promises."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from pgkit.loggers.csv import CSVLogger
from pgkit.protocols import Logger

TAGS = ("return/mean", "gradient/snr")


def rows(folder: Path) -> list[list[str]]:
    with (folder / "metrics.csv").open(newline="") as file:
        return list(csv.reader(file))


def test_it_is_a_logger(tmp_path: Path) -> None:
    assert isinstance(CSVLogger(folder=tmp_path, tags=TAGS, axis="env_steps"), Logger)


def test_header_is_fixed_at_the_start(tmp_path: Path) -> None:
    CSVLogger(folder=tmp_path, tags=TAGS, axis="env_steps").close()
    assert rows(tmp_path) == [["update", "env_steps", "return/mean", "gradient/snr"]]


def test_unknown_values_are_blank_and_never_zero(tmp_path: Path) -> None:
    logger = CSVLogger(folder=tmp_path, tags=TAGS, axis="env_steps")
    logger.write({"return/mean": 1.5, "gradient/snr": None}, step=8)
    logger.write({"gradient/snr": 0.0}, step=20)
    assert rows(tmp_path)[1:] == [["1", "8", "1.5", ""], ["2", "20", "", "0.0"]]


def test_values_are_read_back_bit_for_bit(tmp_path: Path) -> None:
    logger = CSVLogger(folder=tmp_path, tags=TAGS, axis="env_steps")
    logger.write({"return/mean": 0.1 + 0.2}, step=1)
    assert float(rows(tmp_path)[1][2]) == 0.1 + 0.2


def test_a_tag_outside_the_header_is_an_error_that_names_it(tmp_path: Path) -> None:
    logger = CSVLogger(folder=tmp_path, tags=TAGS, axis="env_steps")
    with pytest.raises(ValueError, match="gradient/typo"):
        logger.write({"gradient/typo": 1.0}, step=1)
    assert len(rows(tmp_path)) == 1


def test_every_line_is_on_disk_before_the_next_update(tmp_path: Path) -> None:
    logger = CSVLogger(folder=tmp_path, tags=TAGS, axis="env_steps")
    for update in range(1, 4):
        logger.write({"return/mean": 1.0}, step=update)
        assert len(rows(tmp_path)) == 1 + update  # read while the file is still open
    logger.close()
