"""Whether a control variate lowers the variance where it is used."""

from __future__ import annotations

from typing import Annotated, final

from pgkit.core import score
from pgkit.core.jackknife import spread
from pgkit.diagnostics.comparison import Finding
from pgkit.diagnostics.gradients import Unanswered, affordable, gradients_in_use, obstacle
from pgkit.diagnostics.panel import Window
from pgkit.errors import UsageError
from pgkit.options import Count, Range
from pgkit.snapshot import Facts, Snapshot
from pgkit.types import Metrics


@final
class ControlVariate:
    """The variance of the gradient in use over that of the same coefficients without its control variate.

    The two come from the same trajectories, pooled over the last `window` measurements; below 1 the control variate
    helps. The interval is jackknifed and comes with 64 trajectories or more. Without it the coefficients are signal
    less the baseline in use; for `all_action`, which has none, that is what it replaces, and the ratio is its gain in
    variance and says nothing of its bias.
    """

    tags = (
        "control_variate/variance_ratio",
        "control_variate/variance_ratio_low",
        "control_variate/variance_ratio_high",
    )

    def __init__(
        self,
        *,
        facts: Facts,
        every: Count = 5,
        window: Count = 20,
        max_columns: Annotated[int, Range(least=8)] | None = 64,
    ) -> None:
        if not facts.controlled:
            raise UsageError(
                "diagnostics: control_variate without one, expected estimator.control_variate=optimal_layer or "
                "optimal_parameter, or estimator=q_prop, factorised, all_action, svg or svg0"
            )
        self.every, self.max_columns = every, max_columns
        self._window = Window(window)
        self._unanswered = Unanswered()

    def measure(self, snapshot: Snapshot) -> Metrics:
        """Returns the ratio and its interval."""
        reason = obstacle(snapshot)
        if reason is not None:
            return self._unanswered(self.tags, reason)
        columns = snapshot.coefficients.shape[1]
        measured = min(columns, self.max_columns or columns, affordable(snapshot, num_vectors=3))
        factors = snapshot.factors
        assert factors.scale is not None
        plain = score.coefficients(factors.signal, snapshot.baseline, factors.scale)[:, :measured]
        batch = {}
        for name, gradients in (
            ("with", gradients_in_use(snapshot, measured)),
            ("without", snapshot.scores.per_sample(plain)),
        ):
            found = spread(gradients, num_samples=columns)
            batch[name] = Finding(spread=found, per_sample_variance=float(found.variance[0]) * columns, inner=0.0)
        self._window.add(batch)
        ratio = self._window.variance_ratio("with", "without")
        return dict(zip(self.tags, (ratio.point, ratio.low, ratio.high), strict=True))
