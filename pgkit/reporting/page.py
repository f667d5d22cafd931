"""The page: one file that asks nothing of any server."""

from __future__ import annotations

from collections.abc import Sequence
from xml.etree.ElementTree import Element

import pgkit
from pgkit.reporting.elements import element, written
from pgkit.reporting.formulas import Formula
from pgkit.reporting.panels import PANELS, Panel
from pgkit.reporting.runs import Run
from pgkit.reporting.style import STYLE
from pgkit.reporting.tables import numbers, overview

MARK = "pgkit.report"
"""The generator that the first lines of every report name: such a file may be overwritten by the next one."""
# No script runs and nothing is loaded, whatever a file of a run may hold.
POLICY = "default-src 'none'; style-src 'unsafe-inline'"


def page(runs: Sequence[Run]) -> str:
    """Returns the report of some runs, as one HTML document."""
    shown = [panel for panel in PANELS if any(panel.measured(run) for run in runs)]
    title = _title(runs)
    metas: list[dict[str, str | float]] = [
        {"charset": "utf-8"},
        {"name": "generator", "content": MARK},
        {"http-equiv": "Content-Security-Policy", "content": POLICY},
        {"name": "viewport", "content": "width=device-width, initial-scale=1"},
    ]
    heads = [*(element("meta", meta) for meta in metas), element("title", None, [title])]
    head = element("head", None, [*heads, element("style", None, [STYLE])])
    links = [element("li", None, [element("a", {"href": f"#{panel.key}"}, [panel.title])]) for panel in shown]
    contents = element("nav", {"aria-label": "Panels"}, [element("ul", None, links)])
    header = element("header", None, [element("h1", None, [title]), _lead(runs), overview(runs), contents])
    sections = [_section(panel, runs) for panel in shown]
    width = "solo" if len(runs) == 1 else "several"
    main = element(
        "main", {"id": "panels", "tabindex": "-1", "class": width}, [*sections, *_rest(runs), *_missing(runs)]
    )
    footer = element("footer", None, [element("p", None, [f"Made by pgkit {pgkit.__version__}, `python -m {MARK}`."])])
    skip = element("a", {"class": "skip", "href": "#panels"}, ["Skip to the panels"])
    body = element("body", None, [skip, header, main, footer])
    return "<!DOCTYPE html>\n" + written(element("html", {"lang": "en"}, [head, body])) + "\n"


def _title(runs: Sequence[Run]) -> str:
    problems = list(dict.fromkeys(str(run.summary.get("env") or run.summary.get("problem") or "") for run in runs))
    about = " and ".join(problem for problem in problems if problem)
    count = runs[0].name if len(runs) == 1 else f"{len(runs)} runs"
    return f"{about}: {count}" if about else count


def _lead(runs: Sequence[Run]) -> Element:
    text = "How good the gradients were, panel by panel: what the numbers mean, what to do next, and the numbers."
    if len(runs) > 1:
        text += " Runs stand side by side on the same axes."
    return element("p", {"class": "soft"}, [text])


def _section(panel: Panel, runs: Sequence[Run]) -> Element:
    having = [run for run in runs if panel.measured(run)]
    columns = [_column(panel, run, runs, having) for run in runs]
    parts: list[Element] = [element("h2", None, [panel.title])]
    if panel.together and len(runs) > 1:
        parts.append(element("div", {"class": "figures"}, panel.draw(having[0], runs)))
    # One run has the whole width for its figures; several share it.
    parts.append(columns[0] if len(columns) == 1 else element("div", {"class": "columns"}, columns))
    parts.append(_explained(panel.key, panel.formula))
    wide = panel.wide and sum(len(list(column.iter("figure"))) for column in columns) > 1
    return element("section", {"id": panel.key, "aria-label": panel.title, "class": "wide" * wide}, parts)


def _column(panel: Panel, run: Run, runs: Sequence[Run], having: Sequence[Run]) -> Element:
    parts = [element("h3", None, [run.name])] if len(runs) > 1 else []
    if run not in having:
        text = f"Not measured in this run: {_way(panel, [run])}."
        return element("div", None, [*parts, element("p", {"class": "soft"}, [text])])
    link = element("a", {"href": f"#formula-{panel.key}"}, ["Formula"])
    advice = panel.say(run)
    said = advice.sentence if advice else "Measured, but without a number to judge by."
    parts.append(element("p", {"class": "advice"}, [f"{said} ", link]))
    last = max(run.series[tag].steps[-1] for tag in panel.tags(run))
    if last < 0.8 * run.last_step:
        text = f"Last measured at {last:,.0f} of {run.last_step:,.0f} steps."
        parts.append(element("p", {"class": "soft"}, [text]))
    if not panel.together or len(runs) == 1:
        parts.append(element("div", {"class": "figures"}, panel.draw(run, having)))
    parts.append(numbers(run, panel.tags(run), label=f"Numbers: {panel.title}, {run.name}"))
    return element("div", None, parts)


def _explained(key: str, formula: Formula) -> Element:
    parts: list[Element | str] = [formula.text]
    for index, (name, address) in enumerate(formula.sources):
        parts.append("; " if index else " Source: ")
        parts.append(element("a", {"href": address, "rel": "noreferrer"}, [name]) if address else name)
    if formula.sources:
        parts.append(".")
    text = element("p", {"id": f"formula-{key}"}, parts)
    more = element("p", {"class": "soft"}, ["Every tag is defined in docs/metrics.md of pgkit."])
    return element("details", None, [element("summary", None, ["Formula and source"]), text, more])


def _rest(runs: Sequence[Run]) -> list[Element]:
    """Returns the numbers that no panel has."""
    columns = []
    for run in runs:
        shown = {tag for panel in PANELS if panel.measured(run) for tag in panel.tags(run)}
        if tags := [tag for tag in run.series if tag not in shown]:
            name = [element("h3", None, [run.name])] if len(runs) > 1 else []
            columns.append(element("div", None, [*name, numbers(run, tags, label=f"Other numbers, {run.name}")]))
    title = "Other numbers"
    inside = element("div", {"class": "columns"}, columns)
    parts = [element("h2", None, [title]), inside]
    return [element("section", {"id": "rest", "aria-label": title, "class": "wide"}, parts)] if columns else []


def _missing(runs: Sequence[Run]) -> list[Element]:
    absent = [panel for panel in PANELS if not any(panel.measured(run) for run in runs)]
    if not absent:
        return []
    ways = list(dict.fromkeys(_way(panel, runs) for panel in absent))
    groups = [f"{', '.join(each.title for each in absent if _way(each, runs) == way)} ({way})" for way in ways]
    return [element("p", {"class": "soft", "id": "missing"}, [f"Not measured: {'; '.join(groups)}."])]


def _way(panel: Panel, runs: Sequence[Run]) -> str:
    """Returns how such runs measure a panel."""
    fits = all(run.axis == "samples" for run in runs)
    return "training runs alone have it" if fits else panel.switch
