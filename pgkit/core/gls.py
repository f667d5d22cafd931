"""The state-dependent baseline of least variance among those that are linear in given features.

With b(s_t) = φ(s_t)·w the gradient of sample i is g_i − Σ_k w_k u_ik, u_ik = Σ_t φ_k(s_t) s_t being what the feature
alone would contribute, a vector in P. Its expectation is 0, so the trace of the covariance is least where E|g − U w|²
is: w = (Σ_i U_i U_iᵀ)⁻¹ Σ_i U_i g_i, a generalised least squares of the returns on the features whose weights are the
Gram matrices of the scores. Cross-fitted, every sample's weights come from the folds that it is not in.
Source: Greensmith, Bartlett and Baxter 2004 (JMLR 5:1471) for the optimum; Aitken 1936 for generalised least squares.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pgkit.core.optimal_baseline import folds_of, others
from pgkit.types import expect

RIDGE = 1e-6
"""What is added to the diagonal of the normal equations, as a share of it: features may repeat each other."""


def normal_equations(features: Tensor, gradients: Tensor) -> tuple[Tensor, Tensor]:
    """Returns what each sample adds to both sides of the normal equations, `[N, K, K]` and `[N, K]`, double.

    Shapes: features `[K, N, P]`, the gradients of each feature in place of the signal; gradients `[N, P]`.
    """
    expect("N P .", gradients=gradients, features=features[0])
    left = torch.einsum("knp,lnp->nkl", features, features)
    right = torch.einsum("knp,np->nk", features, gradients)
    return left.double(), right.double()


def solve(left: Tensor, right: Tensor, *, ridge: float = RIDGE) -> Tensor:
    """Returns the weights `[…, K]` of summed normal equations; 0 for features that never contribute.

    Shapes: left `[…, K, K]`, right `[…, K]`.
    """
    size = left.diagonal(dim1=-2, dim2=-1)
    # In units in which every feature contributes alike, so that the ridge means the same for all of them.
    unit = torch.where(size > 0, size, 1.0).sqrt()
    scaled = left / (unit[..., :, None] * unit[..., None, :])
    scaled = scaled + torch.diag_embed(torch.where(size > 0, ridge, 1.0).expand_as(size))
    return torch.linalg.solve(scaled, (right / unit)[..., None]).squeeze(-1) / unit


def cross_fitted(features: Tensor, gradients: Tensor, *, folds: int | None = None, ridge: float = RIDGE) -> Tensor:
    """Returns the weights of every sample, fitted to the samples of the other folds, `[N, K]`.

    Bias: none.
    Shapes: features `[K, N, P]`, gradients `[N, P]`. Without `folds` each sample is a fold of its own.
    Raises: ValueError where fewer than two folds can be made.
    """
    num_samples = gradients.shape[0]
    fold = folds_of(num_samples, folds)
    left, right = normal_equations(features, gradients)
    return solve(others(left, fold), others(right, fold), ridge=ridge)[fold].to(gradients.dtype)


def less_fitted(gradients: Tensor, features: Tensor) -> Tensor:
    """Returns the gradients less the cross-fitted combination of the features' own, `[N, P]`.

    Bias: none.
    Shapes: gradients `[N, P]`, features `[K, N, P]`.
    """
    return gradients - torch.einsum("nk,knp->np", cross_fitted(features, gradients), features)
