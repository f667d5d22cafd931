"""When the instruments are due, and what they are shown."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, final

import torch
from torch import Tensor, nn

from pgkit.protocols import Estimator
from pgkit.rl.factors import LogProbability, scores_of
from pgkit.snapshot import Diagnostic, Snapshot
from pgkit.types import Coupling, Factors, Metrics, Trajectories


@final
class Instruments:
    """Keeps the policy that the gradient was taken at, and shows each instrument a snapshot when it is due.

    Instruments read copies and take gradients of their own, so that parameters are the same, bit for bit, whatever is
    measured.
    """

    def __init__(
        self, diagnostics: Mapping[str, Diagnostic], policy: Any, *, estimator: Estimator, coupling: Coupling
    ) -> None:
        self._diagnostics = dict(diagnostics)
        self._estimator = estimator
        self._before = copy.deepcopy(policy)
        self._log_probability = LogProbability(self._before)
        self._coupling = coupling
        self._due: list[Diagnostic] = []

    def before(self, update: int, policy: nn.Module) -> None:
        """Finds what is due at this update, counted from 0, and remembers the policy as it is."""
        self._due = [diagnostic for diagnostic in self._diagnostics.values() if update % diagnostic.every == 0]
        if self._due:
            with torch.no_grad():
                torch._foreach_copy_(_state(self._before), _state(policy))

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
        snapshot = Snapshot(
            trajectories=trajectories,
            factors=factors,
            baseline=baseline,
            coefficients=coefficients,
            estimator=self._estimator,
            coupling=self._coupling,
            before=self._before,
            policy=policy,
            scores=scores_of(self._log_probability, trajectories, factors.mask),
        )
        metrics: Metrics = {}
        for diagnostic in self._due:
            metrics |= diagnostic.measure(snapshot)
        return metrics


def _state(module: nn.Module) -> list[Tensor]:
    return [*module.parameters(), *module.buffers()]
