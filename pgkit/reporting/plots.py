"""One drawing: axes, and marks on them. Colours are the page's, so that a figure follows light and dark."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final
from xml.etree.ElementTree import Element

from pgkit.reporting.elements import Value, element
from pgkit.reporting.scales import Kind, Scale, fitted, tick_label
from pgkit.reporting.words import short

WIDTH, HEIGHT = 400.0, 240.0
LEFT, RIGHT, TOP, BOTTOM = 46.0, 10.0, 10.0, 38.0
COLOURS = 9
CROWD = 70
"""Marks of a course beyond which they are drawn smaller."""
SHAPES = ("circle", "square", "triangle", "diamond")
Point = tuple[float, float]


@final
class Plot:
    """A figure over a horizontal and a vertical scale; `drawing` is its SVG.

    Series number k has colour k and a shape of its own, so that none is told by colour alone.
    """

    def __init__(self, *, x: Scale, y: Scale, label: str, height: float = HEIGHT) -> None:
        self.x, self.y = x, y
        box = f"0 0 {WIDTH:g} {height:g}"
        self.drawing = element("svg", {"viewBox": box, "role": "img", "aria-label": label, "class": "plot"})
        self._bottom = height - BOTTOM

    def add(self, name: str, attributes: dict[str, Value], *, text: str = "") -> Element:
        """Appends a shape or some text, and returns it."""
        made = element(name, attributes, [text] if text else ())
        self.drawing.append(made)
        return made

    def axes(self, *, x_label: str, y_grid: bool = True) -> None:
        """Draws ticks, the lines behind the data and the name of the horizontal axis."""
        for value in self.x.ticks():
            place = self.x(value)
            if not y_grid:
                self.add("line", {"class": "grid", "x1": place, "x2": place, "y1": TOP, "y2": self._bottom})
            self.add("text", {"x": place, "y": self._bottom + 15, "class": "tick middle"}, text=tick_label(value))
        if y_grid:
            for value in self.y.ticks():
                place = self.y(value)
                self.add("line", {"class": "grid", "x1": LEFT, "x2": WIDTH - RIGHT, "y1": place, "y2": place})
                self.add("text", {"x": LEFT - 6, "y": place + 4, "class": "tick end"}, text=tick_label(value))
        middle = (self.x.start + self.x.end) / 2
        self.add("text", {"x": middle, "y": self._bottom + 32, "class": "axis middle"}, text=x_label)

    def level(self, value: float) -> None:
        """Draws a horizontal line that means something, such as 0 or 1."""
        place = self.y(value)
        self.add("line", {"class": "level", "x1": self.x.start, "x2": self.x.end, "y1": place, "y2": place})

    def shade(self, spans: Sequence[Point]) -> None:
        """Shades what lies between pairs of horizontal numbers."""
        for first, last in spans:
            start, end = self.x(first), self.x(last)
            size = {"x": start, "width": max(2.0, end - start), "y": TOP, "height": self._bottom - TOP}
            self.add("rect", {"class": "unresolved", **size})

    def band(self, steps: Sequence[float], lows: Sequence[float], highs: Sequence[float], *, colour: int) -> None:
        """Fills what lies between two courses."""
        there = [f"{self.x(step):.1f},{self.y(value):.1f}" for step, value in zip(steps, highs, strict=True)]
        back = [f"{self.x(step):.1f},{self.y(value):.1f}" for step, value in zip(steps, lows, strict=True)]
        self.add("polygon", {"class": f"band s{colour % COLOURS}", "points": " ".join([*there, *reversed(back)])})

    def course(self, points: Sequence[Point], *, tag: str, name: str, colour: int, joined: bool = True) -> None:
        """Draws one mark a point, with its numbers as a tooltip, joined by a line."""
        if joined and len(points) > 1:
            places = " ".join(f"{self.x(step):.1f},{self.y(value):.1f}" for step, value in points)
            self.add("polyline", {"class": f"line s{colour % COLOURS}", "points": places})
        size = 2.2 if len(points) <= CROWD else 1.3
        for step, value in points:
            said = f"{name} at {step:,.0f}: {short(value)}"
            self.mark(self.x(step), self.y(value), tag=tag, said=said, colour=colour, size=size)

    def mark(self, x: float, y: float, *, tag: str, said: str, colour: int, size: float, hollow: bool = False) -> None:
        """Draws one mark, named by its tag."""
        kind = "mark hollow" if hollow else "mark"
        path = outline(SHAPES[colour % len(SHAPES)], x, y, size)
        made = self.add("path", {"class": f"{kind} s{colour % COLOURS}", "d": path, "data-tag": tag})
        made.append(element("title", None, [said]))


def outline(shape: str, x: float, y: float, size: float) -> str:
    """Returns the path of a mark around a point."""
    if shape == "circle":
        ends = f"a{size:g},{size:g} 0 1,0 {2 * size:g},0 a{size:g},{size:g} 0 1,0 {-2 * size:g},0"
        return f"M{x - size:.2f},{y:.2f}{ends}Z"
    corners = {"square": ((-1, -1), (1, -1), (1, 1), (-1, 1)), "triangle": ((0, -1.3), (1.2, 0.9), (-1.2, 0.9)),
               "diamond": ((0, -1.4), (1.4, 0), (0, 1.4), (-1.4, 0))}[shape]  # fmt: skip
    return "M" + "L".join(f"{x + size * dx:.2f},{y + size * dy:.2f}" for dx, dy in corners) + "Z"


def swatch(colour: int) -> Element:
    """Returns the mark of a series, for the line that names it."""
    drawing = element("svg", {"viewBox": "0 0 24 12", "class": "swatch", "aria-hidden": "true"})
    drawing.append(element("line", {"x1": 0.0, "x2": 24.0, "y1": 6.0, "y2": 6.0, "class": f"line s{colour % COLOURS}"}))
    path = outline(SHAPES[colour % len(SHAPES)], 12, 6, 4)
    drawing.append(element("path", {"class": f"mark s{colour % COLOURS}", "d": path}))
    return drawing


def horizontal(values: Sequence[float], *, low: float | None = None) -> Scale:
    """Returns the scale of steps."""
    return fitted(values, start=LEFT + 6, end=WIDTH - RIGHT - 6, low=low)


def vertical(values: Sequence[float], *, kind: Kind = "linear", low: float | None = None, high: float | None = None,
             height: float = HEIGHT) -> Scale:  # fmt: skip
    """Returns the scale of what is measured; it grows upwards."""
    return fitted(values, start=height - BOTTOM, end=TOP, kind=kind, low=low, high=high)
