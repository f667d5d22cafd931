"""What one batch says about many estimators: per-column gradients of each, and how they scatter.

Nearly every candidate's gradient is a sum of a few basis gradients, Σ_t c_t s_t for c a signal, 1, the critic's value
or a leave-one-out mean, so that one pass over the scores answers for all of them. One that sums over actions has rows
of its own, and one pass over these.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from pgkit.core import gls, optimal_baseline, score
from pgkit.core.action_terms import RowTerms, all_action_coefficients, every_action
from pgkit.core.jackknife import Spread, pair_spread, spread
from pgkit.core.scores import Scores
from pgkit.diagnostics.candidates import Candidate, signal_of
from pgkit.diagnostics.gradients import LEAST_COLUMNS, affordable, cross_gradients, gradients_in_use, groups_of
from pgkit.snapshot import Snapshot
from pgkit.types import Coupling

CURRENT = "current"
"""The name of the estimator in use."""


@final
@dataclass(frozen=True, kw_only=True)
class Finding:
    """What a batch says about one estimator.

    `inner` estimates ⟨E g, E r⟩ without bias for independent columns, r being the estimator in use; it takes r from
    the other columns, so that noise which both share does not count as agreement.
    """

    spread: Spread
    per_sample_variance: float
    inner: float


@final
class Comparison:
    """The per-column gradients of the candidates on the first columns of one batch, [n, P] at a time."""

    def __init__(
        self, snapshot: Snapshot, candidates: Sequence[Candidate], *, gamma: float, max_columns: int | None
    ) -> None:
        self.snapshot, self.candidates = snapshot, candidates
        self.columns = snapshot.coefficients.shape[1]
        linear = [each for each in candidates if not each.sums_actions]
        most = min(self.columns, max_columns or self.columns)
        self._signals: dict[str, Tensor] = {}
        vectors = self._basis(linear, gamma, slice(0, most))
        self.measured = min(most, affordable(snapshot, len(vectors) + 4))
        stacked = snapshot.scores.stacked(torch.stack([each[:, : self.measured] for each in vectors.values()]))
        self._gradients = dict(zip(vectors, stacked, strict=True))

    def current(self) -> Tensor:
        """Returns the gradients of the estimator in use, `[n, P]`."""
        return gradients_in_use(self.snapshot, self.measured)

    def gradients(self, each: Candidate) -> Tensor:
        """Returns the gradients of a candidate, `[n, P]`."""
        if each.sums_actions:
            return self._of_actions()
        base = self._gradients[f"signal {each.name}"]
        reference = each.reference
        if reference == "value":
            return base - self._gradients["values"]
        if reference in ("mean", "leave_one_out", "optimal_time"):
            return base - self._gradients[f"{reference} {each.name}"]
        if reference == "zero":
            return base
        ones = self._gradients["total ones" if each.credit == "total" else "ones"]
        if reference == "optimal":
            return base - optimal_baseline.cross_fitted(base, ones) * ones
        if reference == "optimal_parameter":
            return base - optimal_baseline.cross_fitted_parameter(base, ones) * ones
        if reference == "optimal_layer":
            layout = self.snapshot.scores.layout
            return base - optimal_baseline.cross_fitted_layer(base, ones, layout) * ones
        return gls.less_fitted(base, torch.stack([ones, self._gradients["values"]]))

    def signal(self, each: Candidate) -> Tensor:
        """Returns the signal of a candidate that sums over no actions, `[T, n]`."""
        return self._signals[each.name]

    def _of_actions(self) -> Tensor:
        """Returns the gradients `[n, P]` of the estimator that sums over all actions."""
        factors, policy = self.snapshot.factors, self.snapshot.before
        quality, probability, scale = factors.action_values, factors.action_probabilities, factors.scale
        assert quality is not None and probability is not None and scale is not None
        coefficients = all_action_coefficients(quality, probability, scale)
        rows = Scores(RowTerms(policy, every_action), (factors.contexts, factors.samples, coefficients), factors.mask)
        return rows.per_sample(factors.mask[:, : self.measured].to(coefficients.dtype))

    def _basis(self, candidates: Sequence[Candidate], gamma: float, first: slice) -> Mapping[str, Tensor]:
        """Returns the coefficient vectors `[T, n]` whose gradients the candidates are made of, by name.

        They are those of the `first` columns alone, as are the signals it keeps, though other columns may enter them.
        """
        factors = self.snapshot.factors
        assert factors.scale is not None
        vectors = {"ones": factors.scale[:, first]}
        for each in candidates:
            # The whole return carries γ^t itself.
            whole = score.scale(factors.log_weight, factors.mask) if each.credit == "total" else factors.scale
            signal, scale = signal_of(each, self.snapshot, gamma=gamma), whole[:, first]
            self._signals[each.name] = signal[:, first].clone()
            vectors[f"signal {each.name}"] = signal[:, first] * scale
            if each.credit == "total":
                vectors["total ones"] = scale
            if each.reference in ("value", "gls"):
                assert factors.values is not None
                vectors["values"] = factors.values[:-1, first] * factors.scale[:, first]
            if each.reference == "mean":
                outcomes = torch.where(factors.mask, signal, 0.0)
                vectors[f"mean {each.name}"] = outcomes.mean(dim=1, keepdim=True) * scale
            if each.reference == "optimal_time":
                scores = self.snapshot.scores
                products = whole * scores.step_products(scores.per_sample(signal * whole))
                squares = whole.square() * scores.step_squares()
                fitted = optimal_baseline.cross_fitted_time(products, squares)
                vectors[f"optimal_time {each.name}"] = fitted[:, first] * scale
            if each.reference == "leave_one_out":
                reference = score.leave_one_out(signal, factors.mask, factors.strata)
                vectors[f"leave_one_out {each.name}"] = reference[:, first] * scale
        return vectors


def findings(comparison: Comparison, *, group: int) -> dict[str, Finding]:
    """Returns what a batch says about the estimator in use and the candidates, by name; nothing of those it cannot."""
    snapshot, reference = comparison.snapshot, comparison.current()
    groups = groups_of(comparison.measured, group, snapshot.scores.num_parameters)
    pairs: list[tuple[Tensor, Spread]] = []

    def of_pairs(signal: Tensor) -> Spread:
        """Returns the spread of leave-one-out on a signal, once for every signal."""
        seen = signal[:, : comparison.measured]
        for known, found in pairs:
            if torch.equal(known, seen):
                return found
        found = pair_spread(list(cross_gradients(snapshot, signal, groups)), num_samples=comparison.columns)
        pairs.append((seen, found))
        return found

    def everyone() -> Iterator[tuple[str, Tensor, Coupling, Candidate | None]]:
        yield CURRENT, reference, snapshot.coupling, None
        for each in comparison.candidates:
            yield each.name, comparison.gradients(each), _coupling(each, snapshot), each

    result: dict[str, Finding] = {}
    for name, gradients, coupling, each in everyone():
        if comparison.measured < LEAST_COLUMNS[coupling]:
            continue
        if coupling == "pairwise":
            # With γ^t or weights in the scale the kernel stays that of differences; cross gradients carry the scale.
            scattered = of_pairs(snapshot.factors.signal if each is None else comparison.signal(each))
            own = float(gradients.square().sum()) / comparison.measured - float(scattered.signal[0])
        else:
            scattered = spread(gradients, num_samples=comparison.columns)
            own = float(scattered.variance[0]) * comparison.columns
        result[name] = Finding(spread=scattered, per_sample_variance=own, inner=_inner_of_means(gradients, reference))
    return result


def _inner_of_means(first: Tensor, second: Tensor) -> float:
    """Returns the mean of ⟨g_i, r_j⟩ over all pairs of different columns; both `[n, P]`."""
    n = len(first)
    together = float(first.sum(dim=0).double() @ second.sum(dim=0).double())
    return (together - float((first * second).sum())) / (n * (n - 1))


def _coupling(each: Candidate, snapshot: Snapshot) -> Coupling:
    # With several laws leave-one-out takes the mean of each, and is no U-statistic.
    leave_one_out: Coupling = "pairwise" if snapshot.factors.strata is None else "cross_fitted"
    known: Mapping[str, Coupling] = {
        "zero": "independent", "value": "independent", "leave_one_out": leave_one_out, "mean": "batch"
    }  # fmt: skip
    return known.get(each.reference, "cross_fitted")
