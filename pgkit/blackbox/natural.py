"""Natural-gradient steps of Gaussian search laws, as optimizers: they take plain gradients from any estimator.

Source: Wierstra et al. 2014 (JMLR 15:949), arXiv:1106.4487; Glasmachers et al. 2010 (GECCO).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from math import log, sqrt
from typing import Any, final

import torch
from torch import Tensor

from pgkit.errors import UsageError
from pgkit.options import Positive

NamedParameters = Iterable[tuple[str, Tensor]]


def separable_rate(dimension: int) -> float:
    """Returns SNES's learning rate of log σ, (3 + log D) / (5 √D)."""
    return (3 + log(dimension)) / (5 * sqrt(dimension))


def full_rate(dimension: int) -> float:
    """Returns xNES's learning rate of the factor, (9 + 3 log D) / (5 D √D)."""
    return (9 + 3 * log(dimension)) / (5 * dimension * sqrt(dimension))


def separable_step(gradient_mean: Tensor, gradient_log_scale: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the natural gradient F⁻¹g of N(μ, diag σ²) in (μ, log σ): (σ² g_μ, ½ g_log σ), `[D]` each.

    With g_μ = Σ u s/σ and g_log σ = Σ u (s² − 1) these are SNES's σ Σ u s and ½ Σ u (s² − 1).
    """
    return scale.square() * gradient_mean, gradient_log_scale / 2


def full_step(gradient_mean: Tensor, gradient_factor: Tensor, factor: Tensor) -> tuple[Tensor, Tensor]:
    """Returns xNES's natural gradient of N(μ, A Aᵀ): of μ, A Aᵀ g_μ `[D]`, and M with A ← A exp(M), `[D, D]`.

    With g_A = A⁻ᵀ Σ u (s sᵀ − I), M = ½ Aᵀ g_A = ½ Σ u (s sᵀ − I), made symmetric.
    """
    tangent = factor.T @ gradient_factor
    return factor @ (factor.T @ gradient_mean), (tangent + tangent.T) / 4


@final
class SNES(torch.optim.Optimizer):
    """Separable natural evolution strategy: natural-gradient steps of a law with parameters `mean` and `log_scale`.

    Utilities come from the estimator: `estimator=ranked_score` makes it the SNES of the paper.
    """

    takes_names = True

    def __init__(self, params: NamedParameters, *, lr: Positive = 1.0, scale_rate: Positive | None = None) -> None:
        named = dict(params)
        _expect_names("snes", named, ("mean", "log_scale"))
        self._rate = separable_rate(named["mean"].numel()) if scale_rate is None else scale_rate
        super().__init__(list(named.items()), {"lr": lr})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]  # never a closure
        """Moves both parameters against the gradients they hold."""
        for group in self.param_groups:
            mean, log_scale = _in_order(group, ("mean", "log_scale"))
            move, stretch = separable_step(mean.grad, log_scale.grad, log_scale.exp())
            mean.sub_(group["lr"] * move)
            log_scale.sub_(group["lr"] * self._rate * stretch)


@final
class XNES(torch.optim.Optimizer):
    """Exponential natural evolution strategy: natural-gradient steps of a law with parameters `mean` and `factor`.

    The factor is multiplied by a matrix exponential, so that the covariance stays positive whatever the step.
    """

    takes_names = True

    def __init__(self, params: NamedParameters, *, lr: Positive = 1.0, scale_rate: Positive | None = None) -> None:
        named = dict(params)
        _expect_names("xnes", named, ("mean", "factor"))
        self._rate = full_rate(named["mean"].numel()) if scale_rate is None else scale_rate
        super().__init__(list(named.items()), {"lr": lr})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]  # never a closure
        """Moves both parameters against the gradients they hold."""
        for group in self.param_groups:
            mean, factor = _in_order(group, ("mean", "factor"))
            move, stretch = full_step(mean.grad, factor.grad, factor)
            mean.sub_(group["lr"] * move)
            factor.copy_(factor @ torch.linalg.matrix_exp(-group["lr"] * self._rate * stretch))


def _expect_names(optimizer: str, named: dict[str, Tensor], expected: tuple[str, str]) -> None:
    if set(named) != set(expected):
        found = " and ".join(named)
        raise UsageError(f"optimizer: {optimizer} for parameters {found}, expected {' and '.join(expected)}")


def _in_order(group: dict[str, Any], names: tuple[str, str]) -> tuple[Any, Any]:
    found = dict(zip(group["param_names"], group["params"], strict=True))
    return found[names[0]], found[names[1]]
