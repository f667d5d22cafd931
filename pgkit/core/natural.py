"""Natural gradients (F + λI)⁻¹ g: by a matrix, by its products with vectors, by its diagonal, or among samples.

Source: Amari 1998 (Neural Computation 10:251); Kakade 2001 (NeurIPS); Martens 2020, arXiv:1412.1193.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from pgkit.core.bonnet_price import derivatives
from pgkit.errors import UsageError
from pgkit.types import expect


def solve_dense(fisher: Tensor, gradient: Tensor, *, damping: float = 0.0) -> Tensor:
    """Returns (F + λI)⁻¹ g `[P]`.

    Shapes: fisher `[P, P]`, gradient `[P]`.
    Raises: UsageError where the damped matrix is singular.
    """
    expect("P", fisher=fisher, gradient=gradient)
    damped = fisher + damping * torch.eye(len(fisher), dtype=fisher.dtype, device=fisher.device)
    factor, failed = torch.linalg.cholesky_ex(damped)
    pivots = factor.diagonal()
    if failed or pivots.min().square() <= len(fisher) * torch.finfo(fisher.dtype).eps * pivots.max().square():
        raise UsageError(f"damping: {damping:g} with a singular Fisher matrix, expected a larger one")
    return torch.cholesky_solve(gradient[:, None], factor)[:, 0]


def solve_diagonal(scores: Tensor, gradient: Tensor, *, damping: float = 0.0) -> Tensor:
    """Returns g_k / (E[s_k²] + λ) `[P]`, 0 where a score never moves and nothing is added.

    Bias: the solve leaves out whatever ties parameters together.
    Shapes: scores `[N, P]`, gradient `[P]`.
    """
    expect("P", scores=scores.T, gradient=gradient)
    diagonal = scores.square().mean(dim=0) + damping
    return torch.where(diagonal > 0, gradient / torch.where(diagonal > 0, diagonal, 1.0), 0.0)


@dataclass(frozen=True, kw_only=True)
class ConjugateGradient:
    """What conjugate gradients found: `residual` is |(F + λI) x − g| / |g|; all on the device of the gradient."""

    solution: Tensor
    residual: Tensor
    iterations: Tensor


def solve_conjugate_gradient(
    product: Callable[[Tensor], Tensor],
    gradient: Tensor,
    *,
    damping: float = 0.0,
    iterations: int = 10,
    tolerance: float = 1e-10,
) -> ConjugateGradient:
    """Returns (F + λI)⁻¹ g `[P]` by conjugate gradients from products v → F v alone.

    Shapes: gradient `[P]`.
    Source: Hestenes and Stiefel 1952; Schulman et al. 2015, arXiv:1502.05477, for its use here.
    """
    solution, rest = torch.zeros_like(gradient), gradient.clone()
    direction, size = rest.clone(), rest @ rest
    start, done = size.double(), torch.zeros_like(size, dtype=torch.long)
    going = size > tolerance**2 * start
    for _ in range(iterations):
        # The host stops early; on a device it would have to wait in every iteration to learn whether it may.
        if going.device.type == "cpu" and not going:
            break
        image = product(direction) + damping * direction
        curvature = direction @ image
        # Along a direction that no sample distinguishes going on would divide by 0.
        going = going & (curvature > 0)
        step = torch.where(going, size / curvature, 0.0)
        solution, rest = solution + step * direction, rest - step * image
        size, before = rest @ rest, size
        direction, done = torch.where(going, rest + size / before * direction, direction), done + going
        going = going & (size > tolerance**2 * start)
    residual = torch.where(start > 0, size / start, 0.0).sqrt()
    return ConjugateGradient(solution=solution, residual=residual, iterations=done)


def solve_among_samples(scores: Tensor, coefficients: Tensor, *, damping: float) -> Tensor:
    """Returns (SᵀS/N + λI)⁻¹ Sᵀc as Sᵀ(SSᵀ/N + λI)⁻¹ c, `[P]`: an N×N solve for the empirical Fisher matrix.

    Shapes: scores S `[N, P]`, coefficients c `[N]`.
    Raises: UsageError without damping, where it exists for no N below P.
    Source: Woodbury 1950; Ren and Goldfarb 2019, arXiv:1906.02353, for Fisher matrices.
    """
    expect("N", scores=scores, coefficients=coefficients)
    if not damping > 0:
        raise UsageError(f"damping: {damping:g} among samples, expected above 0")
    gram = scores @ scores.T / len(scores) + damping * torch.eye(len(scores), dtype=scores.dtype, device=scores.device)
    return scores.T @ torch.cholesky_solve(coefficients[:, None], torch.linalg.cholesky(gram))[:, 0]


def solve_by_samples(scores: Tensor, gradient: Tensor, *, damping: float) -> Tensor:
    """Returns (SᵀS/N + λI)⁻¹ g = (g − Sᵀ(SSᵀ + NλI)⁻¹ S g) / λ, `[P]`, for any g by an N×N solve.

    The samples of the Fisher matrix may be a part of those that the gradient came from.
    Shapes: scores S `[N, P]`, gradient g `[P]`.
    Raises: UsageError without damping, where it exists for no N below P.
    Source: Woodbury 1950.
    """
    expect("P", scores=scores.T, gradient=gradient)
    if not damping > 0:
        raise UsageError(f"damping: {damping:g} among samples, expected above 0")
    gram = scores @ scores.T + len(scores) * damping * torch.eye(len(scores), dtype=scores.dtype, device=scores.device)
    seen = torch.cholesky_solve((scores @ gradient)[:, None], torch.linalg.cholesky(gram))[:, 0]
    return (gradient - scores.T @ seen) / damping


@dataclass(frozen=True, kw_only=True)
class Regression:
    """What a regression on scores found: `slope` `[P]`, `intercept`, and the share of the variance it explains."""

    slope: Tensor
    intercept: float
    explained: float


def regress_on_scores(scores: Tensor, returns: Tensor, *, damping: float, weights: Tensor | None = None) -> Regression:
    """Returns the least-squares fit of R ≈ b + Sᵀw with a penalty λ|w|²; w is the natural gradient of E[R].

    w = (C + λI)⁻¹ g with C the covariance of the scores and g that of scores and returns: b is the baseline that the
    regression finds by itself. Solved among samples.
    Bias: the intercept is fitted to the batch, O(1/N); damping turns w towards the gradient.
    Shapes: scores S `[N, P]`, one sum a trajectory, returns `[N]`, weights `[N]`, how much each counts, 1 by default.
    Raises: UsageError without damping.
    Source: Peters and Schaal 2008 (Neurocomputing 71:1180).
    """
    expect("N", scores=scores, returns=returns)
    shares = torch.ones_like(returns) if weights is None else weights
    shares = shares / shares.sum()
    middle, mean = shares @ scores, shares @ returns
    centred, rest = scores - middle, returns - mean
    root = shares.sqrt()
    # Among samples the Fisher matrix is a mean: rows √(N p) (S − E[S]) make it the weighted one.
    rows = (len(shares) ** 0.5 * root)[:, None] * centred
    slope = solve_among_samples(rows, rest * root / len(shares) ** 0.5, damping=damping)
    left, total = shares @ (rest - centred @ slope).square(), shares @ rest.square()
    explained = 1 - float(left / total) if total > 0 else 0.0
    return Regression(slope=slope, intercept=float(mean - middle @ slope), explained=explained)


def gaussian_step(
    log_density: Callable[[Tensor], Tensor], mean: Tensor, covariance: Tensor, noise: Tensor, *, rate: float
) -> tuple[Tensor, Tensor]:
    """Returns (μ, Σ) after a natural-gradient step of the evidence lower bound of N(μ, Σ) against a log density.

    Σ⁻¹ ← (1 − ρ) Σ⁻¹ − ρ E[∇² log p] and μ ← μ + ρ Σ_new E[∇ log p], the expectations by Bonnet and Price over
    x = μ + C ε. At ρ = 1 it is a Newton step of the averaged log density, and on a Gaussian posterior lands there.

    Shapes: mean `[D]`, covariance `[D, D]`, noise ε `[N, D]`; log_density maps `[N, D]` to `[N]`, unnormalised.
    Raises: UsageError where the new precision is not positive definite: the density is not concave there.
    Source: Khan and Nielsen 2018, arXiv:1807.04489; Opper and Archambeau 2009 (Neural Computation 21:786).
    """
    expect("N D .", noise=noise)
    samples = mean + noise @ torch.linalg.cholesky(covariance).T
    slopes, curvatures = derivatives(log_density, samples, None, joint=True)
    precision = (1 - rate) * torch.linalg.inv(covariance) - rate * curvatures.mean(dim=0)
    factor, failed = torch.linalg.cholesky_ex((precision + precision.T) / 2)
    if failed:
        raise UsageError(f"rate: {rate:g} where the log density is not concave, expected a smaller one")
    updated = torch.cholesky_inverse(factor)
    return mean + rate * updated @ slopes.mean(dim=0), updated
