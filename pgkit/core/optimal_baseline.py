"""The baselines of least variance, which are regressions of the gradient on the score.

The estimate is the mean of g_n − b s_n, where g_n = Σ_t w_t f_t s_t is one sample's gradient and s_n = Σ_t w_t s_t its
score sum (w s in place of s off-policy). Because E[s] = 0, the trace of its covariance is least at
b = E⟨g, s⟩ / E|s|², and that of coordinate k alone at b_k = E[g_k s_k] / E[s_k²]. With one factor these are the
familiar E[f |s|²] / E[|s|²] and E[f s_k²] / E[s_k²].

Fitted to the sample that it is subtracted from, such a baseline is biased (at N = 1 the gradient would be exactly 0).
Cross-fitted, each sample's baseline comes from the folds it is not in, by default from all the other samples.
Source: Weaver and Tao 2001 (UAI), arXiv:1301.2315; Greensmith, Bartlett and Baxter 2004 (JMLR 5:1471); Peters and
Schaal 2008 (Neural Networks 21:682) for one a parameter.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from pgkit.core.persample import layers_of
from pgkit.core.placed import carried
from pgkit.errors import UsageError
from pgkit.types import expect


def optimal(gradients: Tensor, scores: Tensor) -> Tensor:
    """Returns b = Σ⟨g, s⟩ / Σ|s|² as `[1]`, 0 where no score moves.

    Bias: subtracted from the samples it was fitted to, it shrinks the gradient; this is the population's formula.
    Shapes: both `[N, P]`; rows multiplied by the root of a weight count by that weight.
    """
    return optimal_parameter(*_traces(gradients, scores))


def optimal_parameter(gradients: Tensor, scores: Tensor) -> Tensor:
    """Returns b_k = Σ g_k s_k / Σ s_k² as `[P]`, 0 where the score of a parameter never moves.

    Bias: subtracted from the samples it was fitted to, it shrinks the gradient; this is the population's formula.
    Shapes: both `[N, P]`; rows multiplied by the root of a weight count by that weight.
    """
    expect("N P .", gradients=gradients, scores=scores)
    return _ratio((gradients * scores).sum(dim=0), scores.square().sum(dim=0))


def cross_fitted(gradients: Tensor, scores: Tensor, *, folds: int | None = None) -> Tensor:
    """Returns `optimal` of the other folds for every sample, `[N, 1]`.

    Bias: none.
    Shapes: both `[N, P]`. Without `folds` each sample is a fold of its own.
    Raises: ValueError where fewer than two folds can be made.
    """
    return cross_fitted_parameter(*_traces(gradients, scores), folds=folds)


def cross_fitted_parameter(gradients: Tensor, scores: Tensor, *, folds: int | None = None) -> Tensor:
    """Returns `optimal_parameter` of the other folds for every sample, `[N, P]`.

    Bias: none.
    Shapes: both `[N, P]`. Without `folds` each sample is a fold of its own.
    Raises: ValueError where fewer than two folds can be made.
    """
    expect("N P .", gradients=gradients, scores=scores)
    return cross_fitted_ratio(gradients * scores, scores.square(), folds=folds)


def cross_fitted_ratio(
    numerators: Tensor, denominators: Tensor, *, folds: int | None = None, strata: Tensor | None = None
) -> Tensor:
    """Returns the ratio of the sums over the other folds for every sample, 0 where there is nothing to divide by.

    Bias: none, as a sample does not enter its own.
    Shapes: both `[N, …]` alike, and so the result; folds and strata as in `folds_of`.
    Raises: ValueError where fewer than two folds can be made.
    """
    num_samples = expect("N", numerators=numerators, denominators=denominators)["N"]
    fold = folds_of(num_samples, folds, strata)
    return _ratio(others(numerators, fold), others(denominators, fold))[fold]


def cross_fitted_time(
    products: Tensor, squares: Tensor, *, folds: int | None = None, strata: Tensor | None = None
) -> Tensor:
    """Returns b_t = E⟨s_t, g⟩ / E|s_t|² of the other folds, shrunk to the one number for all times, `[F, N]`.

    The ratio at a time is a noisy one, worst where few samples live so long. It counts by τ²/(τ² + v_t), v_t being its
    sampling variance and τ² the variance between times that v_t leaves unexplained (by the method of moments, 0 at
    least): where times cannot be told apart, the one number is left.
    Bias: none, as a sample does not enter its own.
    Shapes: both `[F, N]`: ⟨s_tn, g_n⟩ with the gradient g_n of the whole sample, and |s_tn|²; folds and strata as in
        `folds_of`.
    Raises: ValueError where fewer than two folds can be made.
    Source: Peters and Schaal 2008 for the ratio; DerSimonian and Laird 1986 (Controlled Clinical Trials 7:177) for τ².
    """
    num_samples = expect("F N .", products=products, squares=squares)["N"]
    fold = folds_of(num_samples, folds, strata)
    n, d = products.T.double(), squares.T.double()  # [N, F]
    above, below = others(n, fold), others(d, fold)
    common = _ratio(above.sum(dim=1, keepdim=True), below.sum(dim=1, keepdim=True))
    at = _ratio(above, below)
    residual = others(n.square(), fold) - 2 * common * others(n * d, fold) + common.square() * others(d.square(), fold)
    noise = _ratio(residual, below.square())
    # Precision-weighted, Σ w (b_t − b̄)² has the mean F − 1 where nothing but noise separates the times.
    weight = torch.where(noise > 0, 1 / torch.where(noise > 0, noise, 1.0), 0.0)
    total = weight.sum(dim=1, keepdim=True)
    middle = _ratio((weight * at).sum(dim=1, keepdim=True), total)
    excess = (weight * (at - middle).square()).sum(dim=1, keepdim=True) - ((weight > 0).sum(dim=1, keepdim=True) - 1)
    between = _ratio(excess.clamp(min=0.0), total - _ratio(weight.square().sum(dim=1, keepdim=True), total))
    trust = _ratio(between.expand_as(noise), between + noise)
    return (common + trust * (at - common))[fold].T.to(products.dtype)


def cross_fitted_layer(
    gradients: Tensor, scores: Tensor, layout: Mapping[str, slice], *, folds: int | None = None
) -> Tensor:
    """Returns one number a layer of the other folds for every sample, repeated over its parameters, `[N, P]`.

    A layer is a module: its weight and bias share the prefix of their names. It is optimal for the trace of the
    layer's own covariance, and so for that of the whole.
    Bias: none.
    Shapes: gradients, scores `[N, P]`; `layout` says where each parameter lies in P.
    Raises: ValueError where fewer than two folds can be made.
    """
    result = torch.zeros_like(gradients)
    for slices in layers_of(layout).values():
        own = [torch.cat([x[:, where] for where in slices], dim=1) for x in (gradients, scores)]
        for where in slices:
            result[:, where] = cross_fitted(own[0], own[1], folds=folds)
    return result


def folds_of(num_samples: int, folds: int | None, strata: Tensor | None = None) -> Tensor:
    """Returns the fold of every sample, `[N]`, dealt in turn, so that their sizes differ by one at most.

    None stands for as many as can be: one a sample. With `strata`, numbers `[N]` of the laws that samples come from,
    each fold has the same number of each of them, so that what is fitted to the other folds has one expectation for all
    samples; as many as can be is then the greatest common divisor of the strata's sizes.
    Raises: ValueError for fewer than two folds, or more of them than samples; UsageError where strata do not allow it.
    """
    if strata is None or not strata.any():
        folds = num_samples if folds is None else folds
        if not 2 <= folds <= num_samples:
            raise ValueError(f"folds: {folds} of {num_samples} samples, expected at least 2 and at most one a sample")
        return torch.arange(num_samples) % folds
    sizes = [size for size in torch.bincount(strata).tolist() if size]
    common = math.gcd(*sizes)
    folds = common if folds is None else folds
    if folds < 2 or common % folds:
        drawn = ", ".join(map(str, sizes))
        raise UsageError(
            f"baseline: {folds} folds of columns that {len(sizes)} policies sampled, {drawn}, expected at least "
            "2 that divide each number, or baseline=leave_one_out, value or zero"
        )
    result = torch.zeros_like(strata)
    for stratum in strata.unique():
        inside = strata == stratum
        result[inside] = torch.arange(int(inside.sum()), device=strata.device) % folds
    return result


def others(values: Tensor, fold: Tensor) -> Tensor:
    """Returns the sum of `values` over all folds but one, for every fold, `[K, …]`.

    Sums from both ends rather than a total less its own: one huge sample would leave nothing but its rounding error.
    Shapes: values `[N, …]`, fold `[N]`.
    """
    count = int(fold.max()) + 1
    sums = values.new_zeros((count, *values.shape[1:])).index_add_(0, carried(fold, values), values)
    before = torch.cat([torch.zeros_like(sums[:1]), sums[:-1].cumsum(dim=0)])
    after = torch.cat([torch.zeros_like(sums[:1]), sums[1:].flip(0).cumsum(dim=0)]).flip(0)
    return before + after


def _traces(gradients: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
    """Returns one column each, whose product is ⟨g, s⟩ and whose second's square is |s|²."""
    expect("N P .", gradients=gradients, scores=scores)
    norm = scores.norm(dim=1, keepdim=True)
    return _ratio((gradients * scores).sum(dim=1, keepdim=True), norm), norm


def _ratio(numerator: Tensor, denominator: Tensor) -> Tensor:
    return torch.where(denominator > 0, numerator / torch.where(denominator > 0, denominator, 1.0), 0.0)
