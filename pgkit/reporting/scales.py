"""From numbers to places on a line, and the ticks beside it."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, final

Kind = Literal["linear", "log", "symlog"]
"""`symlog` is linear between −1 and 1 and grows with the logarithm outside."""
STEPS = (1, 2, 2.5, 5, 10)
MOST_TICKS = 8


@final
@dataclass(frozen=True, kw_only=True)
class Scale:
    """Places the numbers from `low` to `high` between `start` and `end`, in units of the figure."""

    low: float
    high: float
    start: float
    end: float
    kind: Kind = "linear"

    def __call__(self, value: float) -> float:
        """Returns the place of a number; one beyond the range lies at its end."""
        low, high = _bent(self.low, self.kind), _bent(self.high, self.kind)
        share = (_bent(value, self.kind) - low) / (high - low)
        return self.start + min(1.0, max(0.0, share)) * (self.end - self.start)

    def ticks(self) -> list[float]:
        """Returns some three to seven round numbers of the range."""
        if self.kind == "linear":
            return _even(self.low, self.high)
        return _bent_ticks(self.low, self.high, self.kind)


def fitted(values: Iterable[float], *, start: float, end: float, kind: Kind = "linear", low: float | None = None,
           high: float | None = None) -> Scale:  # fmt: skip
    """Returns the scale that some numbers fill, out to `low` and `high` at least; a logarithm leaves out 0 and less."""
    numbers = [value for value in (*values, *(end for end in (low, high) if end is not None)) if math.isfinite(value)]
    if kind == "log":
        numbers = [value for value in numbers if value > 0]
    first, last = (min(numbers), max(numbers)) if numbers else (0.0, 1.0)
    if kind == "log":
        first, last = (first or 0.1) / 1.15, (last or 1.0) * 1.15
    elif first == last:
        first, last = first - (abs(first) or 1) / 2, last + (abs(last) or 1) / 2
    elif kind == "linear":
        margin = 0.04 * (last - first)
        first, last = first - (0 if first == low else margin), last + (0 if last == high else margin)
    return Scale(low=first, high=last, start=start, end=end, kind=kind)


def tick_label(value: float) -> str:
    """Returns a number in few letters: 65k, 1.5M."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= size:
            divisor = 1e3 if letter == "k" else size
            return f"{value / divisor:g}{letter}".replace("-", "−")
    return f"{value:.6g}".replace("-", "−")


def _bent(value: float, kind: Kind) -> float:
    if kind == "log":
        return math.log10(max(value, 1e-300))
    if kind == "symlog" and abs(value) > 1:
        return math.copysign(1 + math.log10(abs(value)), value)
    return value


def _even(low: float, high: float) -> list[float]:
    rough = (high - low) / 5
    size = 10.0 ** math.floor(math.log10(rough))
    step = next(size * each for each in STEPS if size * each >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(step * index, 12) for index in range(first, math.floor(high / step + 1e-9) + 1)]


def _bent_ticks(low: float, high: float, kind: Kind) -> list[float]:
    largest = math.ceil(math.log10(max(abs(low), abs(high), 1)))
    smallest = math.floor(math.log10(low)) if kind == "log" else 0
    if kind == "symlog" and high - low < 1.5 and max(abs(low), abs(high)) <= 1.5:
        return _even(low, high)
    # Fewer numbers a decade where there are more decades.
    decades = math.log10(high / low if kind == "log" else high - low + 1)
    limits = ((0.9 * (kind == "log"), (1, 1.5, 2, 3, 4, 5, 7)), (2.2, (1, 2, 5)), (3.5, (1, 3)), (math.inf, (1,)))
    digits = next(each for limit, each in limits if decades < limit)
    sizes = [digit * 10.0**power for power in range(smallest, largest + 1) for digit in digits]
    if kind == "symlog":
        sizes = [-size for size in reversed(sizes)] + [0.0, *([0.5] if high < 5 else []), *sizes]
    inside = [round(size, 12) for size in sizes if low <= size <= high]
    step = -(-len(inside) // MOST_TICKS) or 1
    first = inside.index(0.0) % step if 0.0 in inside else 0
    return inside[first::step] or _even(low, high)
