"""`python -m pgkit.report runs/… -o report.html`: one file that shows how good the gradients of runs were."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

import pgkit
from pgkit.errors import UsageError
from pgkit.reporting.page import MARK, page
from pgkit.reporting.runs import read_runs

HEAD = 1000
"""Characters within which a report names what made it."""


def report(paths: list[Path], output: Path, *, force: bool = False) -> int:
    """Writes the report of the runs at or below `paths` to `output`, and returns how many runs it shows.

    A file that is no report is never overwritten unless `force` says so; a report is replaced at once or not at all.

    Raises: UsageError for a path without a run, or an output that cannot be written.
    """
    runs = read_runs(paths)
    _check(output, force=force)
    beside = output.with_name(f".{output.name}.{os.getpid()}")
    try:
        beside.write_text(page(runs), encoding="utf-8", errors="replace")
        beside.replace(output)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise UsageError(f"{output}: {error.strerror}, expected a file that can be written") from None
    return len(runs)


def _check(output: Path, *, force: bool) -> None:
    if output.is_dir():
        raise UsageError(f"{output}: is a folder, expected a file such as {output / 'report.html'}")
    if force or not output.exists():
        return
    try:
        with output.open(encoding="utf-8", errors="replace") as file:
            ours = f'content="{MARK}"' in file.read(HEAD)
    except OSError as error:
        raise UsageError(f"{output}: {error.strerror}, expected a file that can be written") from None
    if not ours:
        raise UsageError(f"{output}: exists and is no report, expected another name or --force")


def main() -> None:
    """The console script `pgkit-report`."""
    parser = argparse.ArgumentParser(
        prog="pgkit-report",
        description="Writes one HTML file on one or several runs; it needs no server and no network.",
    )
    parser.add_argument("runs", type=Path, nargs="+", help="folders of runs, or folders that hold runs")
    parser.add_argument(
        "-o", "--output", type=Path, default=Path("report.html"), help="the file, report.html by default"
    )
    parser.add_argument("--force", action="store_true", help="overwrite the file even if it is no report")
    parser.add_argument("--version", action="version", version=f"pgkit {pgkit.__version__}")
    options = parser.parse_args()
    try:
        count = report(options.runs, options.output, force=options.force)
    except UsageError as error:
        print(f"pgkit: {error}", file=sys.stderr)
        sys.exit(2)
    print(f"{options.output}: {count} {'run' if count == 1 else 'runs'}, open it in a browser")


if __name__ == "__main__":
    main()
