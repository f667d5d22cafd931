"""The score-function estimator: coefficients, and the surrogate whose gradient they make.

    ∇ E_{x~p_θ}[f(x)] = E[ Σ_t c_t ∇log p_θ(x_t) ],   c_t = exp(L_t) (signal_t − b_t),

with every c_t detached, so that a surrogate differentiates the log-probabilities alone.
Source: Williams 1992 (Machine Learning 8:229); Mohamed et al. 2019, arXiv:1906.10652.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pgkit.types import Factors, expect


def scale(log_weight: Tensor, mask: Tensor) -> Tensor:
    """Returns exp(log_weight), exactly 0 where the mask is False: what a factor's advantage is multiplied by.

    Shapes: both `[F, N]`.
    Source: Precup, Sutton and Singh 2000, for the weights.
    """
    expect("F N .", log_weight=log_weight, mask=mask)
    return torch.where(mask, log_weight, -torch.inf).exp()


def discounted_scale(factors: Factors, gamma: float) -> Tensor:
    """Returns γ^t exp(log_weight) at step t of an episode, `[F, N]`, exactly 0 where the mask is False.

    Shapes: factors hold whole episodes.
    Raises: ValueError where the time of a factor is not known.
    Source: Thomas 2014 (ICML).
    """
    if factors.time is None:
        raise ValueError("time: None, expected the step of every factor inside its episode")
    weight = scale(factors.log_weight, factors.mask)
    return weight * state_discount(factors.time, gamma).to(weight.dtype)


def coefficients(signal: Tensor, baseline: Tensor, scale: Tensor) -> Tensor:
    """Returns scale · (signal − baseline), detached, exactly 0 where the scale is.

    Shapes: all `[F, N]`.
    Source: Williams 1992.
    """
    expect("F N .", signal=signal, baseline=baseline, scale=scale)
    # Selecting comes before multiplying: 0 · inf would be nan.
    return (torch.where(scale == 0, 0.0, signal - baseline) * scale).detach()


def leave_one_out(signal: Tensor, mask: Tensor, strata: Tensor | None = None) -> Tensor:
    """Returns the mean signal of the other columns at each factor, those outside the mask counting as 0.

    With several strata, Σ_k (n_k/n) times the mean of stratum k, a column's own without it: a plain mean would hold
    less of its own stratum for each column, and under weights whose score sums are 0 over all strata together, and not
    one by one, what is subtracted must have one expectation for all. A stratum of one column is left out of all means.
    Bias: none as a baseline: a column's reference does not depend on its own samples.
    Shapes: signal and mask `[F, N]`, N of at least 2; strata `[N]`, numbers from 0.
    Source: Kool, van Hoof and Welling 2019 (ICLR workshop); the strata are ours.
    """
    expect("F N .", signal=signal, mask=mask)
    # Double precision, so that equal outcomes cancel exactly and not to rounding noise.
    outcomes = torch.where(mask, signal, 0.0).double()
    if strata is None:
        return ((outcomes.sum(dim=1, keepdim=True) - outcomes) / (signal.shape[1] - 1)).to(signal.dtype)
    counts = torch.bincount(strata).double()
    shares = torch.where(counts > 1, counts, 0.0)
    shares = shares / shares.sum().clamp(min=1.0)
    sums = outcomes.new_zeros(len(outcomes), len(counts)).index_add_(1, strata, outcomes)
    means = sums / counts.clamp(min=1.0)
    own = (sums[:, strata] - outcomes) / (counts - 1).clamp(min=1.0)[strata]
    everything = (shares * means).sum(dim=1, keepdim=True)
    return (everything + shares[strata] * (own - means[:, strata])).to(signal.dtype)


def leave_one_out_of_group(signal: Tensor, mask: Tensor, group: Tensor, *, ended: bool = True) -> Tensor:
    """Returns the mean signal of the other columns of a column's group at each factor; 0 where there are none.

    Those outside the mask count as 0, or, without `ended`, not at all. Columns that began alike share what the start
    brings about, which this takes away and the mean of the batch does not.
    Bias: none as a baseline: given the start, a column's reference does not depend on its own samples.
    Shapes: signal and mask `[F, N]`; group `[N]`, numbers from 0.
    Source: Kool, van Hoof and Welling 2019 (ICLR workshop); Ahmadian et al. 2024, arXiv:2402.14740, for language.
    """
    expect("F N .", signal=signal, mask=mask)
    outcomes, valid = torch.where(mask, signal, 0.0).double(), mask.double()
    counted = torch.ones_like(valid) if ended else valid
    number = int(group.max()) + 1
    sums, counts = (
        each.new_zeros(len(each), number).index_add_(1, group, each)[:, group] - each for each in (outcomes, counted)
    )
    return (sums / counts.clamp(min=1)).to(signal.dtype)


def over_group_deviation(coefficients: Tensor, outcomes: Tensor, group: Tensor) -> Tensor:
    """Returns the coefficients over the standard deviation of their group's outcomes; 0 where these are all the same.

    Shapes: coefficients `[F, N]`; outcomes `[N]`, one a column; group `[N]`, numbers from 0.
    Bias: the deviation contains each sample itself, and groups of little spread count as much as any other.
    Source: Shao et al. 2024, arXiv:2402.03300 (GRPO); Liu et al. 2025, arXiv:2503.20783, for the bias.
    """
    expect("N", outcomes=outcomes, group=group)
    values = outcomes.double()
    counts = torch.bincount(group).double()

    def mean(of: Tensor) -> Tensor:
        return (of.new_zeros(len(counts)).index_add_(0, group, of) / counts)[group]

    rest = values - mean(values)
    variance = mean(rest.square()) * (counts / (counts - 1).clamp(min=1))[group]
    # Equal numbers may have a spread: the rounding error of their mean.
    alike = variance <= (torch.finfo(outcomes.dtype).eps * values.abs()).square()
    scale = torch.where(alike, 0.0, variance.clamp(min=torch.finfo(torch.float64).tiny).rsqrt())
    return (coefficients * scale).to(coefficients.dtype)


def surrogate(log_prob: Tensor, coefficients: Tensor, *, num_samples: float) -> Tensor:
    """Returns the scalar Σ c log p / num_samples, whose gradient is the score-function estimate.

    It is not a loss: its value means nothing, and it is to be maximised.
    Shapes: both alike, `[F, N]` or flat rows, of one term or several.
    Source: Schulman et al. 2015, arXiv:1506.05254.
    """
    expect("M", log_prob=log_prob, coefficients=coefficients)
    return (log_prob * coefficients.detach()).sum() / num_samples


def standardise(coefficients: Tensor, mask: Tensor) -> Tensor:
    """Returns the coefficients less their mean, divided by their standard deviation, over the valid factors.

    Zeros where the spread is 0 or a single factor is valid.
    Shapes: both `[F, N]`.
    Bias: the statistics contain each sample itself; on a three-armed bandit with N = 4 the bias is 36 % of |∇J|.
    Source: Engstrom et al. 2020, arXiv:2005.12729, among implementation details.
    """
    expect("F N .", coefficients=coefficients, mask=mask)
    valid = coefficients[mask]
    # Equal numbers may have a spread: the rounding error of their mean, and dividing by it would give ±1.
    if valid.numel() == 0 or valid.min() == valid.max():
        return torch.zeros_like(coefficients)
    return torch.where(mask, (coefficients - valid.mean()) / valid.std(), 0.0)


def state_discount(time: Tensor, gamma: float) -> Tensor:
    """Returns γ^t, the weight of a state in the gradient of the discounted objective.

    Bias: leaving it out, as most code does, gives the gradient of no objective at all.
    Shapes: time `[F, N]`, the step inside its episode.
    Source: Thomas 2014 (ICML); Nota and Thomas 2020, arXiv:1906.07073.
    """
    return torch.pow(torch.as_tensor(gamma, dtype=torch.get_default_dtype(), device=time.device), time)
