"""Runs as their folders hold them, whether finished, going on or cut short in the middle of a line."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

import yaml  # type: ignore[import-untyped]  # ships no types

from pgkit.errors import UsageError

if TYPE_CHECKING:
    from pgkit.types import Metrics

MOST = 24
"""Runs that one page can still compare."""
LARGEST = 1e30
"""Beyond it a number has run away and is none; below its inverse it is 0. Squares and ratios stay finite in between."""
RECENT = 20
"""Measurements that a typical value is the median of."""


@final
@dataclass(frozen=True, kw_only=True)
class Series:
    """One tag of a run, where it was measured; `text` is the last value as the file spells it."""

    steps: tuple[float, ...]
    values: tuple[float, ...]
    text: str

    @property
    def typical(self) -> float:
        """The median of the most recent measurements."""
        return statistics.median(self.values[-RECENT:])


@final
@dataclass(frozen=True, kw_only=True)
class Run:
    """The metrics of one run, by tag; a tag that was never measured is left out.

    `axis` names what steps count, `summary` is empty where there is none, `settings` are those of the command line.
    """

    name: str
    axis: str
    updates: int
    last_step: float
    series: Mapping[str, Series]
    summary: Mapping[str, Any]
    settings: tuple[str, ...]

    @property
    def status(self) -> str:
        """How it ended, as its summary says."""
        return str(self.summary.get("status", "going on, or killed: there is no summary"))

    @property
    def latest(self) -> Metrics:
        """The last measured value of every tag; the ends of an interval, where they are as recent as their point."""
        ends = {tag: self.series.get(tag.removesuffix("_low").removesuffix("_high")) for tag in self.series}
        return {
            tag: series.values[-1]
            for tag, series in self.series.items()
            if (point := ends[tag]) is None or point.steps[-1] <= series.steps[-1]
        }

    @property
    def typical(self) -> Metrics:
        """The median of the last measurements of every tag."""
        return {tag: series.typical for tag, series in self.series.items()}


def read_runs(paths: Sequence[Path]) -> list[Run]:
    """Returns every run at or below some paths, named by what tells them apart.

    Raises: UsageError for a path without a run, a file that is no run's, or more runs than a page can compare.
    """
    folders = list(dict.fromkeys(folder for path in paths for folder in _folders(path)))
    if len(folders) > MOST:
        raise UsageError(f"{paths[0]}: {len(folders)} runs, expected at most {MOST} on one page")
    return [_read(folder, name) for folder, name in zip(folders, _names(folders), strict=True)]


def _folders(path: Path) -> list[Path]:
    try:
        if path.name == "metrics.csv" and path.is_file():
            return [path.resolve().parent]
        found = sorted(file.resolve().parent for file in path.rglob("metrics.csv"))
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}, expected the folder of a run") from None
    if not found:
        was = "holds no metrics.csv" if path.exists() else "does not exist"
        raise UsageError(f"{path}: {was}, expected the folder of a run, or one that holds runs")
    return found


def _names(folders: Sequence[Path]) -> list[str]:
    """Returns the folders without what they have in common."""
    shared = Path(os.path.commonpath([folder.parent for folder in folders]))
    return [str(folder.relative_to(shared)) for folder in folders]


def _read(folder: Path, name: str) -> Run:
    file = folder / "metrics.csv"
    try:
        text = file.read_bytes().decode("utf-8", errors="replace")
        # What follows the last line break was still being written: a number there may lack its last digits.
        header, *rows = list(csv.reader(io.StringIO(text[: text.rfind("\n") + 1]))) or [[]]
    except (OSError, csv.Error) as error:
        raise UsageError(f"{file}: {error}, expected the metrics of a run") from None
    if header and (len(header) < 2 or header[0] != "update"):
        raise UsageError(f"{file}: begins with {header[0][:40]!r}, expected the metrics of a run")
    # A line of another length was torn by a full disk or a killed machine.
    lines = [(step, row) for row in rows if len(row) == len(header) and (step := _number(row[1])) is not None]
    summary = _loaded(folder / "summary.json", json.loads)
    settings = _loaded(folder / ".hydra" / "overrides.yaml", yaml.safe_load)
    return Run(
        name=name,
        axis=header[1] if header else "env_steps",
        updates=len(lines),
        last_step=lines[-1][0] if lines else 0.0,
        series=dict(_measured(header, lines)),
        summary=summary if isinstance(summary, dict) else {},
        settings=tuple(map(str, settings)) if isinstance(settings, list) else (),
    )


def _measured(header: Sequence[str], lines: Sequence[tuple[float, list[str]]]) -> list[tuple[str, Series]]:
    """Returns (tag, series) of every tag that has a value."""
    found = []
    for column, tag in enumerate(header[2:], start=2):
        points = [(step, value, row[column]) for step, row in lines if (value := _number(row[column])) is not None]
        if points:
            steps, values, texts = zip(*points, strict=True)
            found.append((tag, Series(steps=steps, values=values, text=texts[-1])))
    return found


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    if not math.isfinite(value) or abs(value) > LARGEST:
        return None
    return value if abs(value) * LARGEST > 1 else 0.0


def _loaded(file: Path, load: Any) -> Any:
    """Returns what a file holds, None where it is missing or broken: the page does without."""
    try:
        return load(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return None
