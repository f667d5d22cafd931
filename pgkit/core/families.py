"""Families of Gaussian laws by unconstrained parameters, so that every step of an optimizer stays inside the family."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, MultivariateNormal, Normal

from pgkit.types import Parameters

Family = Callable[[Parameters], Distribution]


def mean_field(parameters: Parameters) -> Distribution:
    """Returns N(mean, diag(exp(log_scale))²), its coordinates independent; parameters `[D]` each.

    Source: Kucukelbir et al. 2017 (JMLR 18:14), arXiv:1603.00788.
    """
    scale = parameters["log_scale"].exp()
    return Independent(Normal(parameters["mean"], scale, validate_args=False), 1, validate_args=False)


def full_rank(parameters: Parameters) -> MultivariateNormal:
    """Returns N(mean, L Lᵀ) with L the lower triangle of `factor` and its diagonal exponentiated; `[D]` and `[D, D]`.

    Source: Kucukelbir et al. 2017 (JMLR 18:14), arXiv:1603.00788.
    """
    factor = parameters["factor"]
    lower = factor.tril(-1) + torch.diag(factor.diagonal().exp())
    return MultivariateNormal(parameters["mean"], scale_tril=lower, validate_args=False)


def free_factor(parameters: Parameters) -> MultivariateNormal:
    """Returns N(mean, A Aᵀ) with A the whole matrix `factor`, of which any rotation is the same law; `[D]`, `[D, D]`.

    Source: Glasmachers et al. 2010 (GECCO), for its use in search.
    """
    factor = parameters["factor"]
    # By A = (QR)ᵀ, A Aᵀ = RᵀR: the Cholesky factor of A Aᵀ, without squaring the condition of A.
    upper = torch.linalg.qr(factor.T).R
    lower = (upper * upper.diagonal().sign()[:, None]).T
    return MultivariateNormal(parameters["mean"], scale_tril=lower, validate_args=False)


def gaussian_kl(law: MultivariateNormal, mean: Tensor, precision: Tensor) -> Tensor:
    """Returns KL(law ‖ N(mean, precision⁻¹)) = ½(tr ΛΣ + δᵀΛδ − D − log det ΛΣ), in nats, differentiable.

    Shapes: mean `[D]`, precision `[D, D]`.
    Source: Kullback 1959 (Information Theory and Statistics), chapter 9.
    """
    factor, shift = law.scale_tril, law.loc - mean
    trace = (factor * (precision @ factor)).sum()
    log_det = 2 * factor.diagonal().log().sum() + torch.logdet(precision)
    return (trace + shift @ precision @ shift - len(mean) - log_det) / 2


def as_multivariate(law: Distribution) -> MultivariateNormal:
    """Returns a Gaussian law of this file as one with a Cholesky factor."""
    if isinstance(law, MultivariateNormal):
        return law
    return MultivariateNormal(law.mean, scale_tril=torch.diag(law.stddev), validate_args=False)
