"""How good the baseline is at predicting what it is subtracted from."""

from __future__ import annotations

from typing import final

from pgkit.core.moments import explained_variance
from pgkit.options import Count
from pgkit.snapshot import Snapshot
from pgkit.types import Metrics


@final
class ExplainedVariance:
    """1 − Var(signal − baseline) / Var(signal) over the valid factors; null where the signal does not vary.

    1 is a perfect prediction, 0 as good as a constant, below 0 worse. It says little about the gradient's variance,
    in which factors with large scores weigh more.
    """

    tags = ("baseline/explained_variance",)

    def __init__(self, *, every: Count = 1) -> None:
        self.every = every

    def measure(self, snapshot: Snapshot) -> Metrics:
        """Returns the explained variance of the baseline that was used."""
        mask = snapshot.factors.mask
        result = explained_variance(snapshot.baseline[mask], snapshot.factors.signal[mask])
        return {"baseline/explained_variance": result}
