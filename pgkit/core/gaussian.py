"""Closed forms of the Gaussian: scores and Fisher matrices in its mean, covariance, deviations and Cholesky factor.

Covariances follow the unconstrained symmetric convention: the d² entries of Σ count as free, so that a derivative in
Σ is a symmetric matrix G with d f = Σ_ij G_ij dΣ_ij, and an off-diagonal entry is moved twice by a symmetric change.

Source: Amari 1998 (Neural Computation 10:251); Petersen and Pedersen 2012 (The Matrix Cookbook), section 8.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pgkit.types import expect


def score_mean(samples: Tensor, mean: Tensor, cholesky: Tensor) -> Tensor:
    """Returns ∇_μ log N(x; μ, C Cᵀ) = Σ⁻¹(x − μ), `[N, D]`.

    Shapes: samples `[N, D]`, mean `[D]`, cholesky `[D, D]`, lower triangular.
    """
    expect("N D .", samples=samples)
    return (samples - mean) @ torch.cholesky_inverse(cholesky)


def score_covariance(samples: Tensor, mean: Tensor, cholesky: Tensor) -> Tensor:
    """Returns ∇_Σ log N(x; μ, Σ) = ½(Σ⁻¹ δ δᵀ Σ⁻¹ − Σ⁻¹) with δ = x − μ and Σ = C Cᵀ, `[N, D, D]`, symmetric.

    Shapes: samples `[N, D]`, mean `[D]`, cholesky `[D, D]`, lower triangular.
    """
    halved = score_mean(samples, mean, cholesky) * 0.5**0.5
    return torch.baddbmm(torch.cholesky_inverse(cholesky), halved[:, :, None], halved[:, None, :], beta=-0.5)


def score_loc(samples: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
    """Returns ∇_μ log N(x; μ, diag σ²) = (x − μ)/σ², `[N, …]`.

    Shapes: samples `[N, …]`, loc and scale `[…]`.
    """
    return (samples - loc) * scale.square().reciprocal()


def score_scale(samples: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
    """Returns ∇_σ log N(x; μ, diag σ²) = ((x − μ)²/σ² − 1)/σ, `[N, …]`.

    Shapes: samples `[N, …]`, loc and scale `[…]`.
    """
    reciprocal = scale.reciprocal()
    return (((samples - loc) * reciprocal).square() - 1) * reciprocal


def score_cholesky(samples: Tensor, mean: Tensor, cholesky: Tensor) -> Tensor:
    """Returns ∇_C log N(x; μ, C Cᵀ) = tril(C⁻ᵀ(ε εᵀ − I)) with ε = C⁻¹(x − μ), `[N, D, D]`.

    Shapes: samples `[N, D]`, mean `[D]`, cholesky `[D, D]`, lower triangular.
    """
    expect("N D .", samples=samples)
    inverse = torch.linalg.inv(cholesky)
    noise = (samples - mean) @ inverse.T
    return torch.baddbmm(inverse.T, (noise @ inverse)[:, :, None], noise[:, None, :], beta=-1).tril_()


def fisher_mean(covariance: Tensor) -> Tensor:
    """Returns the Fisher matrix of the mean, Σ⁻¹, `[D, D]`; that of mean and covariance together is block diagonal."""
    return torch.linalg.inv(covariance)


def fisher_covariance(covariance: Tensor) -> Tensor:
    """Returns the Fisher matrix of the entries of Σ, row by row: ½ Σ⁻¹ ⊗ Σ⁻¹ made symmetric, `[D², D²]`.

    A score is a symmetric matrix, so the Fisher matrix is that of the symmetric part of a change of Σ, and singular.
    """
    inverse = torch.linalg.inv(covariance)
    size = len(covariance)
    product = torch.einsum("ik,jl->ijkl", inverse, inverse)
    return ((product + product.transpose(2, 3)) / 4).reshape(size**2, size**2)


def fisher_scale(scale: Tensor) -> Tensor:
    """Returns the diagonal of the Fisher matrix of σ, 2/σ², `[…]`; in log σ it is 2 everywhere."""
    return 2 / scale.square()


def fisher_cholesky(cholesky: Tensor) -> Tensor:
    """Returns the Fisher matrix of the entries of C, row by row, `[D², D²]`; 0 above the diagonal of C.

    F_(ij)(kl) = Σ⁻¹_ik δ_jl + C⁻¹_li C⁻¹_jk, from E[(ε_a ε_j − δ_aj)(ε_c ε_l − δ_cl)] = δ_ac δ_jl + δ_al δ_cj.
    """
    inverse, size = torch.linalg.inv(cholesky), len(cholesky)
    unit, lower = torch.eye(size).to(cholesky), torch.ones_like(cholesky).tril()
    full = torch.einsum("ik,jl->ijkl", inverse.T @ inverse, unit) + torch.einsum("li,jk->ijkl", inverse, inverse)
    return torch.einsum("ijkl,ij,kl->ijkl", full, lower, lower).reshape(size**2, size**2)
