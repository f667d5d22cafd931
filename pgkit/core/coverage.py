"""How often intervals that are meant to hold the truth in 95 % of cases do so, as far as that was measured.

Source: experiments/baseline_variance, `table.json`: three fixed policies on CartPole, single batches of 64, 256 and
1,024 trajectories against the figure of all 64,000; means over estimators.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

LEVEL = 0.95
"""The nominal coverage of every interval."""
BORNE_OUT = 0.90
"""Measured coverage, a mean over estimators, without which the nominal one is not spoken of."""


@final
@dataclass(frozen=True, kw_only=True)
class Coverage:
    """Shares of batches whose interval held the truth, each in its range over batches of 64 to 1,024 trajectories.

    `early` is at an untrained and a half trained policy, `solved` near the top; `worst` is that of a single estimator.
    """

    early: tuple[float, float]
    solved: tuple[float, float]
    worst: float

    @property
    def borne_out(self) -> bool:
        """Whether the nominal coverage may be printed."""
        return min(*self.early, *self.solved) >= BORNE_OUT

    @property
    def short(self) -> str:
        """What stands beside an interval: the nominal coverage, or what it comes to on average."""
        if self.borne_out:
            return f"{LEVEL:.0%}".replace("%", " %")
        low, high = min(*self.early, *self.solved), max(*self.early, *self.solved)
        return _range(low, high)

    @property
    def long(self) -> str:
        """What an interval holds, as the end of a sentence that begins with it."""
        if self.borne_out:
            low = min(*self.early, *self.solved)
            return f"covers {self.short} (measured: {100 * low:.0f} % or more, {100 * self.worst:.0f} % at worst)"
        return (
            f"covers {_range(*self.early)} before, {_range(*self.solved)} near the top of training, and "
            f"{100 * self.worst:.0f} % at worst, as measured on CartPole"
        )


def _range(low: float, high: float) -> str:
    return f"{100 * low:.0f} to {100 * high:.0f} %"


RATIO = Coverage(early=(0.98, 1.00), solved=(0.94, 0.98), worst=0.85)
"""Of the ratio of two variances."""
SNR = Coverage(early=(0.91, 0.96), solved=(0.87, 0.92), worst=0.76)
"""Of the signal-to-noise ratio, and of the noise scale, which is its inverse."""
