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


def score_covariance(score_mean: Tensor, precision: Tensor) -> Tensor:
    """Returns ∇_Σ log N(x; μ, Σ) = ½(s sᵀ − Σ⁻¹) with s = ∇_μ log N, `[N, D, D]`, symmetric.

    Shapes: score_mean s = Σ⁻¹(x − μ) `[N, D]`, precision Σ⁻¹ `[D, D]`.
    """
    expect("N D .", score_mean=score_mean)
    halved = score_mean * 0.5**0.5
    return torch.addcmul(precision / -2, halved[:, :, None], halved[:, None, :])


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


def score_cholesky(noise: Tensor, score_mean: Tensor, cholesky: Tensor) -> Tensor:
    """Returns ∇_C log N(x; μ, C Cᵀ) = tril(C⁻ᵀ(ε εᵀ − I)) = tril(s εᵀ) − diag(1/C_ii), `[N, D, D]`.

    Shapes: noise ε = C⁻¹(x − μ) and score_mean s = C⁻ᵀ ε `[N, D]`, cholesky `[D, D]`, lower triangular.
    """
    expect("N D .", noise=noise, score_mean=score_mean)
    return lower_products(score_mean, noise, cholesky.diagonal().reciprocal().neg().diag())


def lower_products(left: Tensor, right: Tensor, start: Tensor) -> Tensor:
    """Returns start + tril(l rᵀ) of every sample, `[N, D, D]`; written once, for memory is what it costs.

    Shapes: left and right `[N, D]`, start `[D, D]`, lower triangular.
    """
    return torch.addcmul(start, left[:, :, None], right[:, None, :]).tril_()


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
    unit, lower = torch.eye(size, dtype=cholesky.dtype, device=cholesky.device), torch.ones_like(cholesky).tril()
    full = torch.einsum("ik,jl->ijkl", inverse.T @ inverse, unit) + torch.einsum("li,jk->ijkl", inverse, inverse)
    return torch.einsum("ijkl,ij,kl->ijkl", full, lower, lower).reshape(size**2, size**2)
