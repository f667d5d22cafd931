"""Log weights of trajectories and of their prefixes, and the little that is left of them before they are exponentials.

A weight is the probability of what happened under the policy that learns over that under the one that acted, or over a
mixture of all that acted. Start and dynamics cancel. Differences of log-probabilities come first, in double precision
whatever comes in; −inf is a weight of 0, and what no weight can be is a fault with a name.
Source: Precup, Sutton and Singh 2000 (ICML); Veach and Guibas 1995 (SIGGRAPH) for mixtures.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pgkit.errors import RunFault
from pgkit.types import expect

LIMIT = 30.0
"""Nats that a log weight keeps either side of 0: e^30 is 10^13. A return multiplies by exp(L_k − L_t), at most e^60, so
that single precision, which ends at e^88, holds it times rewards, and gradients their squares. Weights at a bound are
counted as `weights/clamped` by the instrument of the weights; one at the lower bound counts as 0 there."""


def action_log_ratio(log_target: Tensor, log_behavior: Tensor, mask: Tensor) -> Tensor:
    """Returns log π − log μ of every action, double, 0 outside the mask; +inf where μ alone is 0, −inf where π is.

    Shapes: log_target and mask `[T, N]`, log_behavior `[T, N]` or `[K, T, N]`, and so the result.
    Raises: RunFault for log-probabilities of nan or inf.
    """
    expect("T N .", log_target=log_target, mask=mask)
    ratio = torch.where(mask, log_target.double() - log_behavior, 0.0)
    # A sum is finite where all of it is: one walk through what may be K times the batch.
    if ratio.sum().isfinite():
        return ratio
    target, behavior = (torch.where(mask, each, 0.0).double() for each in (log_target, log_behavior))
    for name, each in (("log_prob", target), ("behavior_log_prob", behavior)):
        if each.isnan().any() or (each == torch.inf).any():
            word = "nan" if each.isnan().any() else "inf"
            raise RunFault(f"{name}: {word} for an action that was taken, expected a finite number")
    return torch.where(target == -torch.inf, -torch.inf, ratio)


def refuse_impossible(behavior_log_prob: Tensor, mask: Tensor) -> None:
    """Returns nothing; whoever acted must have been able to.

    Shapes: both `[T, N]`.
    Raises: RunFault for an action of probability 0 under the policy that is said to have taken it.
    """
    if ((behavior_log_prob == -torch.inf) & mask).any():
        raise RunFault(
            "behavior_log_prob: -inf for an action that was taken, expected that of the policy which took it; "
            "such data are impossible"
        )


def cumulated(log_ratio: Tensor, *, per_decision: bool) -> Tensor:
    """Returns Σ of the log ratios up to each row (`per_decision`), or of the whole column as its one row.

    A target probability of 0 once is a weight of 0 from there on, whatever the other ratios say.
    Shapes: `[…, T, N]`; the result alike, or `[…, 1, N]`.
    """
    total = log_ratio.cumsum(dim=-2) if per_decision else log_ratio.sum(dim=-2, keepdim=True)
    if total[..., -1:, :].isfinite().all():  # what is infinite anywhere is so in the last row
        return total
    impossible = log_ratio == -torch.inf
    before = impossible.cumsum(dim=-2) > 0 if per_decision else impossible.any(dim=-2, keepdim=True)
    return torch.where(before, -torch.inf, total)


def mixture_shares(
    behavior_id: Tensor, num_behaviors: int, *, discount: Tensor | None = None, defensive: float | None = None
) -> Tensor:
    """Returns the share α_k of every policy in the mixture, double; they sum to 1.

    n_k/n, each column counting `discount` times where given; `defensive` is then the share of policy 0, and the others
    keep their proportions. A policy without columns has the share 0, and drops out.
    Shapes: behavior_id and discount `[N]`; the result `[K]`.
    Source: Hesterberg 1995 (Technometrics 37:185) for the defensive share.
    """
    counted = torch.ones_like(behavior_id).double() if discount is None else discount.double()
    counts = counted.new_zeros(num_behaviors).index_add_(0, behavior_id, counted)
    shares = counts / counts.sum()
    if defensive is None or not counts[0] or not counts[1:].any():
        return shares
    others = (1 - defensive) * counts[1:] / counts[1:].sum()
    return torch.cat([shares.new_tensor([defensive]), others])


def mixture_log_weight(
    log_weights: Tensor, behavior_id: Tensor, shares: Tensor, *, exponent: float | None = 1.0
) -> Tensor:
    """Returns log of (h_k / (n_k/n)) p / q_k for columns drawn of policy k, h_k = (α_k q_k)^β / Σ_j (α_j q_j)^β.

    β = 1 is the balance heuristic: the weight is (α_k n / n_k) p / Σ_j α_j q_j, with α = n_k/n that to the mixture.
    None stands for constant shares, h_k = α_k. As the h_k sum to 1 the mean of w f over all columns is E_p[f], for
    every α and β; that of one policy's columns alone is E_p[f] only where shares are constant.
    Shapes: log_weights `[K, T, N]`, log p/q_k of every row; behavior_id `[N]`, shares `[K]`; the result `[T, N]`.
    Source: Veach and Guibas 1995 (SIGGRAPH); Owen and Zhou 2000 (JASA 95:135).
    """
    num_behaviors = expect("K T N .", log_weights=log_weights)["K"]
    counts = torch.bincount(behavior_id, minlength=num_behaviors).double()
    log_fraction = (counts / counts.sum()).log()[behavior_id]
    log_share = shares.log()
    own = log_weights.gather(0, behavior_id.expand(1, *log_weights.shape[1:]))[0]
    if exponent is None:
        return own + (log_share[behavior_id] - log_fraction)
    # In p/q_k and not in q_k: what all of them have in common is gone before anything is exponentiated.
    scaled = exponent * (log_share[:, None, None] - log_weights)
    heuristic = exponent * (log_share[behavior_id] - own) - scaled.logsumexp(dim=0)
    return torch.where(own == -torch.inf, -torch.inf, own + heuristic - log_fraction)


def self_normalised_columns(log_weight: Tensor) -> Tensor:
    """Returns log (w / mean of w over the columns) at every row.

    Bias: O(1/N) in whatever they average.
    Shapes: `[T, N]`; a column that ended keeps the weight it ended with.
    Raises: RunFault where all weights of a row are 0.
    Source: Hesterberg 1995 (Technometrics 37:185); Precup, Sutton and Singh 2000, per decision.
    """
    total = log_weight.logsumexp(dim=1, keepdim=True)
    if (total == -torch.inf).any():
        raise RunFault(
            "weights: all 0, so that they cannot be normalised; expected data with some probability under the policy "
            "that learns, or weights.self_normalise=false"
        )
    return log_weight - total + math.log(log_weight.shape[1])


def clamped(log_weight: Tensor) -> Tensor:
    """Returns the log weight held within `LIMIT` of 0; a weight of 0 becomes e^−30.

    Bias: none to speak of from below; from above as `truncated` at 10^13.
    Shapes: any.
    """
    return log_weight.clamp(min=-LIMIT, max=LIMIT)


def at_the_bound(log_weight: Tensor) -> Tensor:
    """Returns which log weights were clamped, bool.

    Shapes: any.
    """
    return log_weight.abs() >= LIMIT
