"""Lower bounds of a policy's performance from the episodes of another: importance sampling less what it may be off by.

An importance-sampled mean of N numbers of size at most M has a variance of at most M² d₂ / N, where d₂ = E_μ[w²] is the
exponentiated 2-Rényi divergence; by Cantelli's inequality the truth is below the mean less
M √((1 − δ) d₂ / (δ N)) with probability at most δ.
Source: Metelli, Papini, Faccio and Restelli 2018, arXiv:1809.06098.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from pgkit.types import expect


@dataclass(frozen=True, kw_only=True)
class Bound:
    """A bound and its parts, differentiable scalars: value = estimate − penalty; `renyi` is d₂ of whole episodes."""

    value: Tensor
    estimate: Tensor
    penalty: Tensor
    renyi: Tensor


def trajectory_bound(
    log_weight: Tensor, returns: Tensor, *, delta: float, self_normalise: bool, largest: float | None = None
) -> Bound:
    """Returns the bound of the mean return from whole-episode weights.

    Self-normalised weights sum to N; d₂ is the mean of the squared weights, at least 1 as the divergence itself is.
    `largest` is |R| at most, by default that of these episodes.
    Shapes: both `[N]`.
    Bias: self-normalised O(1/N) in the estimate; of the bound what estimating d₂ and the largest return leaves.
    """
    expect("N .", log_weight=log_weight, returns=returns)
    estimate, renyi = _moments(log_weight[None], returns[None], self_normalise=self_normalise)
    size = returns.abs().max() if largest is None else returns.new_tensor(largest)
    penalty = size * ((1 - delta) / (delta * len(returns)) * renyi[0]).sqrt()
    return Bound(value=estimate[0] - penalty, estimate=estimate[0], penalty=penalty, renyi=renyi[0])


def per_decision_bound(log_weight: Tensor, rewards: Tensor, *, delta: float, self_normalise: bool) -> Bound:
    """Returns the bound of the mean of Σ_t r_t, each reward with the weight of the actions up to it.

    The standard deviation of a sum is at most the sum of standard deviations, so the penalties of the steps add up:
    each takes the largest |r_t| of its step, 0 where no episode is left.
    Shapes: both `[T, N]`, weights cumulative, rewards discounted and 0 outside the mask.
    Bias: as for whole episodes.
    """
    expect("T N .", log_weight=log_weight, rewards=rewards)
    estimate, renyi = _moments(log_weight, rewards, self_normalise=self_normalise)
    sizes = rewards.abs().max(dim=1).values
    penalty = (sizes * ((1 - delta) / (delta * rewards.shape[1]) * renyi).sqrt()).sum()
    return Bound(value=estimate.sum() - penalty, estimate=estimate.sum(), penalty=penalty, renyi=renyi[-1])


def _moments(log_weight: Tensor, outcomes: Tensor, *, self_normalise: bool) -> tuple[Tensor, Tensor]:
    """Returns the weighted mean of the outcomes and that of the squared weights of every row, both `[T]`."""
    columns = outcomes.shape[1]
    weight = log_weight.softmax(dim=1) * columns if self_normalise else log_weight.exp()
    return (weight * outcomes).mean(dim=1), weight.square().mean(dim=1).clamp(min=1.0)
