"""One optimizer step along an estimated gradient: SGD with any estimator."""

from __future__ import annotations

from typing import Literal, final

import torch

from pgkit.core.moments import GradientMoments
from pgkit.errors import RunFault
from pgkit.options import Positive
from pgkit.types import GradientEstimate, Metrics, Parameters

TAGS = (
    "gradient/norm",
    "gradient/norm_clipped",
    "gradient/per_sample_variance",
    "gradient/variance_of_mean",
    "gradient/snr",
    "gradient/expected_cosine",
    "update/learning_rate",
)


@final
class Ascent:
    """Moves named parameters along the estimated gradient of an expectation: uphill, or downhill where it is a cost.

    `max_grad_norm` shortens longer gradients: biased; what it did is the difference of the two norms that are logged.
    `schedule="linear"` lets the learning rates fall to nothing by the end of the run, as stochastic approximation needs
    it to converge.
    Source: Robbins and Monro 1951 (Annals of Mathematical Statistics 22:400).
    """

    def __init__(
        self,
        *,
        optimizer: torch.optim.Optimizer,
        parameters: Parameters,
        maximise: bool,
        max_grad_norm: Positive | None = None,
        schedule: Literal["constant", "linear"] = "constant",
    ) -> None:
        self.optimizer, self.parameters = optimizer, parameters
        self.max_grad_norm, self.schedule = max_grad_norm, schedule
        # Optimizers minimise, so a gradient that is to be followed uphill is handed over with its sign flipped: here
        # and nowhere else.
        self._sign = -1.0 if maximise else 1.0
        self._learning_rates = [float(group["lr"]) for group in optimizer.param_groups]

    def step(self, estimate: GradientEstimate, *, progress: float) -> Metrics:
        """Changes the parameters; returns the norms and the noise of the gradient. `progress` is in [0, 1].

        Raises: RunFault where the gradient is not finite; the parameters are then left untouched.
        """
        norm = float(estimate.mean.norm())
        if not norm < float("inf"):
            raise RunFault(f"gradient/norm: {norm}, expected a finite number; the parameters were left as they were")
        limit = float("inf") if self.max_grad_norm is None else self.max_grad_norm
        scale = self._sign * min(1.0, limit / norm if norm else 1.0)
        for name, gradient in estimate.by_name().items():
            self.parameters[name].grad = scale * gradient
        if self.schedule == "linear":
            for group, rate in zip(self.optimizer.param_groups, self._learning_rates, strict=True):
                group["lr"] = rate * max(0.0, 1.0 - progress)
        self.optimizer.step()
        return {
            "gradient/norm": norm,
            "gradient/norm_clipped": min(norm, limit),
            "update/learning_rate": float(self.optimizer.param_groups[0]["lr"]),
            **noise(estimate),
        }


def noise(estimate: GradientEstimate) -> Metrics:
    """Returns what the standard error of an estimate says of its noise; all None where there is none."""
    tags = ("gradient/per_sample_variance", "gradient/variance_of_mean", "gradient/snr", "gradient/expected_cosine")
    if estimate.standard_error is None:
        return dict.fromkeys(tags)
    of_mean = float(estimate.standard_error.square().sum())
    rows = None if estimate.per_sample is None else len(estimate.per_sample)
    moments = GradientMoments(
        per_sample_variance=of_mean * (rows or 1),
        variance_of_mean=of_mean,
        signal=float(estimate.mean.square().sum()) - of_mean,
    )
    one = moments.per_sample_variance if rows and estimate.independent else None
    return dict(zip(tags, (one, of_mean, moments.snr, moments.expected_cosine), strict=True))
