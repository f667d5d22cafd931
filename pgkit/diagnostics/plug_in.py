"""Parts of a variance from the batch itself: conditional expectations by fits on the critic's values, and more."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor

from pgkit.core.decomposition import Pair, Parts, regress, step_parts, trajectory_parts
from pgkit.core.recursions import linear_scan
from pgkit.diagnostics.candidates import candidate, signal_of
from pgkit.diagnostics.features import ALWAYS, MOST, described_actions, products, state_features
from pgkit.diagnostics.gradients import affordable
from pgkit.snapshot import Snapshot

COLUMNS_A_FEATURE, ROWS_A_FEATURE = 8, 20
"""Data without which a feature is not fitted: outcomes of one column hang together, its errors of one step do not."""


@final
class Fits:
    """Values and advantages of a signal on the first columns of a batch, by fits to its even and to its odd columns.

    The critic's values are corrected by a fit to the signal, on few features; advantages are fitted to the errors of
    one step, which are nearly independent, on more.
    Shapes: `[T, n]`, features `[T, n, D]`; a pair holds what either half says about all rows.
    """

    def __init__(self, snapshot: Snapshot, signal: Tensor, *, gamma: float, num_columns: int) -> None:
        factors, batch, used = snapshot.factors, snapshot.trajectories, slice(0, num_columns)
        assert factors.scale is not None and factors.values is not None and factors.rewards is not None
        self.mask = factors.mask[:, used]
        self.scale = torch.where(self.mask, factors.scale[:, used].double(), 0.0)
        self.baseline = snapshot.baseline[:, used].double()
        self.signal = signal[:, used].double()
        self.halves = _halves(self.mask)
        whole = _coarse(snapshot, self.mask)[:, used]
        self.features = whole[:-1]
        described = described_actions(batch.actions[:, used])
        most = int(self.mask.sum()) // ROWS_A_FEATURE // described.shape[2]
        self.finer = state_features(snapshot, most=max(ALWAYS, most))[:-1, used]
        self.with_action = products(self.finer, described)
        self.values: list[Tensor] = []
        self.advantages: list[Tensor] = []
        rough, alive = factors.values[:, used].double(), ~batch.terminated[:, used]
        for half in self.halves:
            weights = half[self.mask]
            correction = regress(self.features[self.mask], (self.signal - rough[:-1])[self.mask], weights)
            values = rough + whole @ correction
            errors = factors.rewards[:, used].double() + gamma * alive * values[1:] - values[:-1]
            by_action = self.with_action @ regress(self.with_action[self.mask], errors[self.mask], weights)
            by_state = self.finer @ regress(self.finer[self.mask], errors[self.mask], weights)
            self.values.append(values[:-1])
            self.advantages.append(by_action - by_state)


def step_plug_in(snapshot: Snapshot, *, max_columns: int | None) -> Parts:
    """Returns the parts of (signal − baseline) ψ at one step."""
    factors, used = snapshot.factors, slice(0, max_columns)
    assert factors.scale is not None
    mask, scale = factors.mask[:, used], factors.scale[:, used].double()
    outcomes = torch.where(mask, factors.signal[:, used].double() - snapshot.baseline[:, used].double(), 0.0)
    squares = scale.square() * snapshot.scores.step_squares()[:, used].double()
    features = _coarse(snapshot, mask)[:-1, used]
    with_action = products(features, described_actions(snapshot.trajectories.actions[:, used]))[mask]
    halves = [half[mask] for half in _halves(mask)]
    # Weighted as in the variance, a fit explains no more than there is, and what a baseline removes is part of it.
    known = [with_action @ regress(with_action, outcomes[mask], half * squares[mask]) for half in halves]
    return step_parts(
        outcomes[mask],
        squares[mask],
        known=(known[0], known[1]),
        features=features[mask],
        moments=_sums(snapshot, scale * outcomes * features.movedim(2, 0)),
        halves=(halves[0], halves[1]),
        weights=torch.ones(len(halves[0]), dtype=torch.float64, device=mask.device),
    )


def trajectory_plug_in(snapshot: Snapshot, *, gamma: float, max_columns: int | None) -> Parts:
    """Returns the parts of a trajectory's g = Σ_t scale_t (G_t − b_t) ψ_t.

    With e_t = Σ_{u≤t} γ^{t−u} scale_u ψ_u an action moves the expectation of g by e_t A_t + scale_t ψ_t (V_t − b_t) and
    by what it does to the expected gradient of later steps. Summed over t the former is a combination of scores.
    """
    columns = min(snapshot.coefficients.shape[1], max_columns or snapshot.coefficients.shape[1])
    num_features = min(MOST, max(ALWAYS, columns // COLUMNS_A_FEATURE))
    count = min(columns, max(4, affordable(snapshot, 3 * num_features + 8)))
    to_go = signal_of(candidate("reward_to_go"), snapshot, gamma=gamma)
    fits = Fits(snapshot, to_go, gamma=gamma, num_columns=count)
    mask, scale = fits.mask, fits.scale
    scaled = scale[..., None] * fits.features
    following = torch.cat([scaled[1:], torch.zeros_like(scaled[:1])])  # nothing follows an end: the scale is 0 there
    by_action = scale[..., None] * fits.with_action
    coefficients = scale * (fits.signal - fits.baseline)
    later = _sums(snapshot, coefficients * scaled.cumsum(dim=0).movedim(2, 0))
    known: list[Tensor] = []
    starts: list[Tensor] = []
    for i, half in enumerate(fits.halves):
        weights, advantage = half[mask], torch.where(mask, fits.advantages[i], 0.0)
        told = linear_scan(torch.full_like(advantage, gamma), advantage) + fits.values[i] - fits.baseline
        gram = (scaled[mask].T * weights) @ scaled[mask]
        fit = torch.linalg.pinv(gram, rtol=1e-10, hermitian=True) @ later[i]  # E[later gradient | state] = scaled @ fit
        ahead = by_action @ regress(by_action[mask], following[mask], weights)
        starts.append(scaled[0] @ fit)
        known.append(_gradients(snapshot, (scale * told)[None])[0] + (ahead - scaled).sum(dim=0) @ fit + starts[i])
    odd = (torch.arange(count, device=coefficients.device) % 2).double()
    return trajectory_parts(
        _gradients(snapshot, coefficients[None])[0],
        known=(known[0], known[1]),
        starts=(starts[0], starts[1]),
        directions=_gradients(snapshot, scaled.movedim(2, 0)),
        halves=(1 - odd, odd),
        freedom=count - 1.0,
    )


def _halves(mask: Tensor) -> Pair:
    """Returns the weights of rows in the fits to even and to odd columns, `[T, n]`."""
    odd = torch.arange(mask.shape[1], device=mask.device) % 2 == 1
    return (mask & ~odd).double(), (mask & odd).double()


def _coarse(snapshot: Snapshot, mask: Tensor) -> Tensor:
    """Returns as many features of states, `[T+1, N, D]`, as the columns of a mask `[T, n]` can tell the weights of."""
    return state_features(snapshot, most=max(ALWAYS, mask.shape[1] // COLUMNS_A_FEATURE))


def _gradients(snapshot: Snapshot, coefficients: Tensor) -> Tensor:
    """Returns the gradients `[M, n, P]` of the first columns under M coefficient vectors `[M, T, n]`."""
    return snapshot.scores.stacked(coefficients.to(snapshot.coefficients.dtype)).double()


def _sums(snapshot: Snapshot, coefficients: Tensor) -> Pair:
    """Returns the gradients `[M, P]` under M coefficient vectors `[M, T, n]`, summed over even and over odd columns."""
    zero = coefficients.new_zeros(len(coefficients), snapshot.scores.num_parameters, dtype=torch.float64)
    even, odd = zero, zero
    for columns, gradients in snapshot.scores.gradients(coefficients.to(snapshot.coefficients.dtype)):
        first = columns.start % 2
        even = even + gradients[:, first::2].double().sum(dim=1)
        odd = odd + gradients[:, 1 - first :: 2].double().sum(dim=1)
    return even, odd
