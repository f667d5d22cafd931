"""What importance weights say of themselves: how many samples they are worth, and whether that can be believed."""

from __future__ import annotations

import math
from dataclasses import astuple, dataclass
from typing import final

import torch
from torch import Tensor

from pgkit.core import importance
from pgkit.types import expect

TRUSTED = 0.7
"""The shape of a tail up to which means of such weights converge at a useful rate.

Source: Vehtari et al. 2024 (JMLR 25), arXiv:1507.02646.
"""


@final
@dataclass(frozen=True, kw_only=True)
class Health:
    """Shares are of the number of weights; the last three are quantiles of the log weights, in nats.

    `ess_fraction` and `perplexity_fraction` are 0 where every weight is, and what is None has no answer there.
    """

    ess_fraction: float
    perplexity_fraction: float
    largest_share: float | None
    pareto_k: float | None
    log_weight: float | None
    log_weight_low: float | None
    log_weight_high: float | None

    def values(self) -> tuple[float | None, ...]:
        """Returns the fields in their order."""
        found: tuple[float | None, ...] = astuple(self)
        return found


FIELDS = tuple(Health.__dataclass_fields__)


def health_of(log_weight: Tensor) -> Health:
    """Returns the effective sample size, perplexity, largest share, Pareto k, and the 50, 5 and 95 % quantiles.

    Shapes: `[N]`, N of at least 1; a weight may be 0.
    Raises: UsageError for log weights of nan or inf.
    Source: Kong 1992; Martino, Elvira and Louzada 2017, arXiv:1602.03572; Vehtari et al. 2024, arXiv:1507.02646.
    """
    num = expect("N .", log_weight=log_weight)["N"]
    values = log_weight.double()
    middle, low, high = (
        None if math.isinf(level) else level
        for level in torch.quantile(values, values.new_tensor([0.5, 0.05, 0.95]), interpolation="nearest").tolist()
    )
    quantiles = {"log_weight": middle, "log_weight_low": low, "log_weight_high": high}
    if (values == -torch.inf).all():
        return Health(ess_fraction=0.0, perplexity_fraction=0.0, largest_share=None, pareto_k=None, **quantiles)
    return Health(
        ess_fraction=importance.effective_sample_size(values) / num,
        perplexity_fraction=importance.perplexity(values) / num,
        largest_share=importance.largest_share(values),
        pareto_k=importance.pareto_k(values),
        **quantiles,
    )


def renyi_divergence(log_weight: Tensor) -> float | None:
    """Returns D₂ = log mean w² in nats, the exponent of the variance of such weights; None where all are 0.

    Bias: low where the largest weights are too rare to be among the samples, which they are when it matters most.
    Shapes: `[N]`.
    Source: Metelli, Papini, Faccio and Restelli 2018, arXiv:1809.06098.
    """
    found = float((2 * log_weight.double()).logsumexp(dim=0)) - math.log(len(log_weight))
    return None if math.isinf(found) else found


def missing_mass(log_weight: Tensor, limit: float) -> tuple[float, float]:
    """Returns 1 − mean w and its standard error, w = min(w, e^limit).

    E[w] is the probability, under the target, of what the data could have shown: below 1 it misses that much, because
    the behaviour never goes there, or so seldom that these data did not.
    Shapes: `[N]`; the error of a single weight is inf.
    Source: Owen 2013, Monte Carlo theory, methods and examples, section 9.1.
    """
    weights = log_weight.double().clamp(max=limit).exp()
    error = float(weights.std()) / math.sqrt(len(weights)) if len(weights) > 1 else math.inf
    return 1 - float(weights.mean()), error
