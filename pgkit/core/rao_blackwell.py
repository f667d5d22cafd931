"""Rao-Blackwellisation: what is known of an expectation is summed, only the rest is sampled.

A law of D independent factors is an `Independent` one; factor d is the d-th law of its batch, `[N, D]` log densities.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent

from pgkit.core.arguments import repeated
from pgkit.core.discrete import logits_of, product_support
from pgkit.core.expectation import direct_term, evaluate, scores, to_parameters
from pgkit.types import Expectation, Parameters


@final
@dataclass(frozen=True, kw_only=True)
class Separable(Expectation):
    """An expectation whose cost is a sum of terms, for a law that is a product of factors.

    `terms` maps samples `[N, *event]` to terms `[N, M]` that add up to the cost; `moves` lists for each factor those
    that move with it, without it term d moves with factor d alone.
    """

    terms: Callable[[Tensor], Tensor]
    moves: Sequence[Sequence[int]] | None = None


def num_factors(law: Distribution) -> int:
    """Returns D, the number of independent factors that a law is a product of; 1 for a law that is no product."""
    return law.base_dist.batch_shape.numel() if isinstance(law, Independent) else 1


def factor_log_prob(law: Distribution, samples: Tensor) -> Tensor:
    """Returns the log density of every factor, `[…, N, D]`.

    Shapes: law with N in its batch, samples `[…, N, *event]`.
    """
    if not isinstance(law, Independent):
        return law.log_prob(samples)[..., None]
    return law.base_dist.log_prob(samples).flatten(-law.reinterpreted_batch_ndims)


def weighted_scores(expectation: Expectation, parameters: Parameters, samples: Tensor, weights: Tensor) -> Tensor:
    """Returns Σ_d w_d ∇_θ log p_d(x_d) of every sample, `[N, P]`.

    With the sum of the terms of a cost that x_d moves as its weight it is a gradient without the noise of the others.
    Shapes: samples `[N, *event]`, weights `[N, D]`.
    Source: Ranganath, Gerrish and Blei 2014, arXiv:1401.0118; Schulman et al. 2015, arXiv:1506.05254.
    """
    law, leaves = repeated(expectation.law(parameters), len(samples))
    return _carried((weights * factor_log_prob(law, samples)).sum(), leaves, expectation, parameters)


def dependence(terms: Callable[[Tensor], Tensor], samples: Tensor, factors: int) -> Tensor:
    """Returns which terms were seen to move with which factors, `[D, M]` bool: a proof where True.

    Every factor in turn takes its value from the sample before. Terms that are noisy of themselves show nothing.
    Shapes: samples `[N, *event]` with D factors in their leading event dimensions; terms map them to `[N, M]`.
    """
    count = len(samples)
    flat = samples.reshape(count, factors, -1)
    switched = flat.expand(factors, *flat.shape).clone()
    each = torch.arange(factors)
    switched[each, :, each] = flat.roll(1, dims=0).transpose(0, 1)
    with torch.no_grad():
        before, again = terms(samples), terms(samples)
        after = terms(switched.reshape(factors * count, *samples.shape[1:])).unflatten(0, (factors, count))
    return (after != before).any(dim=1) & bool((before == again).all())


def marginalised(
    expectation: Expectation,
    parameters: Parameters,
    samples: Tensor,
    summed: Sequence[int],
    less_baseline: Callable[[Tensor], Tensor],
    largest: int,
) -> Tensor:
    """Returns Σ_v f(v, x) ∇p_S(v) + (Σ_v p_S(v) f(v, x) − b) Σ_{d∉S} ∇log p_d(x_d) of every sample, `[N, P]`.

    The factors S in `summed` are summed over all their values v, the others stay as sampled. `less_baseline` subtracts
    b from costs `[N]`.
    Shapes: samples `[N, *event]`.
    Raises: UsageError where there are more than `largest` values to sum over.
    Source: Casella and Robert 1996 (Biometrika 83:81); Titsias and Lázaro-Gredilla 2015 (NeurIPS).
    """
    count, one = len(samples), expectation.law(parameters)
    values = product_support(one, len(summed), largest)
    law, leaves = repeated(one, count)
    chosen, factors = torch.tensor(list(summed)), num_factors(one)
    flat = samples.reshape(count, factors, -1).expand(len(values), count, factors, -1).clone()
    flat[:, :, chosen] = values.reshape(len(values), 1, len(summed), -1).to(flat.dtype)
    filled = flat.reshape(len(values), count, *samples.shape[1:])
    log_prob = factor_log_prob(law, filled)
    chances = log_prob[..., chosen].sum(dim=-1).exp()
    sampled = torch.ones(factors, dtype=torch.bool).index_fill(0, chosen, False)
    rows = filled.flatten(0, 1)
    costs = evaluate(expectation.cost, rows).reshape(len(values), count)
    coefficients = less_baseline((chances.detach() * costs).sum(dim=0))
    surrogate = (chances * costs).sum() + (coefficients * log_prob[0][:, sampled].sum(dim=-1)).sum()
    direct = direct_term(expectation, parameters, rows).reshape(len(values), count, -1)
    return _carried(surrogate, leaves, expectation, parameters) + (chances.detach()[..., None] * direct).sum(dim=0)


def sum_and_sample(
    expectation: Expectation,
    parameters: Parameters,
    num_summed: int,
    num_samples: int,
    generator: torch.Generator,
    less_baseline: Callable[[Tensor], Tensor],
) -> Tensor:
    """Returns Σ_{k∈C} q_k (f_k − b) ∇log q_k + (1 − q(C)) (f(x) − b) ∇log q(x) of every sample, `[N, P]`.

    C are the likeliest categories, x is one of the others. `less_baseline` subtracts b from estimates `[N]` of E[f].
    Source: Liu, Regier, Tripuraneni, Jordan and McAuliffe 2019, arXiv:1810.04777.
    """
    law = expectation.law(parameters)
    chances = logits_of(law).detach().softmax(dim=-1)
    top = chances.topk(num_summed).indices
    others = chances.index_fill(0, top, 0.0)
    rest = others.sum()
    drawn = torch.multinomial(others, num_samples, replacement=True, generator=generator)
    rows = law.enumerate_support()[torch.cat([top, drawn])]
    certain, sampled = evaluate(expectation.cost, rows).split([num_summed, num_samples])
    known, left = scores(expectation, parameters, rows).split([num_summed, num_samples])
    estimates = (chances[top] * certain).sum() + rest * sampled
    baseline = estimates - less_baseline(estimates)
    summed = (chances[top] * certain) @ known - baseline[:, None] * (chances[top] @ known)
    direct = direct_term(expectation, parameters, rows)
    own = chances[top] @ direct[:num_summed] + rest * direct[num_summed:]
    return summed + rest * (sampled - baseline)[:, None] * left + own


def _carried(
    surrogate: Tensor, leaves: Mapping[str, Tensor], expectation: Expectation, parameters: Parameters
) -> Tensor:
    """Returns the gradient of a sum over samples in the arguments of their own laws, carried to θ, `[N, P]`."""
    gradients = torch.autograd.grad(surrogate, list(leaves.values()), materialize_grads=True, allow_unused=True)
    return to_parameters(dict(zip(leaves, gradients, strict=True)), expectation, parameters)
