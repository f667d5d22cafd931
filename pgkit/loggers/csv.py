"""One line an update in `metrics.csv`."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import final


@final
class CSVLogger:
    """Writes `metrics.csv`: `update`, `axis` and one column a tag, blank where a batch could not answer.

    `axis` names what steps count: environment steps, or samples.

    Every line is handed to the operating system as soon as it is complete, so that a kill loses at most one.
    """

    def __init__(self, *, folder: Path, tags: Sequence[str], axis: str) -> None:
        self._tags = tuple(tags)
        self._known = frozenset(tags)
        self._update = 0
        self._file = (folder / "metrics.csv").open("w", encoding="utf-8", newline="", buffering=1)
        self._rows = csv.writer(self._file, lineterminator="\n")
        self._rows.writerow(("update", axis, *self._tags))

    def write(self, metrics: Mapping[str, float | None], *, step: int) -> None:
        """Appends one line; the first update is 1.

        Raises: ValueError for a tag that the header, fixed at the start, does not have.
        """
        if not metrics.keys() <= self._known:
            unknown = sorted(metrics.keys() - self._known)
            raise ValueError(f"metrics.csv: {', '.join(unknown)}, expected only the tags in its header")
        self._update += 1
        self._rows.writerow((self._update, step, *map(metrics.get, self._tags)))

    def close(self) -> None:
        """Closes the file; it is complete."""
        self._file.close()
