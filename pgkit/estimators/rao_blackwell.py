"""Score-function estimators that sum what is known and sample only the rest."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import final

import torch
from torch import Tensor
from torch.distributions import Categorical, Independent, OneHotCategorical

from pgkit.core import expectation as core
from pgkit.core import rao_blackwell
from pgkit.core.arguments import arguments
from pgkit.core.discrete import product_support
from pgkit.errors import UsageError
from pgkit.estimators.base import ExpectationEstimator, coefficients, refuse_moving_support
from pgkit.options import Count, Index
from pgkit.protocols import Baseline
from pgkit.types import Expectation, Factors, GradientEstimate, Parameters

LARGEST = 4096
"""Most values of the marginalised factors for one sample."""
CHECKED = 4
"""Samples among which factors are switched to see which terms move."""


@final
class TermwiseScore(ExpectationEstimator):
    """Σ_d (f_d(x) − b_d) ∇log p_d(x_d), where f_d sums the terms of the cost that factor x_d moves, and no other.

    For a law of D independent factors and a cost that maps samples to its M terms, `[N, M]`, which add up to it, or a
    `Separable` expectation, which knows its terms. `terms[d]` lists the terms that move with factor d; without it term
    d moves with factor d alone. What a few samples prove wrong is refused. Baselines see one row a factor.
    Source: Ranganath, Gerrish and Blei 2014, arXiv:1401.0118; Mohamed et al. 2019, arXiv:1906.10652.
    """

    takes_baseline = True

    def __init__(self, *, baseline: Baseline, terms: list[list[Index]] | None = None) -> None:
        super().__init__(baseline=baseline)
        self.terms = terms
        self.unbiased = baseline.unbiased

    def accepts(self, expectation: Expectation, parameters: Parameters) -> None:
        """Raises UsageError where the law is not a product of factors, or `terms` has not one list for each."""
        refuse_moving_support("termwise_score", expectation, parameters)
        law = expectation.law(parameters)
        if not isinstance(law, Independent) or not arguments(law):
            raise UsageError(f"estimator: termwise_score for {type(law).__name__}, expected Independent; or score")
        if self.terms is not None and len(self.terms) != rao_blackwell.num_factors(law):
            count = rao_blackwell.num_factors(law)
            raise UsageError(f"estimator.terms: {len(self.terms)} lists, expected {count}, one for each factor")

    def estimate(
        self, expectation: Expectation, parameters: Parameters, *, num_samples: int, generator: torch.Generator
    ) -> GradientEstimate:
        """Returns the mean over N samples, with per-sample gradients."""
        self.accepts(expectation, parameters)
        law = expectation.law(parameters)
        samples = core.draw(law, num_samples, generator)
        terms_of, listed = _apart(expectation, self.terms)
        with torch.no_grad():
            terms = torch.as_tensor(terms_of(samples))
        moves = _moves(rao_blackwell.num_factors(law), terms, listed)
        seen = rao_blackwell.dependence(terms_of, samples[:CHECKED], len(moves))
        if wrong := (seen & ~moves).nonzero().tolist():
            factor, term = wrong[0]
            raise UsageError(f"estimator.terms: term {term} moves with factor {factor}, expected it in terms[{factor}]")
        signal = moves.to(terms.dtype) @ terms.T
        factors = Factors(signal=signal, log_weight=torch.zeros_like(signal), mask=torch.ones_like(signal).bool())
        weights = (signal - self.baseline.value(factors)).T
        self.baseline.update(factors)
        per_sample = rao_blackwell.weighted_scores(expectation, parameters, samples, weights)
        per_sample = per_sample + core.direct_term(expectation, parameters, samples)
        independent = self.baseline.coupling == "independent"
        return core.summarise(per_sample, parameters, unbiased=self.unbiased, independent=independent)


@final
class MarginalisedScore(ExpectationEstimator):
    """The score function with some discrete factors of a product summed out, exactly; the others are sampled.

    Variance: never more than that of the score function, at as many evaluations a sample as the factors have values.
    Source: Casella and Robert 1996 (Biometrika 83:81); Titsias and Lázaro-Gredilla 2015 (NeurIPS).
    """

    takes_baseline = True

    def __init__(self, *, baseline: Baseline, factors: list[Index] | None = None) -> None:
        super().__init__(baseline=baseline)
        self.factors = [0] if factors is None else sorted(set(factors))
        self.unbiased = baseline.unbiased

    def accepts(self, expectation: Expectation, parameters: Parameters) -> None:
        """Raises UsageError where the factors do not exist, or have too many values to sum over."""
        refuse_moving_support("marginalised_score", expectation, parameters)
        law = expectation.law(parameters)
        if not arguments(law):
            raise UsageError(f"estimator: marginalised_score for {type(law).__name__}, expected Independent; or score")
        count = rao_blackwell.num_factors(law)
        if not self.factors or self.factors[-1] >= count:
            raise UsageError(f"estimator.factors: {self.factors}, expected some of the law's 0 to {count - 1}")
        product_support(law, len(self.factors), LARGEST)

    def estimate(
        self, expectation: Expectation, parameters: Parameters, *, num_samples: int, generator: torch.Generator
    ) -> GradientEstimate:
        """Returns the mean over N samples of the other factors, with per-sample gradients."""
        self.accepts(expectation, parameters)
        samples = core.draw(expectation.law(parameters), num_samples, generator)
        per_sample = rao_blackwell.marginalised(
            expectation, parameters, samples, self.factors, lambda costs: coefficients(self.baseline, costs), LARGEST
        )
        independent = self.baseline.coupling == "independent"
        return core.summarise(per_sample, parameters, unbiased=self.unbiased, independent=independent)


@final
class SumAndSample(ExpectationEstimator):
    """The score function with the k likeliest categories summed exactly and the others sampled, weighted by their mass.

    Variance: never more than that of the score function for the same number of samples, at k more evaluations a batch.
    Source: Liu, Regier, Tripuraneni, Jordan and McAuliffe 2019, arXiv:1810.04777.
    """

    takes_baseline = True

    def __init__(self, *, baseline: Baseline, k: Count = 1) -> None:
        super().__init__(baseline=baseline)
        self.k = k
        self.unbiased = baseline.unbiased

    def accepts(self, expectation: Expectation, parameters: Parameters) -> None:
        """Raises UsageError where the law is not one categorical variable of more than k categories."""
        law = expectation.law(parameters)
        if not isinstance(law, Categorical | OneHotCategorical):
            name = type(law).__name__
            raise UsageError(f"estimator: sum_and_sample for {name}, expected Categorical; or marginalised_score")
        count = law.probs.shape[-1]
        if self.k >= count:
            raise UsageError(f"estimator.k: {self.k}, expected less than the {count} categories; or enumeration")

    def estimate(
        self, expectation: Expectation, parameters: Parameters, *, num_samples: int, generator: torch.Generator
    ) -> GradientEstimate:
        """Returns the mean over N samples of the other categories, with per-sample gradients."""
        self.accepts(expectation, parameters)
        per_sample = rao_blackwell.sum_and_sample(
            expectation, parameters, self.k, num_samples, generator, lambda costs: coefficients(self.baseline, costs)
        )
        independent = self.baseline.coupling == "independent"
        return core.summarise(per_sample, parameters, unbiased=self.unbiased, independent=independent)


def _apart(
    expectation: Expectation, listed: Sequence[Sequence[int]] | None
) -> tuple[Callable[[Tensor], Tensor], Sequence[Sequence[int]] | None]:
    """Returns what maps samples to terms, and which terms are said to move with each factor."""
    if not isinstance(expectation, rao_blackwell.Separable):
        return expectation.cost, listed
    return expectation.terms, expectation.moves if listed is None else listed


def _moves(factors: int, terms: Tensor, moves: Sequence[Sequence[int]] | None) -> Tensor:
    """Returns which terms are said to move with which factors, `[D, M]`.

    Raises: UsageError where there are other terms than that.
    """
    expected = "a term a column" if moves is not None else f"{factors} terms, or terms to be given"
    if terms.ndim != 2 or (moves is None and terms.shape[1] != factors):
        raise UsageError(f"cost: shape {list(terms.shape)}, expected [N, M] with {expected}")
    if moves is None:
        return torch.eye(factors, dtype=torch.bool)
    found = torch.zeros(factors, terms.shape[1], dtype=torch.bool)
    for factor, listed in enumerate(moves):
        if beyond := [term for term in listed if term >= terms.shape[1]]:
            raise UsageError(f"estimator.terms: {beyond[0]}, expected less than the {terms.shape[1]} of the cost")
        found[factor, list(listed)] = True
    return found
