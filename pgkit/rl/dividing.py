"""An objective whose gradients several processes share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import final

import torch
from torch import Tensor

from pgkit.core.division import Division
from pgkit.objectives import Ascent, ObjectiveValue, RowTerms, ScoredRows
from pgkit.rl.objective import PolicyObjective


@final
class Divided:
    """The objective of a batch that every process holds: each differentiates its piece of the rows, all get the sum.

    A policy with a memory reads its piece by columns. What rows say of the policy is told to all before it is used, so
    that whatever an update decides by it is decided alike. Gradients too small to pay are made everywhere, as are
    `terms`, which are differentiated elsewhere, and what only looks forward.
    """

    def __init__(self, whole: PolicyObjective, division: Division) -> None:
        self._whole, self._division = whole, division
        self.trajectories, self.factors, self.coefficients = whole.trajectories, whole.factors, whole.coefficients
        self.valid, self.reads_columns = whole.valid, whole.reads_columns
        self._parameters = sum(each.numel() for each in whole.policy.parameters() if each.requires_grad)

    def __call__(self, rows: Tensor | None = None) -> ObjectiveValue:
        """Returns the objective on some rows."""
        return self._whole(rows)

    def ascent(self) -> Ascent:
        """Returns the gradient of the whole."""
        own = self._own(self.valid)
        if own is None:
            return self._whole.ascent()
        found = self._whole.ascent(self.valid[own])
        figures = [torch.as_tensor(each).to(found.gradient).reshape(1) for each in (found.value, found.entropy)]
        total = self._division.total(torch.cat([found.gradient, *figures]))
        value, entropy = total[-2:].tolist() if total.device.type == "cpu" else total[-2:]
        return Ascent(gradient=total[:-2], value=value, entropy=entropy)

    def terms(self, rows: Tensor | None = None) -> RowTerms:
        """Returns the rows of the objective one by one."""
        return self._whole.terms(rows)

    def scored(self, rows: Tensor) -> ScoredRows:
        """Returns flat rows as the policy sees them now."""
        own = self._own(rows)
        if own is None:
            return self._whole.scored(rows)
        found = self._whole.scored(rows[own])
        said = found.log_prob.new_zeros(2, len(rows))
        said[0, own], said[1, own] = found.log_prob, found.entropy
        log_prob, entropy = self._division.total(said)
        return replace(
            found,
            log_prob=log_prob,
            entropy=entropy,
            behavior_log_prob=self.trajectories.behavior_log_prob.reshape(-1)[rows],
            index=rows,
            num_samples=found.num_samples * len(rows) / len(found.index),
            gradient=lambda coefficients, bonus: self._division.total(found.gradient(coefficients[own], bonus)),
        )

    def laws(self) -> Tensor:
        """Returns the parameters of the action law at every valid row."""
        return self._whole.laws()

    def divergence(self, before: Tensor) -> Tensor:
        """Returns Σ_t KL(π_before ‖ π) of each column."""
        return self._whole.divergence(before)

    def divergences(self, before: Tensor, parameters: Tensor) -> Tensor:
        """Returns KL(π_before ‖ π) of single rows."""
        return self._whole.divergences(before, parameters)

    def curvature(self, rows: Tensor | None = None) -> Callable[[Tensor], Tensor]:
        """Returns v → F v, a mean over rows."""
        taken = self.valid if rows is None else rows
        own = self._own(taken)
        if own is None:
            return self._whole.curvature(rows)
        mine = taken[own]
        product, share = self._whole.curvature(mine), len(mine) / len(taken)
        return lambda vector: self._division.total(share * product(vector))

    def _own(self, rows: Tensor) -> slice | Tensor | None:
        """Returns the places in `rows` that this process differentiates; None where it does all of them."""
        if not self._division.pays(len(rows), self._parameters):
            return None
        if not self.reads_columns:
            return self._division.piece(len(rows))
        column = rows % self.trajectories.num_columns
        columns = column.unique()
        piece = self._division.piece(len(columns))
        return None if piece is None else torch.isin(column, columns[piece]).nonzero().squeeze(-1)
