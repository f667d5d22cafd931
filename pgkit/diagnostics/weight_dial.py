"""Where weights might be cut, and how many batches might be used: what either does to the error of the gradient."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import final

import torch
from torch import Tensor

from pgkit.core.densities import target_log_prob
from pgkit.core.strata import Sums, numbered, share_of_each
from pgkit.core.trajectory_weights import action_log_ratio
from pgkit.diagnostics.gradients import Unanswered, affordable, chunks_of, obstacle
from pgkit.diagnostics.squared_error import Setting, SquaredErrors
from pgkit.diagnostics.weights import unbiased_log_weight
from pgkit.errors import UsageError
from pgkit.snapshot import Facts, Snapshot
from pgkit.types import Metrics

CURRENT = "clip_current"
"""The name of the weights in use, as they are; its number is 0."""


@final
class WeightDial:
    """The mean squared error of the gradient for several clips of the weights and several windows of batches.

    An estimate is a sum over columns, ĝ = Σ_i a_i u_i, with u_i the gradient of column i without its weight and a_i its
    weight over the number of columns that are used: min(w_i, c) / n for a clip, 0 for columns that are too old for a
    window. Truth is what the newest batch says alone under unbiased weights, a sum of the same form over columns that
    the candidate uses too; so the bias is that of Σ_i d_i, d_i the difference of the two contributions of column i, and
    its square is |Σ_i d_i|² − Σ_k n_k S_k²(d), with S_k² the variance inside the columns of policy and age k. The
    variance of the mean is Σ_k n_k S_k²(a u). Signal and baseline are those in use, whatever is clipped or left out.
    Bias: none for columns that are independent given who acted; what a baseline made of the other columns couples
    leaves out a share of order 1/N, and that reused batches steered the policy is not seen.
    """

    def __init__(
        self,
        *,
        facts: Facts,
        clips: Sequence[float],
        windows: Sequence[int] | None,
        pooled: int,
        max_columns: int | None,
    ) -> None:
        if windows and max(windows) > facts.batches:
            raise UsageError(
                f"diagnostics.dial.windows: {max(windows)}, expected at most the {facts.batches} of reuse.batches"
            )
        self._kind, self._max_columns = facts.weights, max_columns
        windows = windows if windows is not None else range(1, facts.batches + 1) if facts.batches > 1 else ()
        weighted = facts.weights is not None
        clipped = {CURRENT: 0.0} | {f"clip_{clip:g}": clip for clip in sorted(clips)} if clips and weighted else {}
        held = {f"window_{size}": float(size) for size in sorted(windows)} if weighted else {}
        self._errors = [
            SquaredErrors(knob, settings, window=pooled)
            for knob, settings in (("clip", clipped), ("window", held))
            if settings
        ]
        self.tags = tuple(tag for errors in self._errors for tag in errors.tags)
        self._unanswered = Unanswered()

    def measure(self, snapshot: Snapshot) -> Metrics:
        """Returns error, squared bias and variance of every clip and window, and those of least error; pooled."""
        if not self.tags:
            return {}
        reason = self._obstacle(snapshot)
        if reason is not None:
            return self._unanswered(self.tags, reason)
        measured, found = self.settings(snapshot)
        metrics: Metrics = {}
        for errors in self._errors:
            metrics |= errors.add(measured, [found[name] for name in errors.settings])
        return metrics

    def settings(self, snapshot: Snapshot) -> tuple[int, Mapping[str, Setting]]:
        """Returns the number of columns that were measured, and what they say about every clip and window."""
        stratum = _strata(snapshot)
        counts = torch.bincount(stratum)
        index = share_of_each(stratum, min(self._most(snapshot), len(stratum)))
        gradients = torch.cat([chunk for _, chunk in chunks_of(snapshot, index)]).double()
        in_use = snapshot.factors.log_weight[0].double()
        truth = (_newest(snapshot) - in_use).exp()[index, None] * gradients

        def setting(share: Tensor) -> Setting:
            own = (share.log() - in_use).exp()[index, None] * gradients
            mean, difference = (Sums.of([(stratum[index], each)], counts).moments() for each in (own, own - truth))
            return Setting(variance_of_mean=mean.variance_of_mean, bias_squared=difference.signal)

        names = {name: number for errors in self._errors for name, number in errors.settings.items()}
        return len(index), {name: setting(_weights(snapshot, name, number)) for name, number in names.items()}

    def _most(self, snapshot: Snapshot) -> int:
        most = affordable(snapshot, num_vectors=4)
        return most if self._max_columns is None else min(most, self._max_columns)

    def _obstacle(self, snapshot: Snapshot) -> str | None:
        log_weight = snapshot.factors.log_weight
        if self._kind == "step" or not torch.equal(log_weight, log_weight[:1].expand_as(log_weight)):
            return "clip and window are judged for weights of whole trajectories alone, as weights=balance"
        if int(torch.bincount(_strata(snapshot)).min()) < 2:
            return "a policy has a single column of its age, which has no variance"
        if snapshot.estimator.controlled and self._most(snapshot) < log_weight.shape[1]:
            return "a control variate needs all columns measured (diagnostics.dial.max_columns)"
        return obstacle(snapshot)


def _age(snapshot: Snapshot) -> Tensor:
    batch = snapshot.trajectories
    return torch.zeros_like(batch.behavior_id) if batch.age is None else batch.age


def _strata(snapshot: Snapshot) -> Tensor:
    return numbered(snapshot.trajectories.behavior_id, _age(snapshot))


def _weights(snapshot: Snapshot, name: str, number: float) -> Tensor:
    """Returns n times what every column's gradient without its weight counts in an estimate, `[N]`, double."""
    weight = snapshot.factors.log_weight[0].double().exp()
    if not name.startswith("window"):
        return weight if name == CURRENT else weight.clamp(max=number)
    assert snapshot.reweighted is not None
    young = (_age(snapshot) < number).nonzero().squeeze(-1)
    return _spread_out(snapshot.reweighted(young)[0], young, len(weight)).exp()


def _newest(snapshot: Snapshot) -> Tensor:
    """Returns the log of n times what every column counts in the newest batch's unbiased estimate, `[N]`, double."""
    newest = (_age(snapshot) == 0).nonzero().squeeze(-1)
    batch = snapshot.trajectories.columns(newest)
    ratio = action_log_ratio(target_log_prob(snapshot.before, batch), batch.behavior_log_prob, batch.mask)
    return _spread_out(unbiased_log_weight(ratio, batch), newest, snapshot.trajectories.num_columns)


def _spread_out(log_weight: Tensor, columns: Tensor, number: int) -> Tensor:
    """Returns the log weights of some columns among all, −inf elsewhere, each for a mean over all of them."""
    result = log_weight.new_full((number,), -torch.inf, dtype=torch.float64)
    result[columns] = log_weight.double() + math.log(number / len(columns))
    return result
