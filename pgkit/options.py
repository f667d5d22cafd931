"""Option types with ranges: the annotations of a constructor are the schema of its node in the configuration.

Nothing here imports torch, so that a mistake on the command line is answered before the heavy imports.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any


@dataclass(frozen=True, kw_only=True)
class Range:
    """An interval of accepted numbers; `above` and `below` exclude their end, `least` and `most` include it."""

    least: float = -math.inf
    most: float = math.inf
    above: float = -math.inf
    below: float = math.inf

    def __contains__(self, value: float) -> bool:
        return self.least <= value <= self.most and self.above < value < self.below

    def __str__(self) -> str:
        bounds = (("at least", self.least), ("at most", self.most), ("above", self.above), ("below", self.below))
        return " and ".join(f"{word} {bound:g}" for word, bound in bounds if math.isfinite(bound))


@dataclass(frozen=True, kw_only=True)
class Text:
    """Accepted strings: those that match `pattern` whole; `words` say which they are."""

    pattern: str
    words: str

    def __contains__(self, value: str) -> bool:
        return re.fullmatch(self.pattern, value) is not None

    def __str__(self) -> str:
        return self.words


Count = Annotated[int, Range(least=1)]
Index = Annotated[int, Range(least=0)]
Fraction = Annotated[float, Range(least=0, most=1)]
Positive = Annotated[float, Range(above=0)]
NonNegative = Annotated[float, Range(least=0)]
Device = Annotated[str, Text(pattern="auto|cpu|cuda(:[0-9]{1,3})?", words="out of auto, cpu, cuda and cuda:K")]

Part = Annotated[Callable[..., Any], "a class and its keywords"]
"""A node inside a node: what a constructor gets is a function that makes the object."""
