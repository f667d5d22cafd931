"""When the instruments are due, and what they are shown."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any, final

from torch import Tensor, nn

from pgkit.core.action_terms import RowTerms
from pgkit.core.module_state import overwritten
from pgkit.core.scores import Scores
from pgkit.experience import Weights
from pgkit.objectives import Update
from pgkit.protocols import Estimator
from pgkit.rl.factors import LogProbability, scores_of
from pgkit.snapshot import Diagnostic, Previewing, Snapshot
from pgkit.types import Coupling, Factors, Metrics, Trajectories


@final
class Instruments:
    """Keeps the policy that the gradient was taken at, and shows each instrument a snapshot when it is due.

    Instruments read copies and take gradients of their own, so that parameters are the same, bit for bit, whatever is
    measured.
    """

    def __init__(
        self,
        diagnostics: Mapping[str, Diagnostic],
        policy: Any,
        *,
        estimator: Estimator,
        coupling: Coupling,
        update: Update,
        weights: Weights | None = None,
        groups_apart: bool = False,
    ) -> None:
        self._diagnostics = dict(diagnostics)
        self._estimator = estimator
        self._before = copy.deepcopy(policy)
        self._log_probability, self._rows = LogProbability(self._before), RowTerms(self._before, estimator.terms)
        self._coupling, self._groups_apart = coupling, groups_apart
        self._update, self._weights = update, weights
        self._preview: Callable[[Tensor], Tensor] | None = None
        self._due: list[Diagnostic] = []

    def before(self, update: int, policy: nn.Module) -> None:
        """Finds what is due at this update, counted from 0, and remembers the policy as it is."""
        self._due = [diagnostic for diagnostic in self._diagnostics.values() if update % diagnostic.every == 0]
        if self._due:
            overwritten(self._before, policy)
        needed = any(getattr(diagnostic, "needs_preview", False) for diagnostic in self._due)
        self._preview = self._update.preview() if needed and isinstance(self._update, Previewing) else None

    def after(
        self,
        trajectories: Trajectories,
        factors: Factors,
        baseline: Tensor,
        coefficients: Tensor,
        policy: Any,
    ) -> Metrics:
        """Returns what the due instruments say about the update that was made since `before`."""
        if not self._due:
            return {}
        scores = scores_of(self._log_probability, trajectories, factors.mask)
        rows: Scores | None = None
        if coefficients.ndim > 2:  # several terms a row: they go into the rows, each of which then counts once
            rows = Scores(self._rows, (factors.contexts, factors.samples, coefficients), factors.mask)
            coefficients = factors.mask.to(coefficients.dtype)
        snapshot = Snapshot(
            trajectories=trajectories,
            factors=factors,
            baseline=baseline,
            coefficients=coefficients,
            estimator=self._estimator,
            # Columns that began alike are no independent draws.
            coupling=self._coupling if factors.group is None else "batch",
            before=self._before,
            policy=policy,
            scores=scores,
            rows=rows,
            preview=self._preview_of_columns(factors),
            reweighted=self._reweighted(trajectories),
            groups=factors.group if self._groups_apart else None,
        )
        metrics: Metrics = {}
        for diagnostic in self._due:
            metrics |= diagnostic.measure(snapshot)
        return metrics

    def _reweighted(self, trajectories: Trajectories) -> Callable[[Tensor], Tensor] | None:
        """Returns the log weights of some columns by themselves as a function of their numbers."""
        weights = self._weights
        if weights is None:
            return None
        return lambda columns: weights.log_weight(self._before, trajectories.columns(columns))

    def _preview_of_columns(self, factors: Factors) -> Callable[[Tensor], Tensor] | None:
        """Returns the update's step as a function of the mean gradient over columns, whatever the update averages."""
        preview = self._preview
        if preview is None or self._update.average == "columns":
            return preview
        share = factors.mask.shape[1] / max(int(factors.mask.sum()), 1)
        return lambda gradient: preview(share * gradient)
