"""State-dependent baselines of least variance: generalised least squares of the returns, weighted by the scores."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Annotated, Any, Literal, final

import torch
from gymnasium import spaces
from torch import Tensor

from pgkit.baselines.features import Polynomial
from pgkit.baselines.optimal import Folds, scores_of
from pgkit.core import gls
from pgkit.core.optimal_baseline import folds_of, others
from pgkit.errors import UsageError
from pgkit.options import Index, Range
from pgkit.snapshot import Facts
from pgkit.types import Coupling, Factors

PER_WEIGHT = 5
"""Trajectories that a weight needs: with fewer the fit is noisier than what it removes."""


@final
class GLS:
    """b(s) = φ(s)·w with the w of least trace of the covariance; for each sample from the folds that it is not in.

    `features=critic` corrects a critic by two weights, φ = [1, V]; `polynomial` is 1, the observation, its squares and
    products and powers of the time. The normal equations of the last `pool` batches are added to those of the other
    folds. Below five trajectories a weight the fit does harm: a configuration that can never have them is refused, and
    until the pool does the baseline is 0.
    Bias: none.
    Source: Greensmith, Bartlett and Baxter 2004 (JMLR 5:1471) for the optimum.
    """

    unbiased = True
    coupling: Coupling = "cross_fitted"
    least_columns = 2
    needs_scores = True

    def __init__(
        self,
        *,
        facts: Facts,
        observation_space: spaces.Space[Any],
        features: Literal["critic", "polynomial"] = "critic",
        pool: Index = 4,
        folds: Folds | None = None,
        ridge: Annotated[float, Range(least=0.0)] = 1e-6,
    ) -> None:
        if features == "critic" and not facts.has_values:
            raise UsageError("baseline.features: critic without a critic, expected critic=value, or polynomial")
        self.needs_values = features == "critic"
        self._polynomial = None if self.needs_values else Polynomial(observation_space, timed=facts.whole_episodes)
        count = 2 if self._polynomial is None else self._polynomial.count
        most = facts.columns * (pool + 1) // PER_WEIGHT
        if count > most:
            raise UsageError(
                f"baseline.features: {features} has {count} weights, expected at most {most}, a fifth of the "
                f"{facts.columns} trajectories a batch and of those in baseline.pool={pool} further batches"
            )
        self.folds, self.ridge = folds, ridge
        self._pool: deque[tuple[Tensor, Tensor, int]] = deque(maxlen=pool)
        self._read: tuple[Tensor, Tensor, int] | None = None

    def value(self, factors: Factors) -> Tensor:
        """Returns φ(s)·w at every factor, `[F, N]`; 0 while there are too few trajectories for the weights."""
        scores, scale = scores_of(factors, "gls")
        features = self._features(factors)
        lefts, rights = [], []
        for _, gradients in scores.gradients(torch.cat([features, factors.signal[None]]) * scale):
            left, right = gls.normal_equations(gradients[:-1], gradients[-1])
            lefts.append(left)
            rights.append(right)
        left, right = torch.cat(lefts), torch.cat(rights)
        number = len(right)
        # What was read is learnt from in `update`, without asking the scores again.
        self._read = left.sum(dim=0), right.sum(dim=0), number
        fold = folds_of(number, self.folds or number)
        known = number - int(torch.bincount(fold).max()) + sum(size for _, _, size in self._pool)
        if known < PER_WEIGHT * len(features) - PER_WEIGHT:
            return torch.zeros_like(factors.signal)
        past = [sum(each[side] for each in self._pool) for side in (0, 1)]
        weights = gls.solve(others(left, fold) + past[0], others(right, fold) + past[1], ridge=self.ridge)
        return torch.einsum("kfn,nk->fn", features, weights[fold].to(features.dtype))

    def update(self, factors: Factors) -> None:
        """Adds the batch that was read to the pool."""
        if self._read is not None:
            self._pool.append(self._read)
            self._read = None

    def state_dict(self) -> dict[str, Any]:
        """Returns the normal equations of the pool."""
        return {"pool": [tuple(each) for each in self._pool]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Puts them back."""
        self._pool.clear()
        self._pool.extend((left, right, int(size)) for left, right, size in state["pool"])

    def _features(self, factors: Factors) -> Tensor:
        """Returns the features `[K, F, N]`."""
        if self._polynomial is not None:
            return self._polynomial(factors)
        assert factors.values is not None
        return torch.stack([torch.ones_like(factors.signal), factors.values[:-1]])
