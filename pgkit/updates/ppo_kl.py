"""Proximal policy optimisation by a penalty on the divergence, whose weight adapts to how far the last steps went."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, final

import torch

from pgkit.objectives import Objective
from pgkit.options import Count, NonNegative, Positive
from pgkit.types import Metrics
from pgkit.updates.climbing import LARGEST_LOG_RATIO, Climber, Schedule
from pgkit.updates.minibatches import Minibatches, MinibatchOf, Normalise

TOLERANCE = 1.5
"""The penalty stays while the divergence is within this factor of its target."""
FACTOR = 2.0
"""What the penalty is multiplied or divided by where it is not."""


@final
class PPOPenalty:
    """Maximises Σ r c − β KL(π_old ‖ π), r = π(a|s) / μ(a|s), c the estimator's coefficients; then β adapts.

    The divergence is that of the laws at every row, exact in the actions, from the policy before the update; the ratio
    is to the log-probability at sampling time, as in the clipped form. Where the mean divergence d of the batch after
    the update is above 1.5 `target_kl`, β is doubled, below `target_kl` / 1.5 halved: for the next update, so that
    single ones may go further.

    Bias: that of a policy which has left the one that sampled, in the states that it would visit; advantages normalised
    in the batch contain each sample themselves.
    Source: Schulman et al. 2017, arXiv:1707.06347, section 4.
    """

    corrects = True
    needs_single_terms = True
    tags = (
        "gradient/norm", "gradient/norm_clipped", "update/surrogate", "update/learning_rate", "policy/entropy",
        "update/kl", "update/penalty", "update/first_ratio_deviation",
    )  # fmt: skip

    def __init__(
        self,
        *,
        optimizer: torch.optim.Optimizer,
        generator: torch.Generator,
        average: Literal["columns", "steps"] = "steps",
        target_kl: Positive = 0.01,
        penalty: Positive = 1.0,
        epochs: Count = 4,
        minibatches: Count = 4,
        minibatch_of: MinibatchOf = "auto",
        normalise_advantages: Normalise = "minibatch",
        max_grad_norm: Positive | None = 0.5,
        entropy_coefficient: NonNegative = 0.0,
        schedule: Schedule = "constant",
    ) -> None:
        self.optimizer = optimizer
        self.average: Literal["columns", "steps"] = average
        self.target_kl, self.penalty, self.entropy_coefficient = target_kl, float(penalty), entropy_coefficient
        self._climber = Climber(optimizer, max_grad_norm=max_grad_norm, schedule=schedule)
        self._minibatches = Minibatches(
            generator, epochs=epochs, number=minibatches, of=minibatch_of, normalise=normalise_advantages
        )

    def step(self, objective: Objective, *, progress: float) -> Metrics:
        """Changes the parameters and β; reports means over the optimizer steps, and how far the policy went.

        Raises: RunFault where a gradient is not finite; parameters are then as the last good step left them.
        """
        climber, penalty = self._climber, self.penalty
        climber.begin(progress)
        advantages, laws = self._minibatches.advantages(objective), objective.laws()
        place = torch.zeros_like(advantages, dtype=torch.long)
        place[objective.valid] = torch.arange(len(objective.valid), device=advantages.device)
        sums, steps, first = torch.zeros(4, dtype=torch.float64), 0, None
        for rows in self._minibatches.walk(objective):
            terms = objective.terms(rows)
            ratio = (terms.log_prob - terms.behavior_log_prob).clamp(max=LARGEST_LOG_RATIO).exp()
            if first is None:
                first = float((ratio - 1).detach().abs().max())
            gain = (ratio * self._minibatches.within(advantages[terms.index])).sum()
            divergence = objective.divergences(laws[place[terms.index]], terms.parameters).sum()
            value = gain - penalty * divergence
            if self.entropy_coefficient > 0:
                value = value + self.entropy_coefficient * terms.entropy.sum()
            value = value / terms.num_samples
            climber.clear()
            climber.accumulate(value)
            norm = climber.step()
            entropy = float(terms.entropy.detach().mean())
            sums += torch.tensor([norm, min(norm, climber.limit), float(value.detach()), entropy], dtype=torch.float64)
            steps += 1
        reached = float(objective.divergence(laws).sum()) / max(len(objective.valid), 1)
        self._adapt(reached)
        norm, norm_clipped, surrogate, entropy = (sums / max(steps, 1)).tolist()
        return {
            "gradient/norm": norm,
            "gradient/norm_clipped": norm_clipped,
            "update/surrogate": surrogate,
            "update/learning_rate": climber.learning_rate,
            "policy/entropy": entropy,
            "update/kl": reached,
            "update/penalty": penalty,
            "update/first_ratio_deviation": first,
        }

    def _adapt(self, divergence: float) -> None:
        if divergence > TOLERANCE * self.target_kl:
            self.penalty *= FACTOR
        elif divergence < self.target_kl / TOLERANCE:
            self.penalty /= FACTOR

    def state_dict(self) -> dict[str, Any]:
        """Returns the optimizer's state, the learning rates, β and the generator of minibatches."""
        generator = self._minibatches.generator.get_state()
        return {**self._climber.state_dict(), "penalty": self.penalty, "generator": generator}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Puts them back."""
        self._climber.load_state_dict(state)
        self.penalty = state["penalty"]
        self._minibatches.generator.set_state(state["generator"])
