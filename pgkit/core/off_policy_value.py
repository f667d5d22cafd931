"""What one policy is worth, from whole episodes of another: importance sampling, doubly robust and direct estimates.

The value is E_π[Σ_t γ^t r_t] over episodes as they were logged, time limits included: nothing is earned after an end,
whatever its kind. Every estimate here is a sum of weighted means, `Terms`, which resampling and error propagation read
without knowing which estimate it was. Prefix weights w_t = Π_{u≤t} π(a_u|s_u)/μ(a_u|s_u) stay in log space; the weight
of an episode stands still after its end.
Source: Precup, Sutton and Singh 2000 (ICML); Thomas 2015 (thesis, University of Massachusetts); Jiang and Li 2016,
arXiv:1511.03722; Thomas and Brunskill 2016, arXiv:1604.00923.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pgkit.core.importance import weights
from pgkit.errors import UsageError
from pgkit.types import expect


@dataclass(frozen=True, kw_only=True)
class Terms:
    """An estimate Σ_k (Σ_n w_kn x_kn / Σ_n w_kn) of N episodes; with one row of equal weights, a plain mean.

    Shapes: log_weight and values `[K, N]`, float64.
    Raises: UsageError where a row has no weight at all.
    """

    log_weight: Tensor
    values: Tensor

    def __post_init__(self) -> None:
        expect("K N .", log_weight=self.log_weight, values=self.values)
        empty = (self.log_weight == -torch.inf).all(dim=1)
        if empty.any():
            step = int(empty.nonzero()[0])
            raise UsageError(f"weights: all 0 at step {step}, expected episodes that the target policy can produce")

    @property
    def weight(self) -> Tensor:
        """The weights `[K, N]`, each row relative to its largest."""
        return (self.log_weight - self.log_weight.max(dim=1, keepdim=True).values).exp()

    def value(self) -> float:
        """Returns the estimate."""
        return float(self.resampled(torch.ones_like(self.values[:1]))[0])

    def resampled(self, counts: Tensor) -> Tensor:
        """Returns the estimates `[B]` in which episode n occurs counts[b, n] times; nan where none has weight.

        Shapes: counts `[B, N]`.
        """
        weight = self.weight
        earned = torch.where(weight > 0, weight * self.values, 0.0)
        return ((counts @ earned.T) / (counts @ weight.T)).sum(dim=1)

    def without_each(self) -> Tensor:
        """Returns the estimates `[N]` that leave out one episode each; nan where no other has weight."""
        weight = self.weight
        earned = torch.where(weight > 0, weight * self.values, 0.0)
        left = weight.sum(dim=1, keepdim=True) - weight
        # A difference of large sums may leave a rounding error where nothing is left.
        left = torch.where(left > 1e-14 * weight.sum(dim=1, keepdim=True), left, torch.nan)
        return ((earned.sum(dim=1, keepdim=True) - earned) / left).sum(dim=0)

    def standard_error(self) -> float:
        """Returns the standard error by first-order propagation: that of the mean where all weights are equal."""
        weight = self.weight
        share = weight / weight.sum(dim=1, keepdim=True)
        centred = self.values - (share * torch.where(weight > 0, self.values, 0.0)).sum(dim=1, keepdim=True)
        influence = torch.where(weight > 0, share * centred, 0.0).sum(dim=0)
        size = len(influence)
        return float((influence.square().sum() * size / max(1, size - 1)).sqrt())


def step_log_ratios(log_target: Tensor, log_behavior: Tensor, mask: Tensor) -> Tensor:
    """Returns log π(a|s) − log μ(a|s) in float64, 0 outside the mask, −inf where the target never takes the action.

    Shapes: all `[T, N]`.
    Raises: UsageError for an action logged with a behaviour probability of 0, and for nan or +inf.
    """
    expect("T N .", log_target=log_target, log_behavior=log_behavior, mask=mask)
    target = torch.where(mask, log_target.double(), 0.0)
    behavior = torch.where(mask, log_behavior.double(), 0.0)
    for name, tensor in {"target policy": target, "behaviour policy": behavior}.items():
        if tensor.isnan().any() or (tensor == torch.inf).any():
            raise UsageError(f"{name}: log-probabilities that are nan or inf, expected numbers below infinity")
    impossible = behavior == -torch.inf
    if impossible.any():
        row, column = (int(index) for index in impossible.nonzero()[0])
        raise UsageError(
            f"behavior_log_prob: probability 0 for the action logged at step {row} of episode {column},"
            " expected a policy that could have taken it"
        )
    return torch.where(target == -torch.inf, -torch.inf, target - behavior)


def prefix_log_weights(log_ratio: Tensor) -> Tensor:
    """Returns log w_t `[T, N]`, the sum of the ratios up to each row, which stands still where the ratios are 0.

    Shapes: log_ratio `[T, N]`.
    """
    return log_ratio.cumsum(dim=0)


def discounts(steps: int, gamma: float) -> Tensor:
    """Returns γ^t `[T, 1]` in float64.

    Source: the definition of the discounted return.
    """
    return (gamma ** torch.arange(steps, dtype=torch.float64))[:, None]


def trajectory_terms(rewards: Tensor, log_ratio: Tensor, mask: Tensor, *, gamma: float, normalise: bool) -> Terms:
    """Returns the terms of Σ_n w_n G_n over N, or over Σ_n w_n, with w the weight of the whole episode.

    Bias: none, or of order 1/N where self-normalised.
    Shapes: all `[T, N]`.
    Raises: UsageError where a plain weight overflows, or where self-normalised ones are all 0.
    """
    returns = discounted_returns(rewards, mask, gamma=gamma)[None]
    log_weight = prefix_log_weights(log_ratio)[-1:]
    if normalise:
        return Terms(log_weight=log_weight, values=returns)
    return _plain(weights(log_weight[0])[None] * returns)


def per_decision_terms(rewards: Tensor, log_ratio: Tensor, mask: Tensor, *, gamma: float, normalise: bool) -> Terms:
    """Returns the terms of Σ_t γ^t Σ_n w_tn r_tn over N, or over Σ_n w_tn at each step.

    Bias: none, or of order 1/N where self-normalised.
    Shapes: all `[T, N]`.
    Raises: UsageError where a plain weight overflows, or where self-normalised ones are all 0 at a step.
    """
    earned = torch.where(mask, rewards.double(), 0.0) * discounts(len(rewards), gamma)
    log_weight = prefix_log_weights(log_ratio)
    if normalise:
        return Terms(log_weight=log_weight, values=earned)
    return _plain((_weights_that_count(log_weight, earned) * earned).sum(dim=0, keepdim=True))


def doubly_robust_terms(
    rewards: Tensor,
    log_ratio: Tensor,
    mask: Tensor,
    *,
    values: Tensor,
    chosen: Tensor,
    gamma: float,
    normalise: bool,
) -> Terms:
    """Returns the terms of V(s_0) + Σ_t γ^t w_t (r_t + γ V(s_{t+1}) − Q(s_t, a_t)), w_t self-normalised or not.

    `values` are V(s_t) = E_π[Q(s_t, ·)] and `chosen` Q(s_t, a_t) of any Q that does not know the episode's own actions
    and rewards; V after the last row of an episode is 0.
    Bias: none whatever the Q, or of order 1/N where self-normalised.
    Shapes: all `[T, N]`.
    Raises: UsageError where a plain weight overflows, or where self-normalised ones are all 0 at a step.
    """
    expect("T N .", rewards=rewards, log_ratio=log_ratio, mask=mask, values=values, chosen=chosen)
    known = torch.where(mask, values.double(), 0.0)
    following = torch.cat((known[1:], torch.zeros_like(known[:1])))
    surprise = torch.where(mask, rewards.double() + gamma * following - chosen.double(), 0.0)
    earned = surprise * discounts(len(rewards), gamma)
    log_weight = prefix_log_weights(log_ratio)
    if normalise:
        first = torch.zeros_like(log_weight[:1])
        # The start states come last, so that row t is step t.
        return Terms(log_weight=torch.cat((log_weight, first)), values=torch.cat((earned, known[:1])))
    return _plain(known[:1] + (_weights_that_count(log_weight, earned) * earned).sum(dim=0, keepdim=True))


def direct_terms(values: Tensor) -> Terms:
    """Returns the terms of the mean of V(s_0).

    Bias: that of V.
    Shapes: values `[T, N]`.
    """
    return _plain(values[:1].double())


def discounted_returns(rewards: Tensor, mask: Tensor, *, gamma: float) -> Tensor:
    """Returns Σ_t γ^t r_t of every episode, `[N]`.

    Shapes: `[T, N]`.
    """
    return (torch.where(mask, rewards.double(), 0.0) * discounts(len(rewards), gamma)).sum(dim=0)


@dataclass(frozen=True, kw_only=True)
class MissingMass:
    """How much of the target policy lies on actions that the behaviour never takes, per logged step.

    1 − E_μ[π/μ], with its standard error over episodes; 0 where the behaviour covers the target.
    """

    mass: float
    standard_error: float

    @property
    def is_evident(self) -> bool:
        """Whether the mass stands 3.5 standard errors above 0, a false alarm in about 4,000 data sets."""
        return self.mass > max(1e-3, 3.5 * self.standard_error)


def missing_mass(log_ratio: Tensor, mask: Tensor) -> MissingMass:
    """Returns the probability that the target gives, at the states logged, to actions outside the behaviour's support.

    Shapes: `[T, N]`.
    """
    # Where a ratio is beyond e^300 nothing can be told to be missing, and its square must stay a number.
    ratio = torch.where(mask, log_ratio, -torch.inf).clamp(max=300.0).exp()
    steps = mask.sum(dim=0).double()
    mean = float(ratio.sum() / steps.sum())
    spread = (ratio.sum(dim=0) - mean * steps).square().sum().sqrt() / steps.sum()
    return MissingMass(mass=1 - mean, standard_error=float(spread))


def _plain(values: Tensor) -> Terms:
    return Terms(log_weight=torch.zeros_like(values), values=values)


def _weights_that_count(log_weight: Tensor, earned: Tensor) -> Tensor:
    """Returns the weights, 0 where they multiply nothing: 0 · inf would be nan."""
    counts = earned != 0
    return weights(torch.where(counts, log_weight, -torch.inf).reshape(-1)).reshape(log_weight.shape)
