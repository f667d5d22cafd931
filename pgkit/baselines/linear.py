"""A linear function of the state, fitted to returns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, final

import torch
from gymnasium import spaces
from torch import Tensor

from pgkit.baselines.features import Polynomial
from pgkit.core import gls
from pgkit.core.optimal_baseline import folds_of, others
from pgkit.options import Range
from pgkit.snapshot import Facts
from pgkit.types import Coupling, Factors


@final
class Linear:
    """Ordinary least squares of the signal on polynomial features of state and time.

    Fitted to the batch before, or with `cross_fitted` to the other trajectories of this one.
    Bias: none: a trajectory never enters its own fit.
    Source: Duan et al. 2016, arXiv:1604.06778.
    """

    unbiased = True
    needs_values = False

    def __init__(
        self,
        *,
        facts: Facts,
        observation_space: spaces.Space[Any],
        cross_fitted: bool = False,
        ridge: Annotated[float, Range(least=0.0)] = 1e-5,
    ) -> None:
        self.cross_fitted, self.ridge = cross_fitted, ridge
        self.coupling: Coupling = "cross_fitted" if cross_fitted else "independent"
        self.least_columns = 2 if cross_fitted else 1
        self._features = Polynomial(observation_space, timed=facts.whole_episodes)
        self._weights: Tensor | None = None

    def value(self, factors: Factors) -> Tensor:
        """Returns φ(s)·w at every factor, `[F, N]`; 0 before the first batch was learnt from, unless cross-fitted."""
        features = self._features(factors)
        if self.cross_fitted:
            left, right = _equations(features, factors)
            fold = folds_of(len(right), None, factors.strata)
            weights = gls.solve(others(left, fold), others(right, fold), ridge=self.ridge)
            return torch.einsum("kfn,nk->fn", features, weights.to(features.dtype))
        if self._weights is None:
            return torch.zeros_like(factors.signal)
        return torch.einsum("kfn,k->fn", features, self._weights.to(features.dtype))

    def update(self, factors: Factors) -> None:
        """Fits the weights to the batch."""
        left, right = _equations(self._features(factors), factors)
        self._weights = gls.solve(left.sum(dim=0), right.sum(dim=0), ridge=self.ridge)

    def state_dict(self) -> dict[str, Any]:
        """Returns the weights."""
        return {"weights": self._weights}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Puts them back."""
        self._weights = state["weights"]


def _equations(features: Tensor, factors: Factors) -> tuple[Tensor, Tensor]:
    """Returns what each trajectory adds to both sides of the normal equations, `[N, K, K]` and `[N, K]`, double."""
    left = torch.einsum("kfn,lfn->nkl", features, features)
    right = torch.einsum("kfn,fn->nk", features, torch.where(factors.mask, factors.signal, 0.0))
    return left.double(), right.double()
