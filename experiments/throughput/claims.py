"""What pgkit asks of itself, as ratios."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median

from contestants import Rates

Rounds = list[dict[str, Rates]]

RATIOS: tuple[tuple[str, str, float | None, str], ...] = (
    ("bare", "raw lanes", 0.5, ""),
    ("bare", "raw gymnasium", 0.5, ""),
    ("whole", "raw lanes", 0.5, ""),
    ("whole", "raw gymnasium", 0.5, ""),
    ("whole", "tianshou reinforce", 8, ""),
    ("wide", "sb3 ppo", 40, ""),
    ("a2c", "sb3 a2c", 3, ""),
    ("ppo", "sb3 ppo", 3, ", aim 5"),
    ("ppo", "sbx ppo", 2.5, ""),
    ("ppo", "tianshou ppo", 2.5, ""),
    ("ppo", "torchrl ppo", 2.5, ""),
    ("ppo general", "sb3 ppo", 1.5, ""),
    ("ppo 64", "sb3 ppo", 7, ", aim 12"),
    ("ppo wide", "sb3 ppo", 50, ""),
    ("cheetah", "raw cheetah", 0.65, ""),
    ("sb3 cheetah", "raw cheetah", None, ""),
)
"""Who, beside whom, at least how many times as fast, and what beyond that is aimed at; None: only to compare."""


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A value in each round, by the wall clock and by the processor's, and the bound that it is held to, if any."""

    name: str
    wall: list[float]
    cpu: list[float]
    bound: float | None
    at_least: bool = True
    aim: str = ""

    def row(self) -> str:
        """Returns it as a row of a Markdown table; the wall clock decides."""
        clocks = f"{spread(self.wall)} | {spread(self.cpu) if self.cpu else ''}"
        if self.bound is None:
            return f"| {self.name} | {clocks} |  |  |"
        holds = median(self.wall) >= self.bound if self.at_least else median(self.wall) <= self.bound
        words = "at least" if self.at_least else "at most"
        return f"| {self.name} | {clocks} | {words} {self.bound:g}{self.aim} | {'yes' if holds else '**no**'} |"


def claims(rounds: Rounds) -> list[Claim]:
    """Returns all claims about what was measured."""
    present = rounds[0]
    found = [
        Claim(name=f"{name} / {base}", **ratios(rounds, name, base), bound=bound, aim=aim)
        for name, base, bound, aim in RATIOS
        if name in present and base in present
    ]
    for name in ("whole", "preset", "wide", "ppo"):
        own = [share for rates in rounds if name in rates and (share := rates[name].diagnostics) is not None]
        if own:
            found.append(
                Claim(name=f"diagnostics' share of {name}, its own", wall=own, cpu=[], bound=0.1, at_least=False)
            )
    if {"diagnosed", "bare"} <= set(present):
        lost = {clock: [1 - ratio for ratio in each] for clock, each in ratios(rounds, "diagnosed", "bare").items()}
        found.append(Claim(name="1 - diagnosed / bare", **lost, bound=0.1, at_least=False))
    return found


def ratios(rounds: Rounds, name: str, base: str) -> dict[str, list[float]]:
    """Returns the ratio of two rates in each round, by each clock."""
    return {
        clock: [getattr(rates[name], clock) / getattr(rates[base], clock) for rates in rounds]
        for clock in ("wall", "cpu")
    }


def spread(values: list[float], digits: int = 2) -> str:
    """Returns the median with the smallest and the largest value."""
    return f"{median(values):.{digits}f} [{min(values):.{digits}f}, {max(values):.{digits}f}]"
