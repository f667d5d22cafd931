"""The score-function estimator of any expectation."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor

from pgkit.core import expectation as core
from pgkit.core import pathwise
from pgkit.core.score import standardise as standardised
from pgkit.errors import UsageError
from pgkit.estimators.base import ExpectationEstimator, coefficients, refuse_moving_support, score_terms, standard_error
from pgkit.options import Positive
from pgkit.protocols import Baseline, ScoreBaseline
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
        if self._reshapes and isinstance(baseline, ScoreBaseline):
            name = type(baseline).__name__
            raise UsageError(
                f"baseline: {name} with clip or standardise, expected zero, moving_average or leave_one_out"
            )
        self.unbiased = baseline.unbiased and not self._reshapes

    def accepts(self, expectation: Expectation, parameters: Parameters) -> None:
        """Raises UsageError where the support of the law moves with the parameters."""
        refuse_moving_support("score", expectation, parameters)
        if self.antithetic:
            pathwise.centre(expectation.law(parameters))

    def estimate(
        self, expectation: Expectation, parameters: Parameters, *, num_samples: int, generator: torch.Generator
    ) -> GradientEstimate:
        """Returns the mean of (f − b) ∇log p over N samples, with per-sample gradients."""
        self.accepts(expectation, parameters)
        law = expectation.law(parameters)
        samples = core.draw(law, pathwise.to_draw(num_samples, antithetic=self.antithetic), generator)
        if self.antithetic:
            samples = torch.cat([samples, 2 * pathwise.centre(law).detach() - samples])
        costs = core.evaluate(expectation.cost, samples)
        scores = core.scores(expectation, parameters, samples)
        direct = core.direct_term(expectation, parameters, samples)
        independent = self.baseline.coupling == "independent"
        if self._reshapes:
            reshaped, metrics = self._reshape(coefficients(self.baseline, costs))
            per_sample = self._rows(reshaped[:, None] * scores + direct)
            independent = independent and not self.standardise
            return core.summarise(per_sample, parameters, unbiased=False, independent=independent, metrics=metrics)
        per_sample = score_terms(self.baseline, costs, scores)
        per_sample = self._rows(per_sample if expectation.direct_cost is None else per_sample + direct)
        error = standard_error(self.baseline, per_sample, costs, scores, direct)
        return core.summarise(
            per_sample, parameters, unbiased=self.unbiased, independent=independent, standard_error=error
        )

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
