"""Weak derivatives: ∂p/∂a = c (p⁺ − p⁻), a difference of two laws, so that ∂E[f]/∂a = c (E_{p⁺}[f] − E_{p⁻}[f]).

The two are sampled from common noise (coupled), which keeps f(x⁺) − f(x⁻) small; nothing is asked of f.

Source: Pflug 1996 (Optimization of Stochastic Models); Heidergott and Vázquez-Abad 2000; Mohamed, Rosca, Figurnov and
Mnih 2020, arXiv:1906.10652, section 6.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor
from torch.distributions import Bernoulli, Distribution, Exponential, Gamma, Independent, Normal, Poisson

from pgkit.core.expectation import evaluate
from pgkit.types import expect


@final
@dataclass(frozen=True, kw_only=True)
class WeakDerivative:
    """One argument's derivative of a law, in samples: c `[*event]`, x⁺ and x⁻ `[N, *event]`."""

    constant: Tensor
    plus: Tensor
    minus: Tensor


def gaussian_mean(loc: Tensor, scale: Tensor, rayleigh: Tensor) -> WeakDerivative:
    """Returns c = 1/(σ√(2π)) and x = μ ± σW, where W is Rayleigh: Weibull of shape 2 and scale √2.

    Shapes: loc and scale `[*event]`, rayleigh `[N, *event]`.
    """
    constant = 1 / (scale * math.sqrt(2 * math.pi))
    return WeakDerivative(constant=constant, plus=loc + scale * rayleigh, minus=loc - scale * rayleigh)


def gaussian_scale(loc: Tensor, scale: Tensor, maxwell: Tensor, uniform: Tensor) -> WeakDerivative:
    """Returns c = 1/σ, x⁺ = μ + σM and x⁻ = μ + σMU, where M is double-sided Maxwell and so MU standard normal.

    Shapes: loc and scale `[*event]`; maxwell and uniform on [0, 1) `[N, *event]`.
    """
    return WeakDerivative(constant=1 / scale, plus=loc + scale * maxwell, minus=loc + scale * maxwell * uniform)


def gamma_rate(concentration: Tensor, rate: Tensor, gamma: Tensor, exponential: Tensor) -> WeakDerivative:
    """Returns c = α/β, x⁺ = G/β and x⁻ = (G + E)/β, of shapes α and α + 1, where G is gamma of shape α.

    An exponential law is the case α = 1.

    Shapes: concentration and rate `[*event]`; gamma and exponential, both of rate 1, `[N, *event]`.
    """
    return WeakDerivative(constant=concentration / rate, plus=gamma / rate, minus=(gamma + exponential) / rate)


def poisson_rate(counts: Tensor) -> WeakDerivative:
    """Returns c = 1, x⁺ = X + 1 and x⁻ = X of Poisson counts `[N, *event]`."""
    return WeakDerivative(constant=torch.ones_like(counts[0]), plus=counts + 1, minus=counts)


def bernoulli(constant: Tensor, num_samples: int) -> WeakDerivative:
    """Returns x⁺ = 1 and x⁻ = 0, with c = 1 for a probability p and p(1 − p) for its logit.

    Shapes: constant `[*event]`.
    """
    ones = constant.new_ones(num_samples, *constant.shape)
    return WeakDerivative(constant=constant, plus=ones, minus=torch.zeros_like(ones))


def weak_derivatives(law: Distribution, names: Iterable[str], num_samples: int) -> dict[str, WeakDerivative]:
    """Returns the weak derivatives in the arguments named, from noise of torch's global generator, `[N, *event]`."""
    base = law.base_dist if isinstance(law, Independent) else law
    return {name: KNOWN[_kind(base), name](base, num_samples) for name in names}


def unknown(law: Distribution, names: Iterable[str]) -> list[str]:
    """Returns those arguments named whose weak derivative is not known, as `Gamma.concentration`."""
    base = law.base_dist if isinstance(law, Independent) else law
    return [f"{type(base).__name__}.{name}" for name in names if (_kind(base), name) not in KNOWN]


