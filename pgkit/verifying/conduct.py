"""Conducts one verification: the pairs, the measurements, the verdicts, the files."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from rich.console import Console
from threadpoolctl import threadpool_limits

from pgkit.config import build
from pgkit.errors import RunFault, UsageError
from pgkit.problems.base import Problem
from pgkit.run.closing import shorten
from pgkit.run.folder import RunFolder, write_bytes, write_json
from pgkit.run.summary import versions
from pgkit.verifying.advice import advice, conclusion, facts_line
from pgkit.verifying.cards import write_cards
from pgkit.verifying.pairs import Pair, options, pairs
from pgkit.verifying.report import console, refusals, table, watched
from pgkit.verifying.rows import Row, as_csv, as_json, judged
from pgkit.verifying.work import results

_COMMAND = "python -m pgkit.verify cards=docs/estimators"


def chosen(config: DictConfig) -> list[Pair]:
    """Returns the pairs to be measured.

    Raises: UsageError where there are none, or where advice is wanted on anything but one problem.
    """
    found = pairs(config)
    if not found:
        raise UsageError("estimators: none of them on any of the problems, expected at least one pair")
    if config.advise and len({pair.problem.name for pair in found}) > 1:
        raise UsageError("advise: true without a problem, expected problem=NAME or problems=[NAME] beside it")
    return found


def conduct(config: DictConfig, path: Path) -> None:
    """Measures every pair, prints and saves the table, then says whether all are what they say.

    Raises: RunFault where one is not; KeyboardInterrupt, with what there is written.
    """
    found, out, start = chosen(config), console(), time.perf_counter()
    rows: list[Row] = []
    status = "interrupted"
    # A trial for advice is short: it ranks estimators, and is not there to find small biases.
    repeats = max(2, config.repeats // 8) if config.advise else config.repeats
    with RunFolder(path) as folder, threadpool_limits(limits=1):
        out.print(f"{len(found)} pairs · {shorten(folder.path)}", highlight=False)
        try:
            rows = _measure(found, config, repeats, out)
            status = "failed" if _faults(rows) else "passed"
        finally:
            write_bytes(folder.path / "table.csv", as_csv(rows).encode())
            write_json(folder.path / "table.json", {"rows": as_json(rows)})
            write_json(folder.summary, _summary(config, rows, status, time.perf_counter() - start))
        _tell(config, rows, found, out)
        if config.cards is not None:
            files = write_cards(Path(config.cards), rows, options("estimator"), command=_COMMAND)
            out.print(f"{len(files)} cards in {shorten(Path(config.cards))}", highlight=False)
        out.print(f"{status}: {_counts(rows)}; results in {shorten(folder.path)}", highlight=False)
    if faults := _faults(rows):
        raise RunFault(faults)


def _measure(found: Sequence[Pair], config: DictConfig, repeats: int, out: Console) -> list[Row]:
    """Returns the rows in the order of the pairs, with their verdicts."""
    measured = results(found, num_samples=config.num_samples, repeats=repeats, seed=config.seed, workers=config.workers)
    by_name = {(row.problem, row.estimator, row.baseline): row for row in watched(measured, total=len(found), on=out)}
    ordered = [by_name[pair.problem.name, pair.estimator.name, pair.baseline.name] for pair in found]
    return judged(ordered, alpha=config.alpha)


def _tell(config: DictConfig, rows: Sequence[Row], found: Sequence[Pair], out: Console) -> None:
    if config.advise:
        option = found[0].problem
        problem = build(option.node, expects=Problem, trusted=list(config.trusted_packages))
        out.print(facts_line(problem, option.name), highlight=False)
        out.print(advice(rows, options("estimator")))
        out.print(conclusion(rows), highlight=False)
        return
    out.print(table(rows))
    refused = [row for row in rows if row.verdict == "refused"]
    if refused:
        out.print(f"{len(refused)} pairs that do not fit, and were not measured:", highlight=False)
    for line in refusals(refused):
        out.print(f"  {line}", highlight=False, markup=False)


def _faults(rows: Sequence[Row]) -> str:
    """Returns what is wrong with which pair, in one line; empty where nothing is."""
    wrong = [f"{row.name} on {row.problem} (z = {row.z:.1f})" for row in rows if row.verdict == "BIASED"]
    broken = [f"{row.name} on {row.problem} ({row.reason})" for row in rows if row.verdict == "FAILED"]
    said = [f"biased, though said to be unbiased: {'; '.join(wrong)}"] if wrong else []
    return ". ".join([*said, *([f"failed: {'; '.join(broken)}"] if broken else [])])


def _counts(rows: Sequence[Row]) -> str:
    return ", ".join(f"{count} {verdict}" for verdict, count in Counter(row.verdict for row in rows).items())


def _summary(config: DictConfig, rows: Sequence[Row], status: str, seconds: float) -> dict[str, Any]:
    return {
        "status": status,
        "seed": config.seed,
        "num_samples": config.num_samples,
        "repeats": config.repeats,
        "alpha": config.alpha,
        "tests": sum(row.tests for row in rows),
        "verdicts": dict(Counter(row.verdict for row in rows)),
        "biased": [f"{row.name} on {row.problem}" for row in rows if row.verdict == "BIASED"],
        "wall_seconds": seconds,
        "versions": versions(),
    }
