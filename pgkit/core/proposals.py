"""Proposals for importance sampling: densities anywhere, wider copies of a law, mixtures, and whether they cover it.

Source: Owen 2013, Monte Carlo theory, methods and examples, chapter 9.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, constraints

from pgkit.core.arguments import arguments, rebuild
from pgkit.core.expectation import draw
from pgkit.errors import UsageError

PROBES = 1000
"""Samples of a law that look for places where a proposal has no density."""


def log_density(law: Distribution, samples: Tensor) -> Tensor:
    """Returns log p(x) `[N]`, −inf outside the law's support, where torch would raise or invent a number.

    Shapes: samples `[N, *event]`.
    """
    inside = support_mask(law, samples)
    result = torch.full(inside.shape, -torch.inf, dtype=_dtype(law))
    with torch.no_grad():
        result[inside] = _with_zeros(law).log_prob(samples[inside]).to(result.dtype)
    return result


def support_mask(law: Distribution, samples: Tensor) -> Tensor:
    """Returns whether each sample lies in the law's support, `[N]`; true for a law that does not say.

    Shapes: samples `[N, *event]`.
    """
    try:
        support = law.support
    except NotImplementedError:
        support = None
    return torch.ones(len(samples), dtype=torch.bool) if support is None else support.check(samples).bool()


def widened(law: Distribution, factor: float) -> Distribution:
    """Returns a copy of a law with its scale multiplied, or its logits divided, by a factor.

    Raises: UsageError for a law with neither.
    """
    given = {name: value.detach() for name, value in arguments(law).items()}
    copies = {
        "scale": lambda value: factor * value,
        "scale_tril": lambda value: factor * value,
        "covariance_matrix": lambda value: factor**2 * value,
        "precision_matrix": lambda value: value / factor**2,
        "logits": lambda value: value / factor,
        "probs": lambda value: _tempered(law, value, factor),
    }
    if not copies.keys() & given.keys():
        raise UsageError(f"proposal: none for {type(law).__name__}, whose scale is not an argument; expected a law")
    return rebuild(law, {name: copies[name](value) if name in copies else value for name, value in given.items()})


@dataclass(frozen=True, kw_only=True)
class Defensive:
    """The mixture α p + (1 − α) q of a law with a proposal, whose weights are bounded by 1/α.

    Source: Hesterberg 1995 (Technometrics 37:185).
    """

    law: Distribution
    proposal: Distribution
    share: float

    def draw(self, num_samples: int, generator: torch.Generator) -> Tensor:
        """Returns independent samples `[N, *event]`."""
        of_law = torch.rand(num_samples, generator=generator) < self.share
        ours, others = draw(self.law, num_samples, generator), draw(self.proposal, num_samples, generator)
        return torch.where(of_law.reshape(-1, *[1] * (ours.dim() - 1)), ours, others)

    def log_density(self, samples: Tensor) -> Tensor:
        """Returns the log density of the mixture, `[N]`."""
        ours, others = log_density(self.law, samples), log_density(self.proposal, samples)
        return torch.logaddexp(_log(self.share) + ours, _log(1 - self.share) + others)


def probe(law: Distribution, generator: torch.Generator) -> Tensor:
    """Returns samples `[M, *event]` to ask proposals about: all values of an enumerable law, else some drawn ones."""
    try:
        return law.enumerate_support()
    except NotImplementedError:
        return draw(law, PROBES, generator)


def _with_zeros(law: Distribution) -> Distribution:
    """Returns a law that gives outcomes of probability 0 no density; torch gives them a tiny one."""
    base = law.base_dist if isinstance(law, Independent) else law
    given = arguments(law)
    if "probs" in given and base.arg_constraints["probs"] is constraints.simplex:
        return rebuild(law, {"logits": given["probs"].log()})
    return law


def _tempered(law: Distribution, probs: Tensor, factor: float) -> Tensor:
    powers = (probs.log() / factor).exp()
    base = law.base_dist if isinstance(law, Independent) else law
    # One number for each value of a categorical law, or the chance of one outcome out of two.
    if base.arg_constraints["probs"] is constraints.simplex:
        return powers / powers.sum(dim=-1, keepdim=True)
    return powers / (powers + ((-probs).log1p() / factor).exp())


def _log(share: float) -> float:
    return math.log(share) if share > 0 else -math.inf


def _dtype(law: Distribution) -> torch.dtype:
    values = [value.dtype for value in arguments(law).values() if value.is_floating_point()]
    return values[0] if values else torch.get_default_dtype()
