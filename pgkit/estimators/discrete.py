"""Estimators of gradients through Bernoulli and categorical choices.

What a cost sees are samples of the law: 0/1 floats `[N]` or `[N, D]` for Bernoulli laws, indices `[N]` for a
Categorical, one-hot rows `[N, K]` for a OneHotCategorical. Relaxed estimators hand the same cost points between those,
in (0, 1) or inside the simplex; between indices there is nothing, so they refuse a Categorical by name.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import final

import torch
from torch import Tensor
from torch.distributions import Bernoulli, Categorical

from pgkit.core import discrete
from pgkit.core import expectation as core
from pgkit.core import relaxation as relaxed
from pgkit.errors import UsageError
from pgkit.estimators.base import ExpectationEstimator
from pgkit.options import Count, Positive
from pgkit.protocols import Baseline
from pgkit.types import Expectation, GradientEstimate, Parameters


@final
class Enumeration(ExpectationEstimator):
    """∇Σ_x p_θ(x) f(x), the sum taken over a finite support: exact, so its error is 0 and the samples are not used.

    Source: by definition.
    """

    def __init__(self, *, baseline: Baseline, largest: Count = 65536) -> None:
        super().__init__(baseline=baseline)
        self.largest = largest

    def accepts(self, expectation: Expectation, parameters: Parameters) -> None:
        """Raises UsageError where the support is infinite or too large."""
        discrete.support(expectation.law(parameters), self.largest)

    def estimate(
        self, expectation: Expectation, parameters: Parameters, *, num_samples: int, generator: torch.Generator
    ) -> GradientEstimate:
        """Returns the gradient itself; it has no per-sample gradients."""
        values = discrete.support(expectation.law(parameters), self.largest)
        mean = discrete.enumerated(expectation, parameters, values)
        return GradientEstimate(
            mean=mean,
            unbiased=True,
            independent=True,
            shapes=core.shapes_of(parameters),
            rows=lambda: None,
            error=lambda _: torch.zeros_like(mean),
        )


class AntitheticBits(ExpectationEstimator, ABC):
    """An estimator from pairs of Bernoulli vectors made of u and of 1 − u; a pair counts as one of the N samples."""

    def accepts(self, expectation: Expectation, parameters: Parameters) -> None:
        """Raises UsageError where the law is not one of Bernoulli variables."""
        base = discrete.base_of(expectation.law(parameters))
        if not isinstance(base, Bernoulli):
            name = type(self).__name__.lower()
            raise UsageError(f"estimator: {name} for {type(base).__name__}, expected a Bernoulli law; or score")

    @abstractmethod
    def gradients(self, difference: Tensor, logits: Tensor, noise: Tensor, bits: tuple[Tensor, Tensor]) -> Tensor:
        """Returns the gradients in the logits `[N, *event]` from f(b) − f(b̃) `[N]`."""

    def estimate(
        self, expectation: Expectation, parameters: Parameters, *, num_samples: int, generator: torch.Generator
    ) -> GradientEstimate:
        """Returns the mean over N antithetic pairs, with per-sample gradients."""
        self.accepts(expectation, parameters)
        logits = discrete.logits_of(expectation.law(parameters)).detach()
        noise = discrete.uniform(logits, num_samples, generator)
        bits = discrete.antithetic_bits(logits, noise)
        first, second = core.evaluate(expectation.cost, torch.cat(bits)).split(num_samples)
        gradients = self.gradients(first - second, logits, noise, bits)
        per_sample = discrete.through_logits(gradients, expectation, parameters)
        per_sample = per_sample + core.direct_term(expectation, parameters, bits[0])
        return core.summarise(per_sample, parameters, unbiased=True)


@final
class ARM(AntitheticBits):
    """∇E[f] = E[(f(b) − f(b̃)) (u − ½)] in Bernoulli logits: two evaluations of any cost.

    Source: Yin and Zhou 2019, arXiv:1807.11143 (augment-REINFORCE-merge).
    """

    def gradients(self, difference: Tensor, logits: Tensor, noise: Tensor, bits: tuple[Tensor, Tensor]) -> Tensor:
        """Returns (f(b) − f(b̃)) (u − ½)."""
        return discrete.arm(difference, noise)


@final
class DisARM(AntitheticBits):
    """ARM averaged over all noise that gives the same pair: never a larger variance, at the same cost.

    Source: Dong, Mnih and Tucker 2020, arXiv:2006.10680.
    """

    def gradients(self, difference: Tensor, logits: Tensor, noise: Tensor, bits: tuple[Tensor, Tensor]) -> Tensor:
        """Returns ½ (f(b) − f(b̃)) (−1)^b̃ 1[b ≠ b̃] σ(|φ|)."""
        return discrete.disarm(difference, logits, bits[1], bits[0] != bits[1])


class Relaxed(ExpectationEstimator, ABC):
    """An estimator that needs the discrete law as a step of a continuous one."""

    def accepts(self, expectation: Expectation, parameters: Parameters) -> None:
        """Raises UsageError where the law has no relaxation, or none that a cost of its samples can see."""
        law = expectation.law(parameters)
        if relaxed.relaxation_of(law) is not None:
            return
        base = discrete.base_of(law)
        if isinstance(base, Categorical):
            raise UsageError(
                "estimator: a relaxation of Categorical, whose samples are indices with nothing between them, "
                "expected OneHotCategorical and a cost of one-hot rows; or score or enumeration"
            )
        raise UsageError(
            f"estimator: a relaxation of {type(base).__name__}, expected Bernoulli or OneHotCategorical; or pathwise"
        )

    def relaxation(self, expectation: Expectation, parameters: Parameters) -> tuple[relaxed.Relaxation, Tensor]:
        """Returns the relaxation of the law and its logits, detached; refuses as `accepts` does."""
        self.accepts(expectation, parameters)
        law = expectation.law(parameters)
        relaxation = relaxed.relaxation_of(law)
        assert relaxation is not None
        return relaxation, discrete.logits_of(law).detach()


class SoftSamples(Relaxed, ABC):
    """An estimator that differentiates the cost at softened samples. Biased.

    Bias: depends on the temperature λ; the variance grows as it falls.
    """

    unbiased = False

    def __init__(self, *, baseline: Baseline, temperature: Positive = 0.5) -> None:
        super().__init__(baseline=baseline)
        self.temperature = temperature

    @abstractmethod
    def seen(self, soft: Tensor, hard: Tensor) -> Tensor:
        """Returns what the cost is evaluated at, with the gradient of the softened samples."""

    def estimate(
        self, expectation: Expectation, parameters: Parameters, *, num_samples: int, generator: torch.Generator
    ) -> GradientEstimate:
        """Returns the mean gradient through N softened samples, with per-sample gradients."""
        relaxation, logits = self.relaxation(expectation, parameters)
        noise = discrete.uniform(logits, num_samples, generator)
        leaf = logits.expand_as(noise).clone().requires_grad_()
        z = relaxation.continuous(leaf, relaxation.base(noise))
        samples = self.seen(relaxation.soft(z, self.temperature), relaxation.hard(z.detach()))
        costs = relaxed.differentiable(expectation.cost, samples)
        (gradients,) = torch.autograd.grad(costs.sum(), leaf)
        per_sample = discrete.through_logits(gradients, expectation, parameters)
        per_sample = per_sample + core.direct_term(expectation, parameters, samples.detach())
        return core.summarise(per_sample, parameters, unbiased=False)


@final
class GumbelSoftmax(SoftSamples):
    """∇E[f(soft(z / λ))], the gradient of a relaxed problem. Biased.

    Bias: the relaxed cost has another gradient than the discrete one; less so as λ → 0, where the variance grows.
    Source: Jang, Gu and Poole 2017, arXiv:1611.01144; Maddison, Mnih and Teh 2017, arXiv:1611.00712.
    """

    def seen(self, soft: Tensor, hard: Tensor) -> Tensor:
        """Returns the softened samples."""
        return soft


@final
class StraightThrough(SoftSamples):
    """∇f at discrete samples, carried through the softened ones as if they were the same. Biased.

    Bias: the slope at the ends stands for the difference between them.
    Source: Bengio, Léonard and Courville 2013, arXiv:1308.3432; with Gumbel noise Jang et al. 2017, arXiv:1611.01144.
    """

    def seen(self, soft: Tensor, hard: Tensor) -> Tensor:
        """Returns the discrete samples, with the gradient of the softened ones."""
        return hard + (soft - soft.detach())


@final
class REBAR(Relaxed):
    """The score function with the relaxed cost as its control variate: unbiased at every temperature and η.

    [f(b) − η f(soft(z̃))] ∇log p(b) + η ∇f(soft(z)) − η ∇f(soft(z̃)), with z̃ of the law of z given b. Needs a
    differentiable cost.
    Source: Tucker et al. 2017, arXiv:1703.07370.
    """

    def __init__(self, *, baseline: Baseline, temperature: Positive = 0.5, eta: float = 1.0) -> None:
        super().__init__(baseline=baseline)
        self.temperature, self.eta = temperature, eta

    def estimate(
        self, expectation: Expectation, parameters: Parameters, *, num_samples: int, generator: torch.Generator
    ) -> GradientEstimate:
        """Returns the mean over N samples, with per-sample gradients."""
        relaxation, logits = self.relaxation(expectation, parameters)
        noise = discrete.uniform(logits, num_samples, generator), discrete.uniform(logits, num_samples, generator)
        hard, score, control = relaxed.relaxed_control(
            lambda z: expectation.cost(relaxation.soft(z, self.temperature)), relaxation, logits, noise
        )
        gradients = discrete.rows(core.evaluate(expectation.cost, hard), score) * score + self.eta * control
        per_sample = discrete.through_logits(gradients, expectation, parameters)
        per_sample = per_sample + core.direct_term(expectation, parameters, hard)
        return core.summarise(per_sample, parameters, unbiased=True)
