"""What a person sees of an off-policy evaluation: a table, and a picture of the same."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.table import Table

from pgkit.core.off_policy_value import MissingMass
from pgkit.offline.advice import doubts, verdict
from pgkit.offline.bounds import Bound
from pgkit.offline.estimates import Estimate

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_TRUSTED, _DOUBTED, _BOUND, _LOGGED = "#1f6f8b", "#b9b9b9", "#8a6d1d", "#c0392b"
Span = tuple[float, float]


def table(lines: Sequence[Estimate], bounds: Sequence[Bound], missing: MissingMass, *, confidence: float) -> Table:
    """Returns estimates, then bounds, one a line."""
    shown = Table()
    shown.add_column("estimator", no_wrap=True)
    for name in ("value", f"{confidence:.0%} interval", "s.e.", "ess", "max share", "Pareto k"):
        shown.add_column(name, justify="right", no_wrap=True)
    shown.add_column("bias", no_wrap=True)
    shown.add_column("advice")
    for line in lines:
        health = line.health
        weights = [health.effective_sample_size, health.largest_share, health.pareto_k] if health else [None] * 3
        numbers = [_number(line.value), _interval(line.low, line.high), _number(line.standard_error)]
        shown.add_row(line.name, *numbers, *map(_short, weights), line.bias, verdict(line, missing))
    if bounds:
        shown.add_section()
    for bound in bounds:
        shown.add_row(bound.name, "", _interval(bound.low, bound.high), *[""] * 5, f"assumes {bound.assumes}")
    return shown


def picture(
    lines: Sequence[Estimate],
    bounds: Sequence[Bound],
    missing: MissingMass,
    *,
    title: str,
    logged_return: float,
    confidence: float,
) -> bytes | None:
    """Returns a PNG of the estimates with their intervals and the mean return of the data; None without matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return None
    drawn = [line for line in lines if line.value is not None]
    count = len(drawn) + len(bounds)
    figure = Figure(figsize=(8.6, 1.9 + 0.36 * max(count, 3)), layout="constrained")
    axes = figure.add_subplot()
    trusted = [not doubts(line, missing) for line in drawn]
    low, high = _window(drawn, bounds, trusted, logged_return)
    for place, line in enumerate(drawn):
        colour = _TRUSTED if trusted[place] else _DOUBTED
        _draw(axes, place, line.low, line.high, colour, (low, high))
        inside = min(max(line.value or 0.0, low), high)
        marker = "o" if inside == line.value else (">" if inside == high else "<")
        axes.plot([inside], [place], marker, color=colour, markersize=8 if marker == "o" else 10, zorder=3)
    for place, bound in enumerate(bounds, start=len(drawn)):
        _draw(axes, place, bound.low, bound.high, _BOUND, (low, high))
    axes.axvline(logged_return, color=_LOGGED, linestyle="--", linewidth=1.2)
    axes.set_yticks(range(count), [line.name for line in drawn] + [bound.name for bound in bounds])
    axes.set_ylim(count - 0.4, -0.6)
    axes.set_xlim(low, high)
    axes.set_xlabel(f"value of the target policy, with {confidence:.0%} intervals")
    axes.grid(axis="x", color="#e6e6e6")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    _legend(axes, bool(bounds), not all(trusted))
    axes.set_title(title, loc="left", fontsize=10)
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=130)
    return stream.getvalue()


def _window(lines: Sequence[Estimate], bounds: Sequence[Bound], trusted: Sequence[bool], logged: float) -> Span:
    """Returns where the horizontal axis runs: what is trusted, and of the rest what does not dwarf it."""
    ends = [[end for end in (line.value, line.low, line.high) if end is not None] for line in lines]
    values = [line.value for line in lines if line.value is not None]
    core = [logged, *(end for own, good in zip(ends, trusted, strict=True) if good for end in own)]
    if not any(trusted) and values:
        core.append(sorted(values)[len(values) // 2])
    low, high = min(core), max(core)
    reach = 3 * (high - low) or max(1.0, abs(low))
    others = [end for own in ends for end in own] + [end for bound in bounds for end in (bound.low, bound.high)]
    seen = [low, high, *(end for end in others if low - reach <= end <= high + reach)]
    margin = 0.05 * (max(seen) - min(seen)) or 1.0
    return min(seen) - margin, max(seen) + margin


def _draw(axes: Axes, place: int, low: float | None, high: float | None, colour: str, window: Span) -> None:
    """Draws an interval; an arrow where it goes on beyond the axis."""
    if low is None or high is None:
        return
    left, right = max(low, window[0]), min(high, window[1])
    axes.plot([left, right], [place, place], color=colour, linewidth=3, solid_capstyle="butt", zorder=2)
    for end, inside, marker in ((low, left, "<"), (high, right, ">")):
        if end != inside:
            axes.plot([inside], [place], marker, color=colour, markersize=9, clip_on=False, zorder=3)


def _legend(axes: Axes, with_bounds: bool, with_doubts: bool) -> None:
    from matplotlib.lines import Line2D

    marks = [Line2D([], [], color=_TRUSTED, marker="o", linewidth=3, label="bootstrap interval")]
    if with_doubts:
        marks.append(Line2D([], [], color=_DOUBTED, marker="o", linewidth=3, label="not to be trusted"))
    if with_bounds:
        marks.append(Line2D([], [], color=_BOUND, linewidth=3, label="bound by concentration"))
    marks.append(Line2D([], [], color=_LOGGED, linestyle="--", label="mean return of the data"))
    axes.figure.legend(handles=marks, loc="outside lower center", ncols=len(marks), fontsize=8, frameon=False)


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.5g}"


def _short(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}"


def _interval(low: float | None, high: float | None) -> str:
    return "–" if low is None or high is None else f"[{low:.5g}, {high:.5g}]"
