"""Regression onto the better actions: what was done becomes more probable the better it turned out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, Literal, final

import torch
from torch import Tensor

from pgkit.core.relative_entropy import exponential_weights, relative_entropy, temperature_within
from pgkit.objectives import Objective
from pgkit.options import Count, NonNegative, Positive
from pgkit.types import Metrics
from pgkit.updates.climbing import Climber, Schedule
from pgkit.updates.minibatches import Minibatches, MinibatchOf, Normalise


class WeightedLikelihood(ABC):
    """Maximises Σ w(A) log π(a|s) over a batch in epochs of minibatches, w positive and growing with the advantage.

    No ratio to the policy that acted is taken: the maximum is at π ∝ μ w, wherever the rows came from, and a batch of
    several policies stands for their mixture.
    Bias: it is no gradient of the performance but a projection onto the policies that the network can be.
    """

    corrects = True
    needs_single_terms = True
    tags: tuple[str, ...] = (
        "gradient/norm", "gradient/norm_clipped", "update/surrogate", "update/learning_rate", "policy/entropy",
        "update/kl", "update/temperature", "update/effective_share",
    )  # fmt: skip

    def __init__(
        self,
        *,
        optimizer: torch.optim.Optimizer,
        minibatches: Minibatches,
        average: Literal["columns", "steps"],
        max_grad_norm: Positive | None,
        entropy_coefficient: NonNegative,
        schedule: Schedule,
    ) -> None:
        self.optimizer, self.entropy_coefficient = optimizer, entropy_coefficient
        self.average: Literal["columns", "steps"] = average
        self._climber = Climber(optimizer, max_grad_norm=max_grad_norm, schedule=schedule)
        self._minibatches = minibatches

    @abstractmethod
    def weighed(self, advantages: Tensor) -> tuple[Tensor, Metrics]:
        """Returns the weights `[M]` of rows with these advantages, and what there is to say about them."""

    def step(self, objective: Objective, *, progress: float) -> Metrics:
        """Changes the parameters; reports means over the optimizer steps, the weights and how far the policy went.

        Raises: RunFault where a gradient is not finite; parameters are then as the last good step left them.
        """
        climber = self._climber
        climber.begin(progress)
        advantages = self._minibatches.advantages(objective)
        weights = torch.zeros_like(advantages)
        weights[objective.valid], said = self.weighed(advantages[objective.valid])
        laws, sums, steps = objective.laws(), torch.zeros(4, dtype=torch.float64), 0
        for rows in self._minibatches.walk(objective):
            scored, pull = objective.scored(rows), weights[rows]
            share = self.entropy_coefficient / scored.num_samples
            norm = climber.ascend(scored.gradient(pull / scored.num_samples, share))
            value = pull @ scored.log_prob / scored.num_samples + share * scored.entropy.sum()
            found = (norm, min(norm, climber.limit), float(value), float(scored.entropy.mean()))
            sums += torch.tensor(found, dtype=torch.float64)
            steps += 1
        norm, norm_clipped, surrogate, entropy = (sums / max(steps, 1)).tolist()
        total, squares = float(weights.sum()), float(weights.square().sum()) * len(objective.valid)
        return {
            "gradient/norm": norm,
            "gradient/norm_clipped": norm_clipped,
            "update/surrogate": surrogate,
            "update/learning_rate": climber.learning_rate,
            "policy/entropy": entropy,
            "update/kl": float(objective.divergence(laws).sum()) / max(len(objective.valid), 1),
            "update/effective_share": total**2 / squares if squares > 0 else None,
            **said,
        }

    def state_dict(self) -> dict[str, Any]:
        """Returns the optimizer's state, the learning rates and the generator of minibatches."""
        return {**self._climber.state_dict(), "generator": self._minibatches.generator.get_state()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Puts them back."""
        self._climber.load_state_dict(state)
        self._minibatches.generator.set_state(state["generator"])


@final
class AdvantageWeighted(WeightedLikelihood):
    """w = exp(A / β), at most `largest_weight`: advantage-weighted regression.

    The maximum of mean advantage less β KL(π ‖ μ); with normalised advantages β is in their standard deviations.
    Source: Peng, Kumar, Zhang and Levine 2019, arXiv:1910.00177.
    """

    tags = (*WeightedLikelihood.tags, "update/clip_fraction")

    def __init__(
        self,
        *,
        optimizer: torch.optim.Optimizer,
        generator: torch.Generator,
        average: Literal["columns", "steps"] = "steps",
        temperature: Positive = 1.0,
        largest_weight: Positive = 20.0,
        epochs: Count = 4,
        minibatches: Count = 4,
        minibatch_of: MinibatchOf = "auto",
        normalise_advantages: Literal["none", "batch"] = "batch",
        max_grad_norm: Positive | None = 0.5,
        entropy_coefficient: NonNegative = 0.0,
        schedule: Schedule = "constant",
    ) -> None:
        walk = Minibatches(
            generator, epochs=epochs, number=minibatches, of=minibatch_of, normalise=normalise_advantages
        )
        super().__init__(
            optimizer=optimizer, minibatches=walk, average=average, max_grad_norm=max_grad_norm,
            entropy_coefficient=entropy_coefficient, schedule=schedule,
        )  # fmt: skip
        self.temperature, self.largest_weight = temperature, largest_weight

    def weighed(self, advantages: Tensor) -> tuple[Tensor, Metrics]:
        """Returns the clipped weights `[M]`; the temperature and the share that was clipped."""
        weights = (advantages / self.temperature).exp()
        clipped = float((weights > self.largest_weight).double().mean()) if len(weights) else 0.0
        said: Metrics = {"update/temperature": float(self.temperature), "update/clip_fraction": clipped}
        return weights.clamp(max=self.largest_weight), said


@final
class RelativeEntropy(WeightedLikelihood):
    """w ∝ exp(A / η), whose temperature η comes of a bound on KL(w ‖ uniform): relative entropy policy search.

    The bound is on the reweighted samples; `update/kl` says how far the policy that is fitted to them went.
    Advantages stand for the Bellman errors that the original fits a value function to in the same dual.
    Source: Peters, Mülling and Altün 2010 (AAAI); Deisenroth, Neumann and Peters 2013 (survey), section 2.4.3.
    """

    tags = (*WeightedLikelihood.tags, "update/relative_entropy")

    def __init__(
        self,
        *,
        optimizer: torch.optim.Optimizer,
        generator: torch.Generator,
        average: Literal["columns", "steps"] = "steps",
        epsilon: Positive = 0.5,
        epochs: Count = 4,
        minibatches: Count = 4,
        minibatch_of: MinibatchOf = "auto",
        max_grad_norm: Positive | None = 0.5,
        entropy_coefficient: NonNegative = 0.0,
        schedule: Schedule = "constant",
    ) -> None:
        # The bound makes up for any scale of the advantages.
        walk: Normalise = "none"
        super().__init__(
            optimizer=optimizer,
            minibatches=Minibatches(generator, epochs=epochs, number=minibatches, of=minibatch_of, normalise=walk),
            average=average, max_grad_norm=max_grad_norm, entropy_coefficient=entropy_coefficient, schedule=schedule,
        )  # fmt: skip
        self.epsilon = epsilon

    def weighed(self, advantages: Tensor) -> tuple[Tensor, Metrics]:
        """Returns the weights `[M]`, their mean 1; the temperature, None where all are alike, and the divergence."""
        temperature = temperature_within(advantages, self.epsilon)
        weights = exponential_weights(advantages, temperature)
        finite = temperature if temperature < float("inf") else None
        return weights, {"update/temperature": finite, "update/relative_entropy": relative_entropy(weights)}