def gradients(
    cost: Callable[[Tensor], Tensor], samples: Tensor, derivatives: dict[str, WeakDerivative]
) -> dict[str, Tensor]:
    """Returns the gradients `[N, *event]` in each argument: c (f(x⁺) − f(x⁻)), one coordinate of x being replaced.

    Takes two evaluations a sample and coordinate of each argument, in blocks of at most 2²² numbers.

    Shapes: samples `[N, *event]`, of coordinates that are independent of each other.
    """
    expect("N", samples=samples, **{name: each.plus for name, each in derivatives.items()})
    size = samples[0].numel()
    rows = max(1, LARGEST_BLOCK // (2 * size**2))
    found = {}
    for name, derivative in derivatives.items():
        blocks = zip(*(each.split(rows) for each in (samples, derivative.plus, derivative.minus)), strict=True)
        difference = torch.cat([_costs(cost, at, plus) - _costs(cost, at, minus) for at, plus, minus in blocks])
        found[name] = derivative.constant * difference.reshape(samples.shape)
    return found


LARGEST_BLOCK = 2**22
"""Numbers in the samples that a cost is given at once."""


def _costs(cost: Callable[[Tensor], Tensor], samples: Tensor, others: Tensor) -> Tensor:
    """Returns the costs `[n, D]` of samples whose coordinate d is replaced by that of others."""
    if samples.ndim == 1:
        return evaluate(cost, others)[:, None]
    number, size = len(samples), samples[0].numel()
    swap = torch.eye(size, dtype=torch.bool, device=samples.device)
    replaced = torch.where(swap, others.reshape(number, 1, size), samples.reshape(number, 1, size))
    return evaluate(cost, replaced.reshape(number * size, *samples.shape[1:])).reshape(number, size)


def _kind(law: Distribution) -> type[Distribution]:
    """Returns the first of a law's classes that the table knows, else its own."""
    kinds = {kind for kind, _ in KNOWN}
    return next((kind for kind in type(law).__mro__ if kind in kinds), type(law))


def _gaussian_mean(law: Normal, num_samples: int) -> WeakDerivative:
    rayleigh = (-2 * torch.log1p(-_uniform(law.loc, num_samples))).sqrt()
    return gaussian_mean(law.loc, law.scale, rayleigh)


def _gaussian_scale(law: Normal, num_samples: int) -> WeakDerivative:
    noise = torch.randn(3, num_samples, *law.loc.shape, dtype=law.loc.dtype, device=law.loc.device)
    # Length and direction of a white vector are independent, so that one of its signs is a fair coin.
    return gaussian_scale(law.loc, law.scale, noise.norm(dim=0) * noise[0].sign(), _uniform(law.loc, num_samples))


def _gamma_rate(law: Gamma | Exponential, num_samples: int) -> WeakDerivative:
    shape = law.concentration if isinstance(law, Gamma) else torch.ones_like(law.rate)
    gamma = Gamma(shape, torch.ones_like(shape)).sample(torch.Size([num_samples]))
    return gamma_rate(shape, law.rate, gamma, -torch.log1p(-_uniform(law.rate, num_samples)))


def _uniform(like: Tensor, num_samples: int) -> Tensor:
    return torch.rand(num_samples, *like.shape, dtype=like.dtype, device=like.device)


KNOWN: dict[tuple[type[Distribution], str], Callable[[Any, int], WeakDerivative]] = {
    (Normal, "loc"): _gaussian_mean,
    (Normal, "scale"): _gaussian_scale,
    (Exponential, "rate"): _gamma_rate,
    (Gamma, "rate"): _gamma_rate,
    (Poisson, "rate"): lambda law, num_samples: poisson_rate(law.sample(torch.Size([num_samples]))),
    (Bernoulli, "probs"): lambda law, num_samples: bernoulli(torch.ones_like(law.probs), num_samples),
    (Bernoulli, "logits"): lambda law, num_samples: bernoulli(law.probs * (1 - law.probs), num_samples),
}
"""The weak derivatives that are known, by law and argument."""
