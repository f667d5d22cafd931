"""A page for each estimator, written from its class, its file and a table of measurements."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path

from pgkit.verifying.pairs import Option
from pgkit.verifying.report import number
from pgkit.verifying.rows import Row


def write_cards(folder: Path, rows: Sequence[Row], estimators: Mapping[str, Option], *, command: str) -> list[Path]:
    """Writes a page for every estimator in the rows, and their list; returns the files."""
    folder.mkdir(parents=True, exist_ok=True)
    names = sorted({row.estimator for row in rows})
    files = []
    for name in names:
        own = [row for row in rows if row.estimator == name]
        files.append(folder / f"{name}.md")
        files[-1].write_text("\n".join(_card(estimators[name], own, command)) + "\n", encoding="utf-8")
    entries = [f"| [`{name}`]({name}.md) | {estimators[name].comment} |" for name in names]
    head = ["# Estimators", "", f"Written by `{command}`.", "", "| `estimator=` | |", "|---|---|"]
    files.append(folder / "README.md")
    files[-1].write_text("\n".join([*head, *entries]) + "\n", encoding="utf-8")
    return files


def _card(option: Option, rows: Sequence[Row], command: str) -> Iterator[str]:
    yield from (f"# `{option.name}`", "", option.comment, "")
    yield from (*_docstring(option), "")
    done = [row for row in rows if row.reason is None]
    if done:
        yield from _HEAD
    for row in done:
        bias = "–" if row.bias is None else f"{number(row.bias)} ± {row.bias_standard_error:.1g}"
        micro = None if row.seconds_per_sample is None else 1e6 * row.seconds_per_sample
        numbers = (number(each) for each in (row.variance, row.exact_variance, row.score_samples, micro))
        yield f"| {row.problem} | {row.baseline} | {row.verdict} | {bias} | {' | '.join(numbers)} |"
    if done:
        yield from ("", _LEGEND, "")
    if len(done) < len(rows):
        yield from ("## Where it is refused", "", *_refused(rows), "")
    yield f"Written by `{command}`; not to be edited."


def _refused(rows: Sequence[Row]) -> Iterator[str]:
    """Yields one line for each reason, with the problems that it was given for."""
    reasons: dict[str, list[str]] = {}
    for row in rows:
        if row.reason:
            reasons.setdefault(row.reason, []).append(row.problem)
    for reason, problems in reasons.items():
        yield f"- {', '.join(dict.fromkeys(problems))}: {reason}"


def _docstring(option: Option) -> Iterator[str]:
    """Yields the docstring of an estimator's class: its formula first, then needs, bias, variance and source."""
    module, _, name = option.node["_target_"].rpartition(".")
    for paragraph in (inspect.getdoc(getattr(import_module(module), name)) or "").split("\n\n"):
        for field in re.split(r"\n(?=[A-Z][a-z]+: )", paragraph):
            text = " ".join(field.split())
            yield re.sub(r"^(Source|Bias|Variance|Raises|Shapes):", r"**\1**:", text)
            yield ""


_LEGEND = (
    "Bias: of the coordinate furthest from the truth. Variance: of one sample's gradient, a trace; exact where it is "
    "known. Worth: how many samples of `score` without baseline one sample is worth. µs: a sample's share of a batch, "
    "on one core."
)

_HEAD = (
    "| problem | baseline | verdict | bias ± s.e. | variance | exact | worth | µs |",
    "|---|---|---|--:|--:|--:|--:|--:|",
)
