"""The score-function estimator of any expectation."""

from __future__ import annotations

from functools import cache
from typing import final

import torch
from torch import Tensor
from torch.distributions import Distribution

from pgkit.core import expectation as core
from pgkit.core import pathwise
from pgkit.core.score import standardise as standardised
from pgkit.errors import UsageError
from pgkit.estimators.base import ExpectationEstimator, coefficients, refuse_moving_support, score_terms, standard_error
from pgkit.options import Positive
from pgkit.protocols import Baseline
from pgkit.types import Expectation, GradientEstimate, Metrics, Parameters


@final
class Score(ExpectationEstimator):
    """∇E[f] = E[(f(x) − b) ∇log p_θ(x)]: needs nothing of the cost, and a law whose support does not move with θ.

    `standardise` takes the mean off f − b and divides by the standard deviation; `clip` then cuts what is left to
    ±clip. What they did to the batch is counted in the estimate's `metrics`.
    `antithetic` draws half of the samples and reflects them about the mean of a symmetric law. The two of a pair are
    not independent, the pairs are: each row of `per_sample` is then the mean of a pair, and there are N/2 of them. A
    baseline made of the other samples would see a sample's own reflection, and is refused.
    Bias: both options, and a baseline that is biased; nothing else.
    Variance: grows with the size of f, not of its gradient; what a baseline is for.
    Source: Glynn 1990; Williams 1992; Mohamed et al. 2019, arXiv:1906.10652.
    """

    takes_baseline = True

    def __init__(
        self,
        *,
        baseline: Baseline,
        antithetic: bool = False,
        standardise: bool = False,
        clip: Positive | None = None,
    ) -> None:
        super().__init__(baseline=baseline)
        self.antithetic, self.standardise, self.clip = antithetic, standardise, clip
        if antithetic and (standardise or baseline.coupling != "independent"):
            name = "standardise" if standardise else type(baseline).__name__
            raise UsageError(
                f"estimator.antithetic: true with {name}, expected baseline zero, constant or moving_average"
            )
        self._reshapes = standardise or clip is not None
        self._fits = hasattr(baseline, "fit")  # as a ScoreBaseline has, of which isinstance asks ten times as long
        if self._reshapes and self._fits:
            name = type(baseline).__name__
            raise UsageError(
                f"baseline: {name} with clip or standardise, expected zero, moving_average or leave_one_out"
            )
        self.unbiased = baseline.unbiased and not self._reshapes

    def accepts(self, expectation: Expectation, parameters: Parameters) -> None:
        """Raises UsageError where the support of the law moves with the parameters."""
        self._accepted(expectation, parameters)

    def _accepted(self, expectation: Expectation, parameters: Parameters) -> Distribution:
        """Returns the law; raises UsageError where its support moves, or it is not symmetric if need be."""
        with torch.enable_grad():
            law = expectation.law(parameters)
        refuse_moving_support("score", expectation, parameters, law)
        if self.antithetic:
            pathwise.centre(law)
        return law

    def estimate(
        self, expectation: Expectation, parameters: Parameters, *, num_samples: int, generator: torch.Generator
    ) -> GradientEstimate:
        """Returns the mean of (f − b) ∇log p over N samples, with per-sample gradients."""
        theta = core.leaves_of(parameters)
        parameters = {name: value.detach() for name, value in theta.items()}
        law = self._accepted(expectation, theta)
        samples = core.draw(law, pathwise.to_draw(num_samples, antithetic=self.antithetic), generator)
        if self.antithetic:
            samples = torch.cat([samples, 2 * pathwise.centre(law).detach() - samples])
        costs = core.evaluate(expectation.cost, samples)
        if self._fits:
            return self._fitted(expectation, parameters, samples, costs)
        weights, metrics = self._reshape(coefficients(self.baseline, costs))

        @cache
        def terms() -> tuple[Tensor, Tensor]:
            direct = core.direct_term(expectation, parameters, samples)
            return core.scores(expectation, parameters, samples), direct

        def rows() -> Tensor:
            scores, direct = terms()
            return self._rows(torch.addcmul(direct, weights[:, None], scores))

        with torch.enable_grad():
            log_prob = law.log_prob(samples)
            direct_cost = None if expectation.direct_cost is None else expectation.direct_cost(samples, theta).mean()
        mean = core.flat_gradient(log_prob, theta, weights) / num_samples
        if direct_cost is not None:
            mean = mean + core.flat_gradient(direct_cost, theta)

        def error(per_sample: Tensor | None) -> Tensor | None:
            assert per_sample is not None
            if self.standardise or (self._reshapes and self.baseline.coupling != "independent"):
                return None
            return standard_error(self.baseline, per_sample, costs, *terms())

        return GradientEstimate(
            mean=mean,
            unbiased=self.unbiased,
            independent=self.baseline.coupling == "independent" and not self.standardise,
            shapes=core.shapes_of(parameters),
            metrics=metrics,
            rows=rows,
            error=error,
        )

    def _fitted(
        self, expectation: Expectation, parameters: Parameters, samples: Tensor, costs: Tensor
    ) -> GradientEstimate:
        """Returns the estimate under a baseline that is fitted to the scores of the samples."""
        scores = core.scores(expectation, parameters, samples)
        direct = core.direct_term(expectation, parameters, samples)
        per_sample = score_terms(self.baseline, costs, scores) + direct
        error = standard_error(self.baseline, per_sample, costs, scores, direct)
        return core.summarise(per_sample, parameters, unbiased=self.unbiased, independent=False, standard_error=error)

    def _rows(self, gradients: Tensor) -> Tensor:
        """Returns what is independent: the gradients `[N, P]`, or the means of pairs `[N/2, P]`."""
        return gradients.view(2, -1, gradients.shape[1]).mean(0) if self.antithetic else gradients

    def _reshape(self, coefficients: Tensor) -> tuple[Tensor, Metrics]:
        metrics: Metrics = {}
        if self.standardise:
            spread = float(coefficients.std()) if len(coefficients) > 1 else None
            metrics["coefficients/standard_deviation"] = spread
            coefficients = standardised(coefficients[None], torch.ones_like(coefficients[None]).bool())[0]
        if self.clip is not None:
            metrics["coefficients/clipped_fraction"] = float((coefficients.abs() > self.clip).double().mean())
            coefficients = coefficients.clamp(-self.clip, self.clip)
        return coefficients, metrics
