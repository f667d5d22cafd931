"""The score-function estimator with control variates that are functions of the sample."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Literal, final

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, VonMises
from torch.func import jacrev

from pgkit.core import control_variates
from pgkit.core import expectation as core
from pgkit.errors import UsageError
from pgkit.estimators.base import FEWEST_CROSS_FITTED, ExpectationEstimator
from pgkit.estimators.score import Score
from pgkit.options import Range
from pgkit.protocols import Baseline
from pgkit.types import Expectation, GradientEstimate, Parameters

Folds = Annotated[int, Range(least=2)]


@dataclass(frozen=True, kw_only=True)
class Variates:
    """K functions of the sample whose means are known functions of θ.

    Shapes: `function` maps samples `[N, *event]` to `[N, K]`; `mean` maps the parameters to `[K]`, differentiably.
    """

    function: Callable[[Tensor], Tensor]
    mean: Callable[[Parameters], Tensor]


@final
class ControlVariates(ExpectationEstimator):
    """∇E[f] = E[(f − b − Σ β_k h_k) ∇log p] + Σ β_k ∇E[h_k], for functions h_k(x) whose means are known.

    Without `variates` they are the sample's coordinates (`order=1`) and their squares (`order=2`), whose means the law
    knows; b is the variate that is constant. A cost in their span is differentiated without any noise. The coefficients
    are fitted for every parameter, or `shared` by all, to the samples of the other folds.
    Bias: none.
    Variance: 1 − ρ² of the score estimator's, plus the price of fitting K coefficients to N samples, about K/N of it.
    Source: Owen 2013, section 8.9; Paisley, Blei and Jordan 2012, arXiv:1206.6430, for known means.
    """

    def __init__(
        self,
        *,
        baseline: Baseline,
        variates: Variates | None = None,
        order: Literal[0, 1, 2] = 2,
        folds: Folds = 5,
        shared: bool = False,
    ) -> None:
        super().__init__(baseline=baseline)
        self.variates, self.order, self.folds, self.shared = variates, order, folds, shared

    def accepts(self, expectation: Expectation, parameters: Parameters) -> None:
        """Raises UsageError where the law's support moves, or it does not know the moments that are asked of it."""
        Score(baseline=self.baseline).accepts(expectation, parameters)
        law = expectation.law(parameters)
        if self.variates is None and not _knows_moments(law, self.order):
            raise UsageError(
                f"estimator: control_variates of order {self.order} for {type(law).__name__}, whose moments are not "
                "known; expected variates=… or a lower order"
            )

    def estimate(
        self, expectation: Expectation, parameters: Parameters, *, num_samples: int, generator: torch.Generator
    ) -> GradientEstimate:
        """Returns the mean of the gradients less their control variates.

        Raises: UsageError for too few samples to fit the coefficients to.
        """
        self.accepts(expectation, parameters)
        variates = self._of_law(expectation) if self.variates is None else self.variates
        means = jacrev(variates.mean)(dict(parameters))
        slopes = torch.cat([means[name].reshape(-1, value.numel()) for name, value in parameters.items()], dim=1)
        num_variates = len(slopes) + 1
        least = max(self.folds, 2 * num_variates + 2)
        if num_samples < least:
            raise UsageError(f"num_samples: {num_samples}, expected at least {least} to fit {num_variates} variates")
        samples = core.draw(expectation.law(parameters), num_samples, generator)
        costs = core.evaluate(expectation.cost, samples)
        scores = core.scores(expectation, parameters, samples)
        values = variates.function(samples).detach().to(scores.dtype)
        constant = scores[:, None]
        adjusted = control_variates.cross_fitted(
            costs[:, None] * scores,
            torch.cat([constant, values[:, :, None] * constant - slopes.detach()], dim=1),
            folds=self.folds,
            shared=self.shared,
        )
        per_sample = adjusted + core.direct_term(expectation, parameters, samples)
        told = num_samples >= max(FEWEST_CROSS_FITTED, 10 * num_variates)
        return core.summarise(
            per_sample,
            parameters,
            unbiased=True,
            independent=False,
            standard_error=per_sample.std(dim=0) / num_samples**0.5 if told else None,
        )

    def _of_law(self, expectation: Expectation) -> Variates:
        def powers(samples: Tensor) -> Tensor:
            flat = samples.reshape(len(samples), -1)
            flat = flat if flat.is_floating_point() else flat.to(torch.get_default_dtype())
            return torch.cat([flat**power for power in range(1, self.order + 1)] or [flat[:, :0]], dim=1)

        return Variates(function=powers, mean=lambda theta: _moments(expectation.law(theta), self.order))


def _moments(law: Distribution, order: int) -> Tensor:
    """Returns the means of the powers of every coordinate of a law's samples, `[order · D]`."""
    mean = law.mean.reshape(-1)
    return torch.cat([mean, law.variance.reshape(-1) + mean.square()][:order] or [mean[:0]])


def _knows_moments(law: Distribution, order: int) -> bool:
    """Returns whether a law says what the moments of its samples are; torch's von Mises law has those on the circle."""
    if isinstance(law.base_dist if isinstance(law, Independent) else law, VonMises):
        return order == 0
    try:
        return bool(_moments(law, order).isfinite().all())
    except NotImplementedError:
        return False
