"""The numbers behind the figures, for people who read tables and for programs that read people's pages."""

from __future__ import annotations

from collections.abc import Sequence
from xml.etree.ElementTree import Element

from pgkit.reporting.elements import element
from pgkit.reporting.runs import Run
from pgkit.reporting.words import short

LAST = "The last measured values"


def overview(runs: Sequence[Run]) -> Element:
    """Returns one row a run: how it ended, how far it came, what it was asked for."""
    heads = ("run", "status", "updates", "steps", "settings")
    rows = [
        _row(
            run.name,
            [
                _cell(run.status),
                _number(f"{run.updates:,}"),
                _number(f"{run.last_step:,.0f}"),
                _cell(" ".join(run.settings) or "the defaults, or not recorded"),
            ],
        )
        for run in runs
    ]
    return _table("Runs in this report", heads, rows, numeric=("updates", "steps"), label="Runs")


def numbers(run: Run, tags: Sequence[str], *, label: str) -> Element:
    """Returns the last measured value of some tags; those that name one of several make a row each."""
    plain = [tag for tag in tags if tag.count("/") <= 1]
    named = [tag.rpartition("/")[0] for tag in tags if tag not in plain]
    tables = []
    if plain:
        rows = [_row(tag, [_value(run, tag), _number(f"{run.series[tag].steps[-1]:,.0f}")]) for tag in plain]
        heads = ("tag", "value", "at step")
        tables.append(_table(LAST, heads, rows, numeric=heads[1:], label=label))
    if named:
        quantities = list(dict.fromkeys(tag.rpartition("/")[2] for tag in tags if tag not in plain))
        rows = [
            _row(name, [_value(run, f"{name}/{quantity}") for quantity in quantities]) for name in dict.fromkeys(named)
        ]
        tables.append(_table(LAST, ("name", *quantities), rows, numeric=quantities, label=label))
    return element("details", None, [element("summary", None, ["Numbers"]), *tables])


def _table(caption: str, heads: Sequence[str], rows: list[Element], *, numeric: Sequence[str], label: str) -> Element:
    """Returns a table that scrolls by itself where it is too wide, by keyboard too."""
    tops = [
        element("th", {"scope": "col", **({"class": "number"} if head in numeric else {})}, [head]) for head in heads
    ]
    table = element(
        "table",
        None,
        [
            element("caption", None, [caption]),
            element("thead", None, [element("tr", None, tops)]),
            element("tbody", None, rows),
        ],
    )
    return element("div", {"class": "scroll", "tabindex": "0", "role": "region", "aria-label": label}, [table])


def _row(name: str, cells: list[Element]) -> Element:
    return element("tr", None, [element("th", {"scope": "row"}, [name]), *cells])


def _cell(text: str) -> Element:
    return element("td", {"class": "text"}, [text])


def _number(text: str) -> Element:
    return element("td", {"class": "number"}, [text])


def _value(run: Run, tag: str) -> Element:
    """Returns a number as people read it, with what `metrics.csv` has as its value."""
    if tag not in run.series:
        return _number("–")
    series = run.series[tag]
    shown = element("data", {"value": series.text, "data-tag": tag}, [short(series.values[-1])])
    return element("td", {"class": "number"}, [shown])
