"""The score-function estimator of search: ranks instead of costs, samples in mirrored pairs."""

from __future__ import annotations

from typing import Literal, final

import torch
from torch import Tensor
from torch.distributions import MultivariateNormal, Normal

from pgkit.blackbox.ranks import rank_utilities
from pgkit.core import expectation as core
from pgkit.errors import UsageError
from pgkit.estimators.base import ExpectationEstimator
from pgkit.estimators.score import Score
from pgkit.protocols import Baseline
from pgkit.types import Expectation, GradientEstimate, Metrics, Parameters


@final
class RankedScore(ExpectationEstimator):
    """Σ_i u_i ∇log p_θ(x_i) with utilities u of the ranks of the costs, times −1 where the lowest cost is best.

    It is an ascent direction of the expected *rank*, so that outliers and the scale of the cost do not matter.
    `antithetic` draws half of the samples and reflects them about the mean: what is odd in the noise cancels.

    Bias: it is no estimate of ∇E[f]; a step along it lowers the cost whatever its scale.
    Source: Wierstra et al. 2014 (JMLR 15:949), arXiv:1106.4487; mirrored samples: Brockhoff et al. 2010 (PPSN).
    """

    unbiased = False

    def __init__(
        self, *, baseline: Baseline, best: Literal["lowest", "highest"] = "lowest", antithetic: bool = True
    ) -> None:
        super().__init__(baseline=baseline)
        self.best: Literal["lowest", "highest"] = best
        self.antithetic = antithetic

    def accepts(self, expectation: Expectation, parameters: Parameters) -> None:
        """Raises UsageError where the score is wrong, the cost moves with θ, or the law cannot be reflected."""
        Score(baseline=self.baseline).accepts(expectation, parameters)
        if expectation.direct_cost is not None:
            raise UsageError("estimator: ranked_score for a cost that moves with the parameters, expected score")
        law = expectation.law(parameters)
        base = getattr(law, "base_dist", law)
        if self.antithetic and not isinstance(base, Normal | MultivariateNormal):
            raise UsageError(f"estimator.antithetic: true for {type(base).__name__}, expected a Gaussian law")

    def estimate(
        self, expectation: Expectation, parameters: Parameters, *, num_samples: int, generator: torch.Generator
    ) -> GradientEstimate:
        """Returns Σ_i u_i ∇log p(x_i) over N samples, with N times each term as its per-sample gradient."""
        if self.antithetic and num_samples % 2:
            raise UsageError(f"num_samples: {num_samples}, expected an even number with estimator.antithetic=true")
        samples = self._samples(expectation, parameters, num_samples, generator)
        costs = core.evaluate(expectation.cost, samples)
        utilities = rank_utilities(costs, best=self.best)
        sign = -1.0 if self.best == "lowest" else 1.0
        per_sample = sign * num_samples * utilities[:, None] * core.scores(expectation, parameters, samples)
        best = costs.min() if self.best == "lowest" else costs.max()
        metrics: Metrics = {"cost/mean": float(costs.mean()), "cost/best": float(best)}
        return core.summarise(per_sample, parameters, unbiased=False, independent=False, metrics=metrics)

    def _samples(
        self, expectation: Expectation, parameters: Parameters, num_samples: int, generator: torch.Generator
    ) -> Tensor:
        law = expectation.law(parameters)
        if not self.antithetic:
            return core.draw(law, num_samples, generator)
        half = core.draw(law, num_samples // 2, generator)
        return torch.cat([half, 2 * law.mean - half])
