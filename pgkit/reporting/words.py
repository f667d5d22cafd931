"""Numbers as people read them."""

from __future__ import annotations

import math


def short(value: float) -> str:
    """Returns three significant digits, thousands parted."""
    if value == 0:
        return "0"
    value = float(f"{value:.3g}")
    size = math.floor(math.log10(abs(value)))
    if size < -3 or size > 8:
        return f"{value:.1e}".replace("-", "−")
    return f"{value:,.{max(0, 2 - size)}f}".replace("-", "−")


def percent(share: float) -> str:
    """Returns a share in per cent, whole."""
    return f"{round(100 * share) or 0} %".replace("-", "−")


def interval(point: float, low: float | None, high: float | None) -> str:
    """Returns a point with its interval, where it has one."""
    return short(point) if low is None or high is None else f"{short(point)} [{short(low)}, {short(high)}]"


def listed(names: list[str]) -> str:
    """Returns names as a sentence has them."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}" if names else "none"
