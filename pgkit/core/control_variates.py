"""Linear control variates: noise of known mean that is correlated with a gradient, subtracted from it.

g − Σ_k β_k h_k with E[h_k] = 0 has the mean of g whatever β is, as long as β was not fitted to the same samples. The
best β is Cov(h)⁻¹ Cov(h, g), and leaves 1 − ρ² of the variance, ρ being the multiple correlation.
Source: Owen 2013, Monte Carlo theory, methods and examples, section 8.9; Geffner and Domke 2018, arXiv:1810.12482.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pgkit.core.optimal_baseline import folds_of
from pgkit.types import expect


def fit(gradients: Tensor, variates: Tensor, *, shared: bool = False, weight: Tensor | None = None) -> Tensor:
    """Returns the coefficients of least variance, Cov(h)⁻¹ Cov(h, g), for every coordinate `[K, P]`.

    With `shared` all coordinates have the same ones, `[K, 1]`, those of least trace. Variates that say the same share
    what they explain; one that never varies gets 0.
    Shapes: gradients `[N, P]`, variates `[N, K, P]`, weight `[N]` to count samples unequally.
    """
    expect("N", gradients=gradients, variates=variates)
    weight = gradients.new_ones(len(gradients)) if weight is None else weight
    weight = weight / weight.sum()
    g = gradients - torch.einsum("n,np->p", weight, gradients)
    h = variates - torch.einsum("n,nkp->kp", weight, variates)
    weighted = h * weight[:, None, None]
    if shared:
        covariance = torch.einsum("njp,nkp->jk", weighted, h)[None]
        cross = torch.einsum("nkp,np->k", weighted, g)[None]
    else:
        covariance = torch.einsum("njp,nkp->pjk", weighted, h)
        cross = torch.einsum("nkp,np->pk", weighted, g)
    # Scaled to correlations, so that what counts as dependent does not hang on the variates' units.
    scale = covariance.diagonal(dim1=-2, dim2=-1).sqrt()
    scale = torch.where(scale > 0, scale, 1.0)
    correlation = covariance / (scale[..., :, None] * scale[..., None, :])
    solved = torch.linalg.pinv(correlation, hermitian=True) @ (cross / scale)[..., None]
    return (solved[..., 0] / scale).T


def subtract(gradients: Tensor, variates: Tensor, coefficients: Tensor) -> Tensor:
    """Returns g − Σ_k β_k h_k, `[N, P]`.

    Bias: none where the coefficients were fitted to other samples, held out for that.
    Shapes: gradients `[N, P]`, variates `[N, K, P]`, coefficients `[K, P]` or `[K, 1]`.
    """
    return gradients - (coefficients * variates).sum(dim=1)


def cross_fitted(gradients: Tensor, variates: Tensor, *, folds: int = 5, shared: bool = False) -> Tensor:
    """Returns g − Σ_k β_k h_k, `[N, P]`, the coefficients of each fold fitted to the samples of all the others.

    Bias: none.
    Shapes: gradients `[N, P]`, variates `[N, K, P]`.
    Raises: ValueError for fewer than two folds, or more of them than samples.
    """
    fold = folds_of(len(gradients), folds)
    result = torch.empty_like(gradients)
    for k in range(folds):
        rest, own = fold != k, fold == k
        result[own] = subtract(gradients[own], variates[own], fit(gradients[rest], variates[rest], shared=shared))
    return result
