"""What a person sees of a verification: a bar while it goes on, then a table, then what was refused."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import IO, cast

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from pgkit.run.output import Output
from pgkit.verifying.rows import Row

_WIDTH = 180
_STYLES = {"BIASED": "bold red", "FAILED": "bold red", "biased as stated": "yellow", "unbiased": "green"}


def console() -> Console:
    """Returns a console on standard output; where that is no terminal, it is wide enough for a table."""
    out = Output(sys.stdout)
    return Console(file=cast(IO[str], out), width=None if out.isatty() else _WIDTH, soft_wrap=False)


def watched(rows: Iterable[Row], *, total: int, on: Console) -> Iterator[Row]:
    """Yields the rows while showing how many there are: a bar on a terminal, a line every five seconds elsewhere."""
    start = shown = time.perf_counter()
    columns = (TextColumn("measuring"), BarColumn(bar_width=None), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TextColumn("{task.description}"), console=on, disable=not on.is_terminal) as bar:
        task = bar.add_task("", total=total)
        for done, row in enumerate(rows, start=1):
            bar.update(task, advance=1, description=f"{row.problem} × {row.name}")
            if not on.is_terminal and (time.perf_counter() - shown > 5 or done == total):
                shown = time.perf_counter()
                on.print(f"{done:>4} of {total} pairs  {shown - start:.0f} s", highlight=False)
            yield row


def table(rows: Sequence[Row]) -> Table:
    """Returns the rows that were measured as a table."""
    shown = Table(caption=_CAPTION, caption_justify="left")
    for name in ("problem", "estimator"):
        shown.add_column(name, no_wrap=True)
    shown.add_column("verdict", no_wrap=True)
    for name in ("bias ± s.e.", "variance ± s.e.", "exact", "slope", "µs", "work", "worth"):
        shown.add_column(name, justify="right", no_wrap=True)
    before = ""
    for row in rows:
        if row.verdict == "refused":
            continue
        if before and before != row.problem:
            shown.add_section()
        cells = [row.problem if row.problem != before else "", row.name, row.verdict, *_numbers(row)]
        shown.add_row(*cells, style=_STYLES.get(row.verdict) if row.verdict.isupper() else None)
        before = row.problem
    return shown


def refusals(rows: Sequence[Row]) -> list[str]:
    """Returns one line for each estimator that some problems are not for, with the first of the reasons."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        if row.reason:
            found.setdefault(row.estimator, []).append(row)
    problems = {name: ", ".join(dict.fromkeys(row.problem for row in own)) for name, own in sorted(found.items())}
    return [f"{name} on {on}: {found[name][0].reason}" for name, on in problems.items()]


def number(value: float | None) -> str:
    """Returns a number with three digits, a dash for None."""
    return "–" if value is None else f"{value:.3g}"


def _numbers(row: Row) -> list[str]:
    def pair(value: float | None, error: float | None) -> str:
        return "–" if value is None else f"{number(value)} ± {error:.1g}"

    micro = None if row.seconds_per_sample is None else 1e6 * row.seconds_per_sample
    work = None if row.work_normalised_variance is None else 1e6 * row.work_normalised_variance
    return [
        pair(row.bias, row.bias_standard_error),
        pair(row.variance, row.variance_standard_error),
        number(row.exact_variance),
        "–" if row.slope is None else f"{row.slope:.2f}",
        *(number(value) for value in (micro, work, row.score_samples)),
    ]


_CAPTION = (
    "bias: of the coordinate furthest from the truth; variance: of one sample's gradient, a trace; slope: of log "
    "error against log N, −½ where there is no bias; µs: of one sample in a batch; work: variance × µs; worth: samples "
    "of score without baseline for the same variance"
)
