"""What gradient estimators share: one baseline, and a way to refuse."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch

from pgkit.errors import UsageError
from pgkit.protocols import Baseline
from pgkit.types import Expectation, GradientEstimate, Parameters


class ExpectationEstimator(ABC):
    """An estimator of ∇E_{x~p_θ}[f(x)], constructed with the baseline that its score terms subtract.

    A class that has no score term to subtract it from says `takes_baseline = False`.
    """

    unbiased = True
    takes_baseline = False

    def __init__(self, *, baseline: Baseline) -> None:
        if not self.takes_baseline and type(baseline).__name__ != "Zero":
            raise UsageError(f"baseline: {type(baseline).__name__}, expected zero with {type(self).__name__}")
        self.baseline = baseline

    @abstractmethod
    def accepts(self, expectation: Expectation, parameters: Parameters) -> None:
        """Raises UsageError, naming what to use instead, where this estimator would be wrong or impossible."""

    @abstractmethod
    def estimate(
        self, expectation: Expectation, parameters: Parameters, *, num_samples: int, generator: torch.Generator
    ) -> GradientEstimate:
        """Returns the estimate from N samples; torch's global generator is left as it was."""
