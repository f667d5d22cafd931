"""Relaxations: a discrete law written as a step of a continuous variable that a gradient can pass through.

A Bernoulli variable is z > 0 with z = φ + logit u, a one-hot categorical one is argmax z with z = log p + Gumbel noise;
softening the step at a temperature makes a differentiable stand-in of each.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import final

import torch
from torch import Tensor
from torch.distributions import Bernoulli, Distribution, OneHotCategorical
from torch.nn.functional import softplus

from pgkit.core.discrete import base_of, rows
from pgkit.core.expectation import one_each
from pgkit.errors import UsageError


class Relaxation(ABC):
    """A discrete law written as a step of a continuous variable z that a gradient can pass through.

    Its noise is uniform noise carried to where z is simplest: `base` of it.
    """

    @abstractmethod
    def base(self, uniform: Tensor) -> Tensor:
        """Returns the noise that z is made of."""

    @abstractmethod
    def continuous(self, logits: Tensor, base: Tensor) -> Tensor:
        """Returns z, differentiable in the logits."""

    @abstractmethod
    def conditional(self, logits: Tensor, hard: Tensor, base: Tensor) -> Tensor:
        """Returns z given its step, differentiable in the logits with the noise held fixed."""

    @abstractmethod
    def hard(self, z: Tensor) -> Tensor:
        """Returns the discrete sample at z."""

    @abstractmethod
    def soft(self, z: Tensor, temperature: float) -> Tensor:
        """Returns the softened sample at z, which tends to the discrete one as the temperature falls."""

    @abstractmethod
    def score(self, logits: Tensor, hard: Tensor) -> Tensor:
        """Returns the score of discrete samples in the logits."""


@final
class BinaryRelaxation(Relaxation):
    """Bernoulli variables, each a step of a logistic one.

    Source: Maddison, Mnih and Teh 2017, arXiv:1611.00712; the conditional from Tucker et al. 2017, arXiv:1703.07370.
    """

    def base(self, uniform: Tensor) -> Tensor:
        """Returns logit u."""
        return uniform.logit()

    def continuous(self, logits: Tensor, base: Tensor) -> Tensor:
        """Returns z = φ + logit u."""
        return logits + base

    def conditional(self, logits: Tensor, hard: Tensor, base: Tensor) -> Tensor:
        """Returns z given 1[z > 0], by the inverse of its distribution function on that side of 0."""
        sign = 2 * hard - 1
        return sign * softplus(base + softplus(sign * logits))

    def hard(self, z: Tensor) -> Tensor:
        """Returns 1[z > 0], as floats."""
        return (z > 0).to(z.dtype)

    def soft(self, z: Tensor, temperature: float) -> Tensor:
        """Returns σ(z / λ)."""
        return (z / temperature).sigmoid()

    def score(self, logits: Tensor, hard: Tensor) -> Tensor:
        """Returns b − σ(φ)."""
        return hard - logits.sigmoid()


@final
class OneHotRelaxation(Relaxation):
    """One-hot categorical variables over the last dimension, each the argmax of Gumbel ones.

    Source: Jang, Gu and Poole 2017, arXiv:1611.01144; the conditional from Tucker et al. 2017, arXiv:1703.07370.
    """

    def base(self, uniform: Tensor) -> Tensor:
        """Returns log(−log u), minus a standard Gumbel variable."""
        return (-uniform.log()).log()

    def continuous(self, logits: Tensor, base: Tensor) -> Tensor:
        """Returns z = log p − log(−log u)."""
        return logits.log_softmax(dim=-1) - base

    def conditional(self, logits: Tensor, hard: Tensor, base: Tensor) -> Tensor:
        """Returns z given its argmax: the largest is a standard Gumbel one, the others are truncated below it."""
        largest = (base * hard).sum(dim=-1, keepdim=True)
        others = torch.logaddexp(base - logits.log_softmax(dim=-1), largest)
        return -torch.where(hard.bool(), largest, others)

    def hard(self, z: Tensor) -> Tensor:
        """Returns the one-hot argmax, as floats."""
        return torch.nn.functional.one_hot(z.argmax(dim=-1), z.shape[-1]).to(z.dtype)

    def soft(self, z: Tensor, temperature: float) -> Tensor:
        """Returns softmax(z / λ)."""
        return (z / temperature).softmax(dim=-1)

    def score(self, logits: Tensor, hard: Tensor) -> Tensor:
        """Returns b − softmax(φ)."""
        return hard - logits.softmax(dim=-1)


def relaxation_of(law: Distribution) -> Relaxation | None:
    """Returns the relaxation of a Bernoulli or one-hot law or of independent ones, None for any other."""
    base = base_of(law)
    if isinstance(base, Bernoulli):
        return BinaryRelaxation()
    return OneHotRelaxation() if isinstance(base, OneHotCategorical) else None


def relaxed_control(
    surrogate: Callable[[Tensor], Tensor],
    relaxation: Relaxation,
    logits: Tensor,
    noise: tuple[Tensor, Tensor],
    *,
    create_graph: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns samples b, their scores and −c(z̃) ∇log p(b) + ∇c(z) − ∇c(z̃), which has mean 0 in the logits.

    z̃ is z given b, of noise of its own, since sharing that of z mostly raises the variance; the gradients follow both
    into the logits. `surrogate` is c, from `[N, *logits]` to `[N]`.
    Shapes: logits `[*logits]`, each noise `[N, *logits]`, uniform.
    Source: Tucker et al. 2017, arXiv:1703.07370 (REBAR); Grathwohl et al. 2018, arXiv:1711.00123 (RELAX).
    """
    leaf = logits.detach().expand_as(noise[0]).clone().requires_grad_()
    z = relaxation.continuous(leaf, relaxation.base(noise[0]))
    hard = relaxation.hard(z.detach())
    given_hard = relaxation.conditional(leaf, hard, relaxation.base(noise[1]))
    values, conditional = differentiable(surrogate, z), differentiable(surrogate, given_hard)
    (total,) = torch.autograd.grad((values - conditional).sum(), leaf, create_graph=create_graph)
    score = relaxation.score(leaf.detach(), hard)
    return hard, score, total - rows(conditional if create_graph else conditional.detach(), score) * score


def differentiable(cost: Callable[[Tensor], Tensor], samples: Tensor) -> Tensor:
    """Returns the costs `[N]` of samples, with the gradient that leads back to them.

    Raises: UsageError where there is none.
    """
    costs = one_each(cost(samples), len(samples))
    if not costs.requires_grad:
        raise UsageError("cost: no gradient in its samples, expected a differentiable one; or estimator arm or score")
    return costs
