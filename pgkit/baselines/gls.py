"""State-dependent baselines of least variance: generalised least squares of the returns, weighted by the scores."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Mapping
from functools import partial
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
from pgkit.protocols import Critic, FeatureCritic
from pgkit.snapshot import Facts
from pgkit.types import Coupling, Factors

PER_WEIGHT = 5
"""Trajectories that a weight needs: with fewer the fit is noisier than what it removes."""


@final
class GLS:
    """b(s) = φ(s)·w with the w of least trace of the covariance; for each sample from the folds that it is not in.

    `features=critic` corrects a critic by two weights, φ = [1, V]; `critic_features` weighs 1 and what the critic's
    last layer reads; `polynomial` is 1, the observation, its squares and products and powers of the time. The normal
    equations of the last `pool` batches are added to those of the other folds, in the features of their day. Below five
    trajectories a weight the fit does harm: a configuration that can never have them is refused, and until the pool
    has them the baseline is 0.
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
        critic: Critic,
        features: Literal["critic", "critic_features", "polynomial"] = "critic",
        pool: Index = 4,
        folds: Folds | None = None,
        ridge: Annotated[float, Range(least=0.0)] = 1e-6,
    ) -> None:
        self.needs_values = features != "polynomial"
        if self.needs_values and not facts.has_values:
            raise UsageError(f"baseline.features: {features} without a critic, expected critic=value, or polynomial")
        self._features, self._count = _features(features, facts, observation_space, critic)
        self.folds, self.ridge, self.least_columns = folds, ridge, folds or 2
        # A fit that leaves one trajectory out counts it, so that N of them carry N / 5 weights.
        at_once = facts.columns - math.ceil(facts.columns / (folds or facts.columns))
        if not self._enough(at_once + pool * facts.columns):
            least = math.ceil((PER_WEIGHT * self._count - 1 - at_once) / facts.columns)
            raise UsageError(
                f"baseline.features: {features} has {self._count} weights, expected five trajectories for each: with "
                f"{facts.columns} a batch baseline.pool of at least {least}, not {pool}"
            )
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
        fold = folds_of(number, self.folds, factors.strata)
        if not self._enough(number - int(torch.bincount(fold).max()) + sum(size for _, _, size in self._pool)):
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

    def _enough(self, others: int) -> bool:
        """Returns whether so many other trajectories carry the weights."""
        return others + 1 >= PER_WEIGHT * self._count


def _features(
    name: str, facts: Facts, observation_space: spaces.Space[Any], critic: Critic
) -> tuple[Callable[[Factors], Tensor], int]:
    """Returns the features `[K, F, N]` as a function of factors, and K.

    Raises: UsageError for a critic that has none.
    """
    if name == "polynomial":
        polynomial = Polynomial(observation_space, timed=facts.whole_episodes)
        return polynomial, polynomial.count
    if name == "critic":
        return _affine, 2
    if not isinstance(critic, FeatureCritic):
        raise UsageError(
            f"baseline.features: critic_features of {type(critic).__name__}, which has none; expected critic=value"
        )
    return partial(_last_layer, critic), critic.num_features + 1


def _affine(factors: Factors) -> Tensor:
    assert factors.values is not None
    return torch.stack([torch.ones_like(factors.signal), factors.values[:-1]])


def _last_layer(critic: FeatureCritic, factors: Factors) -> Tensor:
    assert factors.contexts is not None
    features = critic.features(factors.contexts).movedim(-1, 0)
    return torch.where(factors.mask, torch.cat([torch.ones_like(features[:1]), features]), 0.0)
