"""The kinds of figure that a report has: courses over steps, rows of intervals, stacks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import final
from xml.etree.ElementTree import Element

from pgkit.reporting.elements import element
from pgkit.reporting.plots import BOTTOM, LEFT, RIGHT, TOP, WIDTH, Plot, Point, horizontal, swatch, vertical
from pgkit.reporting.runs import Run, Series
from pgkit.reporting.scales import Kind, Scale, fitted, tick_label
from pgkit.reporting.words import interval, short

MOST_MARKS = 200
"""Marks of a course; a longer one is drawn as the means of as many stretches."""
ROW = 34.0


@final
@dataclass(frozen=True, kw_only=True)
class Course:
    """One line of a figure: a tag over steps, times the tag `factor`, in its interval where it is `banded`."""

    name: str
    tag: str
    run: Run
    colour: int
    factor: str | None = None
    banded: bool = True

    @property
    def points(self) -> list[Point]:
        """Returns (step, value), thinned."""
        series = self.run.series.get(self.tag)
        return [] if series is None else thinned(_times(series, self.run, self.factor))

    @property
    def bounds(self) -> list[tuple[float, float, float]]:
        """Returns (step, low, high) wherever both ends are known, thinned."""
        low, high = (self.run.series.get(f"{self.tag}{end}") for end in ("_low", "_high"))
        if not self.banded or low is None or high is None:
            return []
        tops = dict(zip(high.steps, high.values, strict=True))
        lows = thinned([(step, value) for step, value in zip(low.steps, low.values, strict=True) if step in tops])
        highs = thinned([(step, tops[step]) for step in low.steps if step in tops])
        return [(step, bottom, top) for (step, bottom), (_, top) in zip(lows, highs, strict=True)]

    @property
    def unresolved(self) -> list[Point]:
        """Returns (first, last) step of every stretch on which the lower end of the interval is not above 0.

        A stretch reaches half-way to its resolved neighbours.
        """
        bounds, spans = self.bounds, []
        for index, (step, low, _) in enumerate(bounds):
            if low <= 0:
                before, after = bounds[max(0, index - 1)][0], bounds[min(len(bounds) - 1, index + 1)][0]
                spans.append(((before + step) / 2, (step + after) / 2))
        return spans


def thinned(points: Sequence[Point]) -> list[Point]:
    """Returns the points, or the means of neighbours where there are more than a figure can show."""
    size = -(-len(points) // MOST_MARKS) or 1
    groups = [points[start : start + size] for start in range(0, len(points), size)]
    return [(group[-1][0], sum(value for _, value in group) / len(group)) for group in groups]


def courses_figure(
    courses: Sequence[Course],
    *,
    label: str,
    caption: str,
    beside: Iterable[Course] = (),
    kind: Kind = "linear",
    levels: Sequence[float] = (),
    low: float | None = None,
    high: float | None = None,
    shaded: bool = False,
) -> Element:
    """Returns lines with their marks and bands; the axes also hold the courses `beside`, so that runs compare."""
    everything = [*courses, *beside]
    steps = [step for course in everything for step, _ in course.points]
    values = [value for course in everything for _, value in course.points]
    ends = [end for course in everything for _, *pair in course.bounds for end in pair]
    y = vertical([*values, *ends, *levels], kind=kind, low=low, high=high)
    plot = Plot(x=horizontal(steps, low=0.0), y=y, label=label)
    if shaded:
        plot.shade([span for course in courses for span in course.unresolved])
    plot.axes(x_label=_axis(courses))
    for level in levels:
        plot.level(level)
    for course in courses:
        if course.bounds:
            at, lows, highs = zip(*course.bounds, strict=True)
            plot.band(at, lows, highs, colour=course.colour)
    for course in courses:
        points = [point for point in course.points if kind != "log" or point[1] > 0]
        plot.course(points, tag=course.tag, name=course.name, colour=course.colour)
    names = {course.name: course.colour for course in courses}
    longest = max((len(course.run.series[course.tag].values) for course in courses if course.points), default=0)
    if longest > MOST_MARKS:
        caption += f" A mark is the mean of {-(-longest // MOST_MARKS)} measurements."
    return figure(plot.drawing, caption, names if len(names) > 1 else {})


@final
@dataclass(frozen=True, kw_only=True)
class Row:
    """One row of a figure: a name, a number, its interval, and the colour of what they amount to."""

    name: str
    tag: str
    point: float
    low: float | None = None
    high: float | None = None
    colour: int = 0


def rows_figure(
    rows: Sequence[Row],
    *,
    label: str,
    caption: str,
    level: float,
    beside: Iterable[Row] = (),
    kind: Kind = "linear",
    names: Mapping[str, int] | None = None,
) -> Element:
    """Returns one line a row: its name and numbers, and below them its mark in its interval; `level` is marked."""
    everything = [*rows, *beside]
    numbers = [end for row in everything for end in (row.point, row.low, row.high) if end is not None]
    height = TOP + ROW * len(rows) + BOTTOM
    start, end = 12.0, WIDTH - 12.0
    x = fitted([*numbers, level], start=start, end=end, kind=kind)
    plot = Plot(x=x, y=Scale(low=0, high=1, start=0, end=1), label=label, height=height)
    plot.axes(x_label=label, y_grid=False)
    place = x(level)
    plot.add("line", {"class": "level", "x1": place, "x2": place, "y1": TOP, "y2": height - BOTTOM})
    for index, row in enumerate(rows):
        top = TOP + ROW * index
        said = interval(row.point, row.low, row.high)
        plot.add("text", {"x": start, "y": top + 13, "class": "row"}, text=row.name)
        plot.add("text", {"x": end, "y": top + 13, "class": "row end"}, text=said)
        if row.low is not None and row.high is not None:
            first, last = x(row.low), x(row.high)
            colour = f"whisker s{row.colour}"
            plot.add("line", {"class": colour, "x1": first, "x2": last, "y1": top + 24, "y2": top + 24})
        text = f"{row.name}: {said}"
        plot.mark(x(row.point), top + 24, tag=row.tag, said=text, colour=row.colour, size=4, hollow=row.low is None)
    return figure(plot.drawing, caption, names or {})


def stack_figure(
    stacks: Sequence[tuple[str, Sequence[tuple[str, float]]]],
    *,
    names: Sequence[str],
    label: str,
    caption: str,
    x_label: str,
    top: float | None = None,
    chosen: str | None = None,
) -> Element:
    """Returns columns of parts, one a stack; a part is (tag, height), and one below 0 has no height."""
    heights = [sum(max(0.0, value) for _, value in parts) for _, parts in stacks]
    y = vertical([0.0, *heights], low=0.0, high=top)
    x = Scale(low=0, high=max(1, len(stacks)), start=LEFT, end=WIDTH - RIGHT)
    plot = Plot(x=x, y=y, label=label)
    for value in y.ticks():
        place = y(value)
        plot.add("line", {"class": "grid", "x1": LEFT, "x2": WIDTH - RIGHT, "y1": place, "y2": place})
        plot.add("text", {"x": LEFT - 6, "y": place + 4, "class": "tick end"}, text=tick_label(value))
    every = -(-len(stacks) // 7)
    for index, (name, parts) in enumerate(stacks):
        below, wide = 0.0, x(1) - x(0)
        for colour, (tag, value) in enumerate(parts):
            above = below + max(0.0, value)
            size = {"x": x(index) + 0.1 * wide, "width": 0.8 * wide, "y": y(above), "height": y(below) - y(above)}
            made = plot.add("rect", {"class": f"mark stack s{colour}", "data-tag": tag, **size})
            made.append(element("title", None, [f"{name}, {names[colour]}: {short(value)}"]))
            below = above
        if index % every == 0:
            bold = " chosen" if name == chosen else ""
            at = {"x": x(index + 0.5), "y": y(0) + 15}
            plot.add("text", {**at, "class": f"tick middle{bold}"}, text=name)
    plot.add("text", {"x": (LEFT + WIDTH - RIGHT) / 2, "y": y(0) + 32, "class": "axis middle"}, text=x_label)
    return figure(plot.drawing, caption, dict(zip(names, range(len(names)), strict=True)))


def figure(drawing: Element, caption: str, names: Mapping[str, int]) -> Element:
    """Returns a drawing with its caption, and the names of its colours where there are several."""
    entries = [element("li", None, [swatch(colour), name]) for name, colour in names.items()]
    legend = [element("ul", {"class": "legend"}, entries)] if entries else []
    return element("figure", None, [drawing, *legend, element("figcaption", None, [caption])])


def _axis(courses: Sequence[Course]) -> str:
    axes = {course.run.axis for course in courses}
    return "samples" if axes == {"samples"} else "environment steps"


def _times(series: Series, run: Run, factor: str | None) -> list[Point]:
    """Returns the points of a tag, each times that of another tag at the same step where one is named."""
    points = list(zip(series.steps, series.values, strict=True))
    if factor is None:
        return points
    other = run.series.get(factor)
    factors = {} if other is None else dict(zip(other.steps, other.values, strict=True))
    return [(step, value * factors[step]) for step, value in points if step in factors]
