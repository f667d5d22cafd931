"""Proximal policy optimisation by clipped ratios: several epochs of minibatches on one batch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, final

import torch
from torch import Tensor

from pgkit.core.placed import told
from pgkit.objectives import Objective
from pgkit.options import Count, NonNegative, Positive
from pgkit.types import Metrics
from pgkit.updates.climbing import LARGEST_LOG_RATIO, Climber, expect_finite
from pgkit.updates.minibatches import Minibatches, MinibatchOf, Normalise


@final
class PPOClip:
    """Maximises Σ min(r c, clip(r, 1 − ε, 1 + ε) c), r = π(a|s) / μ(a|s), c the estimator's coefficients.

    The ratio is to the log-probability at sampling time, so it corrects for what behaviours and past policies sampled,
    row by row and within the clip; on-policy it is 1 before the first step. Every epoch cuts the rows, newly shuffled,
    into `minibatches` of equal size. Under `target_kl` the update ends at the
    first minibatch whose estimate of KL(μ ‖ π), the mean of (r − 1) − log r, exceeds it.

    Bias: that of a policy which has left the one that sampled, in the states that it would visit; advantages normalised
    in the batch contain each sample themselves.
    Source: Schulman et al. 2017, arXiv:1707.06347; details as in Engstrom et al. 2020, arXiv:2005.12729, and
    Andrychowicz et al. 2020, arXiv:2006.05990; the estimate of the divergence Schulman 2020.
    """

    corrects = True
    needs_single_terms = True
    tags = (
        "gradient/norm", "gradient/norm_clipped", "update/surrogate", "update/learning_rate", "policy/entropy",
        "update/clip", "update/clip_fraction", "update/approximate_kl", "update/epochs", "update/steps",
        "update/first_ratio_deviation",
    )  # fmt: skip

    def __init__(
        self,
        *,
        optimizer: torch.optim.Optimizer,
        generator: torch.Generator,
        average: Literal["columns", "steps"] = "steps",
        clip: Positive = 0.2,
        epochs: Count = 4,
        minibatches: Count = 4,
        minibatch_of: MinibatchOf = "auto",
        normalise_advantages: Normalise = "minibatch",
        target_kl: Positive | None = None,
        max_grad_norm: Positive | None = 0.5,
        entropy_coefficient: NonNegative = 0.0,
        schedule: Literal["constant", "linear"] = "constant",
        clip_schedule: Literal["constant", "linear"] = "constant",
    ) -> None:
        self.optimizer = optimizer
        self.average: Literal["columns", "steps"] = average
        self.clip, self.clip_schedule = clip, clip_schedule
        self.target_kl, self.entropy_coefficient = target_kl, entropy_coefficient
        self._climber = Climber(optimizer, max_grad_norm=max_grad_norm, schedule=schedule)
        self._minibatches = Minibatches(
            generator, epochs=epochs, number=minibatches, of=minibatch_of, normalise=normalise_advantages
        )

    def step(self, objective: Objective, *, progress: float) -> Metrics:
        """Changes the parameters; reports means over the optimizer steps, and how far the policy went.

        Raises: RunFault where a gradient is not finite; parameters are then as the last good step left them.
        """
        self._climber.begin(progress)
        clip = self.clip * (max(0.0, 1.0 - progress) if self.clip_schedule == "linear" else 1.0)
        advantages = self._minibatches.advantages(objective)
        seen: list[tuple[Tensor, Tensor, Tensor]] = []  # of every step's rows: surrogate, log ratio, entropy
        norms: list[Tensor] = []
        divergence, samples_a_row = None, 1.0
        for rows in self._minibatches.walk(objective):
            scored = objective.scored(rows)
            log_ratio = scored.log_prob - scored.behavior_log_prob
            if self.target_kl is not None:
                divergence = float(approximate_kl(log_ratio))
                if divergence > self.target_kl:
                    break
            surrogate, slope = clipped_surrogate(self._minibatches.within(advantages[rows]), log_ratio, clip)
            share, samples_a_row = self.entropy_coefficient / scored.num_samples, scored.num_samples / len(rows)
            norms.append(self._climber.follow(scored.gradient(slope / scored.num_samples, share)))
            seen.append((surrogate, log_ratio, scored.entropy))
        steps = len(norms)
        found: Metrics = dict.fromkeys(self.tags)
        found |= {
            "update/learning_rate": self._climber.learning_rate,
            "update/clip": clip,
            # A batch whose first minibatch is beyond the target is not learnt from, and this is why.
            "update/approximate_kl": divergence,
            "update/epochs": steps / self._minibatches.pieces(objective),
            "update/steps": float(steps),
        }
        return found | self._averages(norms, seen, samples_a_row, clip) if steps else found

    def _averages(
        self, norms: list[Tensor], seen: list[tuple[Tensor, Tensor, Tensor]], samples_a_row: float, clip: float
    ) -> Metrics:
        """Returns the means over all steps and their rows: the one place where the host waits for an update.

        Raises: RunFault where a gradient was not finite.
        """
        surrogate, log_ratio, entropy = (torch.cat(each) for each in zip(*seen, strict=True))
        deviation = (ratio_of(log_ratio) - 1).abs()
        mean_surrogate, mean_entropy, clip_fraction, divergence, first, *lengths = told(
            [
                surrogate.mean(),
                entropy.mean(),
                deviation.gt(clip).to(entropy.dtype).mean(),
                approximate_kl(log_ratio),
                deviation[: len(seen[0][1])].max(),
                *norms,
            ]
        )
        return {
            "gradient/norm": sum(expect_finite(norm) for norm in lengths) / len(lengths),
            "gradient/norm_clipped": sum(min(norm, self._climber.limit) for norm in lengths) / len(lengths),
            "update/surrogate": (mean_surrogate + self.entropy_coefficient * mean_entropy) / samples_a_row,
            "policy/entropy": mean_entropy,
            "update/clip_fraction": clip_fraction,
            "update/approximate_kl": divergence,
            "update/first_ratio_deviation": first,
        }

    def state_dict(self) -> dict[str, Any]:
        """Returns the optimizer's state, the learning rates and the generator of minibatches."""
        return {**self._climber.state_dict(), "generator": self._minibatches.generator.get_state()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Puts them back."""
        self._climber.load_state_dict(state)
        self._minibatches.generator.set_state(state["generator"])


def ratio_of(log_ratio: Tensor) -> Tensor:
    """Returns π / μ of every row `[M]`, e^20 at most."""
    return log_ratio.clamp(max=LARGEST_LOG_RATIO).exp()


def approximate_kl(log_ratio: Tensor) -> Tensor:
    """Returns the mean of (r − 1) − log r, an estimate of KL(μ ‖ π) in nats that is never below 0."""
    # r − 1 itself, since in single precision 1 would swallow what is near it.
    return (torch.expm1(log_ratio.clamp(max=LARGEST_LOG_RATIO)) - log_ratio).mean()


def clipped_surrogate(advantages: Tensor, log_ratio: Tensor, clip: float) -> tuple[Tensor, Tensor]:
    """Returns min(r A, clip(r, 1 − ε, 1 + ε) A) of every row `[M]`, and its derivative in the row's log π.

    The derivative is r A, and 0 where a bound holds the surrogate: it makes an estimator's coefficients of it.
    """
    ratio = ratio_of(log_ratio)
    free, bounded = ratio * advantages, ratio.clamp(1 - clip, 1 + clip) * advantages
    return torch.minimum(free, bounded), torch.where(bounded < free, 0.0, free)
