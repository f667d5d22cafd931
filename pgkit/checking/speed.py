"""What a step costs in every form: measured in turn, several times, because machines are never alone."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, final

import numpy as np

from pgkit.checking.findings import actions_of
from pgkit.errors import EnvironmentFault, UsageError
from pgkit.rl.lanes import Lanes

Open = Callable[[str, int], Lanes]
FORMS = ("sync", "async", "vector_entry_point")
_BLOCK = 64
_NEAR = 0.9
"""A rate that is this share of the best is as good: the simpler form and the fewer lanes are taken."""


@final
@dataclass(frozen=True, kw_only=True)
class Speed:
    """Steps of the environment a second in each round, with one form and number of lanes; or why there are none."""

    form: str
    lanes: int
    rates: tuple[float, ...] = ()
    reason: str = ""

    @property
    def rate(self) -> float:
        """The median of the rounds."""
        return median(self.rates)


def measured(
    open_lanes: Open, *, lanes: Sequence[int], most_workers: int, rounds: int, seconds: float, seed: int
) -> list[Speed]:
    """Returns what each form does with each number of lanes; in every round each has its turn.

    Forms that the environment does not have are left out; `async` with more lanes than `most_workers` too.
    """
    opened: dict[tuple[str, int], Lanes] = {}
    broken: dict[tuple[str, int], str] = {}
    rates: dict[tuple[str, int], list[float]] = {}
    try:
        for pair in [(form, count) for count in sorted(set(lanes)) for form in FORMS]:
            if pair[0] == "async" and pair[1] > most_workers:
                continue
            try:
                opened[pair] = open_lanes(*pair)
                opened[pair].reset([seed + lane for lane in range(pair[1])])
            except UsageError:
                opened.pop(pair, None)  # the environment does not have this form, or the checks say why
            except EnvironmentFault as fault:
                broken[pair] = str(fault)
        for _ in range(rounds):
            for pair, each in opened.items():
                if pair in broken:
                    continue
                try:
                    rates.setdefault(pair, []).append(_rate(each, seconds, seed))
                except EnvironmentFault as fault:
                    broken[pair] = str(fault)
    finally:
        for each in opened.values():
            each.close()
    return [
        Speed(
            form=pair[0], lanes=pair[1], rates=() if pair in broken else tuple(rates[pair]), reason=broken.get(pair, "")
        )
        for pair in opened
    ]


def ratios(speed: Speed, speeds: Sequence[Speed]) -> list[float]:
    """Returns how many times as fast as sync with as many lanes it was, round by round; empty where unknown."""
    base = next((other for other in speeds if (other.form, other.lanes) == ("sync", speed.lanes)), None)
    if base is None or not base.rates or not speed.rates:
        return []
    return [own / sync for own, sync in zip(speed.rates, base.rates, strict=True)]


def best(speeds: Sequence[Speed]) -> Speed | None:
    """Returns the fewest lanes, and of those the simplest form, that come near the best rate; None without any."""
    sound = [speed for speed in speeds if speed.rates]
    if not sound:
        return None
    top = max(speed.rate for speed in sound)
    near = [speed for speed in sound if speed.rate >= _NEAR * top]
    return min(near, key=lambda speed: (speed.lanes, ("sync", "vector_entry_point", "async").index(speed.form)))


def _rate(lanes: Lanes, seconds: float, seed: int) -> float:
    """Returns transitions a second; rows on which a lane is reset count as time, not as transitions."""
    drawn = actions_of(lanes.action_space, _BLOCK * lanes.num_lanes, seed)
    blocks: Any = np.asarray(drawn, dtype=lanes.action_space.dtype)
    blocks = blocks.reshape(_BLOCK, lanes.num_lanes, *(lanes.action_space.shape or ()))
    transitions, ended, row = 0, np.zeros(lanes.num_lanes, bool), 0
    lanes.step(blocks[-1])  # what is made on first use is not measured
    begun = time.perf_counter()
    while (passed := time.perf_counter() - begun) < seconds or row == 0:
        transitions += lanes.num_lanes - int(ended.sum())
        _, _, terminated, truncated = lanes.step(blocks[row % _BLOCK])
        ended, row = terminated | truncated, row + 1
    return transitions / passed
