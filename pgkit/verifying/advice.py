"""Which estimator to take for a problem: what applies, why, and what a short trial says."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from rich.table import Table

from pgkit.problems.base import Problem
from pgkit.problems.known import Facts
from pgkit.verifying.pairs import Option
from pgkit.verifying.report import number
from pgkit.verifying.rows import Row


def facts_line(problem: Problem, name: str) -> str:
    """Returns what is known of a problem in one line."""
    facts = problem.facts() if hasattr(problem, "facts") else None
    if not isinstance(facts, Facts):
        return f"{name}: nothing is said of its cost and law, so that each estimator is asked"
    law = "discrete" if facts.discrete else "Gaussian" if facts.gaussian else "continuous"
    outcomes = "" if facts.outcomes is None else f" with {facts.outcomes:,} outcomes"
    words = (
        f"{law} law{outcomes}",
        "reparameterisable" if facts.reparameterisable else "not reparameterisable",
        "differentiable cost" if facts.differentiable else "cost without a gradient",
        f"dimension {facts.dimension}",
    )
    return f"{name}: {', '.join(words)}"


def ranked(rows: Sequence[Row]) -> list[Row]:
    """Returns the rows that can be recommended, the least variance for a second of work first.

    Those that are biased, by their own words or by the trial, are left out.
    """
    usable = [row for row in rows if row.claims_unbiased and row.verdict in ("unbiased", "not known")]
    return sorted(usable, key=lambda row: (row.work_normalised_variance or 0.0, row.variance or 0.0))


def advice(rows: Sequence[Row], estimators: Mapping[str, Option]) -> Table:
    """Returns the trial as a table: the recommended first, then the biased, then those that do not apply."""
    shown = Table(caption=_CAPTION, caption_justify="left")
    for name in ("estimator", "applies"):
        shown.add_column(name, no_wrap=True)
    shown.add_column("reason", ratio=1)
    for name in ("variance", "µs", "work"):
        shown.add_column(name, justify="right", no_wrap=True)
    best = ranked(rows)
    others = [row for row in rows if row not in best and row.reason is None]
    for row in [*best, *others, *(row for row in rows if row.reason is not None)]:
        applies = "no" if row.reason else "yes" if row.claims_unbiased else "biased"
        applies = row.verdict if row.verdict.isupper() else applies
        micro = None if row.seconds_per_sample is None else 1e6 * row.seconds_per_sample
        work = None if row.work_normalised_variance is None else 1e6 * row.work_normalised_variance
        reason = row.reason or re.split(r"(?<=\w\w)[.:] ", estimators[row.estimator].comment)[0]
        shown.add_row(row.name, applies, reason, *(number(each) for each in (row.variance, micro, work)))
    return shown


def conclusion(rows: Sequence[Row]) -> str:
    """Returns what the trial found best, in words."""
    best = ranked(rows)
    if not best:
        return "no unbiased estimator applies"
    least = min(best, key=lambda row: row.variance or 0.0)
    words = [f"best for a second of work: {best[0].name}", f"least variance a sample: {least.name}"]
    if best[0].name != "score" and best[0].score_samples:
        words.append(f"score without baseline needs {number(best[0].score_samples)} times its samples")
    return "; ".join(words)


_CAPTION = "of one sample's gradient: variance, a trace, and microseconds in a batch; work is their product"
