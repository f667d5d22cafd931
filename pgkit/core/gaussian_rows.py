"""Per-sample gradients in the arguments of Gaussian laws in closed form, which is much cheaper than a batch of laws."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, MultivariateNormal, Normal

from pgkit.core import gaussian
from pgkit.core.arguments import arguments
from pgkit.core.chain import Rows


def score_rows(law: Distribution, samples: Tensor) -> Rows | None:
    """Returns the scores of samples in each argument of a Gaussian law; None for any other.

    Shapes: samples `[N, *event]`.
    """
    base = law.base_dist if isinstance(law, Independent) else law
    if isinstance(base, Normal):
        return lambda rows: {
            "loc": gaussian.score_loc(samples[rows], base.loc, base.scale),
            "scale": gaussian.score_scale(samples[rows], base.loc, base.scale),
        }
    if not isinstance(law, MultivariateNormal) or "precision_matrix" in (given := arguments(law)):
        return None
    factor = law.scale_tril
    by_loc = gaussian.score_mean(samples, law.loc, factor)
    if "scale_tril" not in given:
        precision = torch.cholesky_inverse(factor)
        return lambda rows: {
            "loc": by_loc[rows],
            "covariance_matrix": gaussian.score_covariance(by_loc[rows], precision),
        }
    noise = (samples - law.loc) @ torch.linalg.inv(factor).T
    return lambda rows: {
        "loc": by_loc[rows],
        "scale_tril": gaussian.score_cholesky(noise[rows], by_loc[rows], factor),
    }


def noise_of(law: Distribution) -> Distribution | None:
    """Returns the law of the noise ε that torch's own Gaussians μ + σ ε and μ + C ε are made of; None for any other."""
    base, given = law.base_dist if isinstance(law, Independent) else law, arguments(law)
    if type(base) is not Normal and not (type(law) is MultivariateNormal and "scale_tril" in given):
        return None
    return Normal(torch.zeros_like(given["loc"]), torch.ones_like(given["loc"]), validate_args=False)


def path_rows(law: Distribution, by_loc: Tensor, by_noise: Tensor, noise: Tensor) -> Rows:
    """Returns what flows through samples μ + σ ε or μ + C ε into μ and σ, or into μ and the lower triangle of C.

    Shapes: by_loc, what flows into μ, by_noise, what flows into σ ε or C ε, and noise ε, all `[N, *event]`.
    """
    if not isinstance(law, MultivariateNormal):
        return lambda rows: {"loc": by_loc[rows], "scale": by_noise[rows] * noise[rows]}
    nothing = torch.zeros_like(law.scale_tril)
    return lambda rows: {
        "loc": by_loc[rows],
        "scale_tril": gaussian.lower_products(by_noise[rows], noise[rows], nothing),
    }
