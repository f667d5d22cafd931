"""Where the variance of a gradient comes from: what is not yet known, what was done, and what was already there.

Conditional expectations are least-squares fits on features. Two fits to separate halves of the data are multiplied, so
that the noise of a fit does not count as something explained; what features cannot express counts as unexplained.
Source: Tucker et al. 2018, arXiv:1802.10031, for a single term; the sum over a trajectory is that of the increments of
the martingale E[g | what has happened so far].
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pgkit.types import expect

ROUNDING = 1e-12
"""A variance below this share of the second moment is what is left of equal numbers."""
Pair = tuple[Tensor, Tensor]
"""The same thing by the fits to either half of the data."""


@dataclass(frozen=True, kw_only=True)
class Parts:
    """A trace of a covariance in three parts that add up to it: noise after the action, of the action, before it.

    `removable` is the share of `action` that a perfect baseline of the state could still take away.
    """

    after: float
    action: float
    before: float
    removable: float

    @property
    def total(self) -> float:
        return self.after + self.action + self.before


def regress(features: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    """Returns the weights `[D, …]` of the weighted least-squares fit of targets to features.

    Shapes: features `[R, D]`, targets `[R, …]`, weights `[R]`. Features may depend on each other.
    """
    expect("R", features=features, targets=targets, weights=weights)
    weighted = features.T * weights
    flat = weighted @ targets.reshape(len(targets), -1)
    return (_inverse(weighted @ features) @ flat).reshape(-1, *targets.shape[1:])


def step_parts(
    outcomes: Tensor,
    squares: Tensor,
    *,
    known: Pair,
    features: Tensor,
    moments: Pair,
    halves: Pair,
    weights: Tensor,
) -> Parts:
    """Returns the parts of tr Cov(x ψ) for one term: outcome x = signal − baseline, score ψ, both of one step.

    after = E[Var(x|s,a) |ψ|²], action = E[tr Var(E[x|s,a] ψ | s)], before = tr Var(E[x ψ | s]).
    Bias: what `known`, the fits of E[x|s,a], do not know counts as noise after the action; what is not linear in the
    features of the state counts as noise of the action.
    Shapes: outcomes, squares |ψ|², weights, known and halves `[R]`; features of the state `[R, D]`; moments
    Σ half · feature · x ψ `[D, P]`.
    """
    expect("R", outcomes=outcomes, squares=squares, features=features, weights=weights)
    shares = weights / weights.sum()
    reference = [features @ regress(features, outcomes, half * squares) for half in halves]
    first, second = (
        _inverse((features.T * half) @ features) @ moment for half, moment in zip(halves, moments, strict=True)
    )
    gram, mean = (features.T * shares) @ features, shares @ features
    # Of a row's two fits the one from the other half knows nothing of its noise.
    other = torch.where(halves[0] > 0, known[1], known[0])
    explained = float(shares @ (squares * (2 * outcomes * other - known[0] * known[1])))
    by_state = float(((gram @ first) * second).sum())
    before = by_state - float((mean @ first) @ (mean @ second))
    return Parts(
        after=float(shares @ (squares * outcomes.square())) - explained,
        action=explained - by_state,
        before=before,
        removable=float(shares @ (squares * reference[0] * reference[1])),
    )


def trajectory_parts(
    gradients: Tensor,
    *,
    known: Pair,
    starts: Pair,
    directions: Tensor,
    halves: Pair,
    freedom: float,
) -> Parts:
    """Returns the parts of tr Cov(g) of whole trajectories: of transitions, of actions, of the start.

    The martingale E[g | what has happened] moves by actions and by transitions: with M_t = E[g | h_t, a_t] − E[g | h_t]
    and the start W = E[g | s_0], `known` is W + Σ_t M_t, before = tr Var(W) and after = tr Cov(g − known).
    A baseline of the state that is linear in D features subtracts their combination of directions Σ_t feature_t ψ_t.
    Bias: what `known` does not know counts as noise of transitions.
    Shapes: gradients g, known and starts `[N, P]`, directions `[D, N, P]`, halves `[N]`; the sum of both halves weighs
    the trajectories, and `freedom` divides: N − 1 for a sample.
    """
    expect("N P .", gradients=gradients, known=known[0], starts=starts[0])
    weights = halves[0] + halves[1]
    inner = _Inner(weights, halves, freedom)
    total = inner.of(gradients, gradients)
    if total <= ROUNDING * float(weights @ gradients.square().sum(dim=1)) / freedom:
        return Parts(after=0.0, action=0.0, before=0.0, removable=0.0)
    explained = inner.explained(gradients, known)
    fits = []
    for half in halves:
        weighted = directions * half[:, None]
        gain = torch.einsum("dnp,np->d", weighted, gradients)
        fits.append(
            torch.einsum("d,dnp->np", _inverse(torch.einsum("dnp,enp->de", weighted, directions)) @ gain, directions)
        )
    before = inner.of(*starts)
    return Parts(
        after=total - explained,
        action=explained - before,
        before=before,
        removable=inner.explained(gradients, (fits[0], fits[1])),
    )


@dataclass(frozen=True)
class _Inner:
    """Covariances of vectors `[N, P]`, their traces: numbers."""

    weights: Tensor
    halves: Pair
    freedom: float

    def of(self, first: Tensor, second: Tensor) -> float:
        """Returns tr Cov(first, second)."""
        return float(self.weights @ (self._centred(first) * self._centred(second)).sum(dim=1)) / self.freedom

    def explained(self, target: Tensor, fits: Pair) -> float:
        """Returns tr Cov(target) − tr Cov(target − fit), every fit from the other half and its noise left out."""
        other = torch.where(self.halves[0][:, None] > 0, fits[1], fits[0])
        return 2 * self.of(target, other) - self.of(*fits)

    def _centred(self, vectors: Tensor) -> Tensor:
        return vectors - self.weights @ vectors / self.weights.sum()


def nested_parts(outcomes: Tensor, scores: Tensor) -> Parts:
    """Returns the parts of tr Cov(x ψ) from independent continuations: S states, m actions each, k outcomes of each.

    The mean squares of a nested analysis of variance, with the traces of vectors for squares.
    Bias: none, and single parts may come out below 0; `removable` is a ratio of two unbiased averages at each state.
    Shapes: outcomes `[S, m, k]`, scores `[S, m, P]`; S, m and k of at least 2.
    Source: Searle, Casella and McCulloch 1992, for the analysis of variance.
    """
    sizes = expect("S m", outcomes=outcomes, scores=scores)
    m, k = sizes["m"], outcomes.shape[2]
    squares = scores.square().sum(dim=2)
    after = float((squares * outcomes.var(dim=2)).mean())
    cells = outcomes.mean(dim=2)[:, :, None] * scores
    action = float(cells.var(dim=1).sum(dim=1).mean()) - after / k
    means = cells.mean(dim=1)
    before = float(means.var(dim=0).sum()) - action / m - after / (m * k)
    weighted = squares * outcomes.mean(dim=2)  # [S, m]; products of different actions have independent noise
    pairs = (weighted.sum(dim=1).square() - weighted.square().sum(dim=1)) / (m * (m - 1))
    length = squares.mean(dim=1)
    removable = torch.where(length > 0, pairs / length.clamp(min=torch.finfo(length.dtype).tiny), 0.0)
    return Parts(after=after, action=action, before=before, removable=float(removable.mean()))


def _inverse(gram: Tensor) -> Tensor:
    return torch.linalg.pinv(gram, rtol=1e-10, hermitian=True)
