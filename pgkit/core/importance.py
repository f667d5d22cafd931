"""Importance weights, in log space from densities to the last multiplication.

w(x) = p(x) / q(x) turns samples of a proposal q into an expectation under the target p. Log weights of ±1000 are as
good as any here; what would become infinite or undefined is an error with a name.
Source: Owen 2013, Monte Carlo theory, methods and examples, chapter 9.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from pgkit.errors import UsageError
from pgkit.types import expect

Heuristic = Literal["balance", "power", "constant"]


def log_ratio(log_target: Tensor, log_proposal: Tensor) -> Tensor:
    """Returns log p − log q, −inf wherever the target has no density.

    Shapes: both `[N]`.
    Raises: UsageError for a sample that the target can give and the proposal cannot.
    """
    expect("N .", log_target=log_target, log_proposal=log_proposal)
    if ((log_proposal == -torch.inf) & (log_target > -torch.inf)).any():
        raise UsageError("proposal: no density where the law has some, expected one that covers the law's support")
    return _checked(torch.where(log_target == -torch.inf, -torch.inf, log_target - log_proposal))


def weights(log_weight: Tensor) -> Tensor:
    """Returns exp(log_weight), `[N]`.

    Raises: UsageError where it is beyond the largest number of its precision.
    """
    result = _checked(log_weight).exp()
    if not result.isfinite().all():
        raise UsageError(
            f"weights: e^{float(log_weight.max()):.0f} overflows, expected self_normalised, truncated or power_mean"
        )
    return result


def self_normalised(log_weight: Tensor) -> Tensor:
    """Returns log(w / Σw), whose exponentials sum to 1.

    Bias: O(1/N) in whatever they average.
    Shapes: `[N]`.
    Raises: UsageError where every weight is 0.
    Source: Hesterberg 1995 (Technometrics 37:185).
    """
    if (_checked(log_weight) == -torch.inf).all():
        raise UsageError("weights: all 0, expected a proposal with samples where the law has some density")
    return log_weight.log_softmax(dim=0)


def truncated(log_weight: Tensor, limit: float) -> Tensor:
    """Returns log min(w, limit).

    Bias: at most E[(w − limit)₊ |f|]; a limit of √N keeps it consistent.
    Shapes: `[N]`.
    Source: Ionides 2008 (Journal of Computational and Graphical Statistics 17:295).
    """
    return _checked(log_weight).clamp(max=math.log(limit))


def power_mean(log_weight: Tensor, *, exponent: float = -1.0, mixing: float = 0.1) -> Tensor:
    """Returns log ((1−λ) w^s + λ)^(1/s): the power mean of w and 1, bounded by λ^(1/s) where s < 0.

    At s = −1 it is the weight to the mixture (1−λ) q + λ p.
    Bias: it shrinks towards 1; none at λ = 0.
    Shapes: `[N]`.
    Source: Metelli, Russo and Restelli 2021 (NeurIPS).
    """
    if exponent == 0 or not 0 <= mixing < 1:
        raise UsageError(f"exponent, mixing: {exponent:g}, {mixing:g}, expected not 0, and at least 0 and below 1")
    log_mixing = log_weight.new_tensor(mixing).log()
    return torch.logaddexp(math.log1p(-mixing) + exponent * _checked(log_weight), log_mixing) / exponent


def effective_sample_size(log_weight: Tensor) -> float:
    """Returns (Σw)² / Σw², between 1 and N.

    Shapes: `[N]`.
    Raises: UsageError where every weight is 0.
    Source: Kong 1992; Martino, Elvira and Louzada 2017, arXiv:1602.03572.
    """
    return 1 / float((2 * self_normalised(log_weight)).exp().sum())


def perplexity(log_weight: Tensor) -> float:
    """Returns exp of the entropy of the normalised weights, between 1 and N.

    Shapes: `[N]`.
    Raises: UsageError where every weight is 0.
    Source: Martino, Elvira and Louzada 2017, arXiv:1602.03572.
    """
    normalised = self_normalised(log_weight)
    return math.exp(-float(torch.where(normalised == -torch.inf, 0.0, normalised.exp() * normalised).sum()))


def largest_share(log_weight: Tensor) -> float:
    """Returns max w / Σw, at best 1/N.

    Shapes: `[N]`.
    Raises: UsageError where every weight is 0.
    Source: Chatterjee and Diaconis 2018, arXiv:1511.01437.
    """
    return float(self_normalised(log_weight).max().exp())


def pareto_k(log_weight: Tensor) -> float | None:
    """Returns the shape k of a generalised Pareto law fitted to the largest min(N/5, 3√N) weights; trust below 0.7.

    Moments of order 1/k exist, so that above 0.5 the weights have no variance and above 1 no mean. The fit is the
    quasi-Bayesian one of Zhang and Stephens, pulled to 0.5 as by ten further weights. None where fewer than five
    weights make the tail, or where they are equal.
    Shapes: `[N]`.
    Source: Vehtari et al. 2024 (JMLR 25), arXiv:1507.02646; Zhang and Stephens 2009 (Technometrics 51:316).
    """
    size = math.ceil(min(len(log_weight) / 5, 3 * math.sqrt(len(log_weight))))
    ordered = (self_normalised(log_weight).double() - float(log_weight.max())).sort().values
    ordered = (ordered - ordered[-1]).exp()
    excess = ordered[-size:] - ordered[-size - 1] if 5 <= size < len(ordered) else ordered[:0]
    if len(excess) == 0 or not excess[0] > 0 or excess[0] == excess[-1]:
        return None
    num_points = 30 + math.isqrt(size)
    quartile = excess[max(0, round(size / 4) - 1)]
    grid = torch.arange(1, num_points + 1, dtype=excess.dtype, device=excess.device) - 0.5
    points = 1 / excess[-1] + (1 - (num_points / grid).sqrt()) / (3 * quartile)
    shapes = torch.log1p(-points[:, None] * excess).mean(dim=1)
    likelihood = size * ((-points / shapes).log() - shapes - 1)
    point = (likelihood.softmax(dim=0) * points).sum()
    fitted = float(torch.log1p(-point * excess).mean())
    return (size * fitted + 5) / (size + 10)


def heuristic_log_weights(
    log_densities: Tensor, counts: Sequence[int], *, heuristic: Heuristic = "balance", exponent: float = 2.0
) -> Tensor:
    """Returns the log share of every proposal in every sample, `[K, N]`; over proposals the shares sum to 1.

    Balance: n_k q_k / Σ n_j q_j. Power: the same of (n_k q_k)^exponent. Constant: n_k / n, whatever the sample.
    Shapes: log_densities `[K, N]`, of sample n under proposal k; counts `[K]`, samples drawn of each.
    Raises: UsageError for a sample that no proposal can give.
    Source: Veach and Guibas 1995 (SIGGRAPH); Owen and Zhou 2000 (JASA 95:135).
    """
    expect("K N .", log_densities=log_densities)
    log_counts = torch.as_tensor(counts, dtype=log_densities.dtype, device=log_densities.device).log()[:, None]
    if heuristic == "constant":
        return (log_counts - log_counts.logsumexp(dim=0)).expand_as(log_densities)
    if (_checked(log_densities) == -torch.inf).all(dim=0).any():
        raise UsageError("proposals: none has density at a sample, expected that together they cover the law's support")
    scaled = (1.0 if heuristic == "balance" else exponent) * (log_counts + log_densities)
    return scaled.log_softmax(dim=0)


def multiple_log_weight(
    log_target: Tensor,
    log_densities: Tensor,
    source: Tensor,
    counts: Sequence[int],
    *,
    heuristic: Heuristic = "balance",
    exponent: float = 2.0,
) -> Tensor:
    """Returns log of (share / (n_k/n)) p / q_k for samples drawn of proposal k = source, `[N]`.

    With these weights the mean over all n samples is the multiple importance sampling estimate; under the balance
    heuristic they are p over the mixture of all proposals.
    Shapes: log_target and source `[N]`, log_densities `[K, N]`, counts `[K]`.
    Raises: UsageError where a sample could not have been drawn as it was.
    Source: Veach and Guibas 1995 (SIGGRAPH).
    """
    expect("N .", log_target=log_target, source=source)
    log_shares = heuristic_log_weights(log_densities, counts, heuristic=heuristic, exponent=exponent)
    log_fraction = torch.as_tensor(counts, dtype=log_densities.dtype, device=log_densities.device).log() - math.log(
        sum(counts)
    )
    ratio = log_ratio(log_target, log_densities.gather(0, source[None])[0])
    return ratio + log_shares.gather(0, source[None])[0] - log_fraction[source]


def _checked(log_weight: Tensor) -> Tensor:
    if log_weight.isnan().any() or (log_weight == torch.inf).any():
        word = "nan" if log_weight.isnan().any() else "inf"
        raise UsageError(f"log_weight: {word}, expected numbers below infinity; does a density return {word}?")
    return log_weight
