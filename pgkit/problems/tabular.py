"""Decision processes so small that every trajectory is known.

A trajectory is one sample of a categorical law, and its return the cost, so that every estimator of an expectation
applies.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Literal, final

import torch
from torch import Tensor
from torch.distributions import Categorical

from pgkit.core.processes import BANDIT, CHAIN, GAMBLE
from pgkit.options import Fraction
from pgkit.problems.known import Facts, IntegratedProblem, as_leaves, flat_gradient
from pgkit.types import Expectation, Parameters


@final
class SmallProcess(IntegratedProblem):
    """The expected discounted return of a softmax policy on a small process: to be maximised.

    One trajectory is one sample, so that the score of a sample is the sum of the scores of its steps.
    """

    maximise = True

    def __init__(self, *, process: Literal["bandit", "chain", "gamble"], gamma: Fraction = 0.9) -> None:
        self.process, self.gamma = {"bandit": BANDIT, "chain": CHAIN, "gamble": GAMBLE}[process], gamma

    def parameters(self) -> dict[str, Tensor]:
        """Returns the logits `[S, A]`."""
        shape = (self.process.num_states, self.process.num_actions)
        return {"logits": 0.5 * torch.sin(torch.arange(math.prod(shape), dtype=torch.float64)).reshape(shape)}

    def expectation(self) -> Expectation:
        """Returns the expected return; a sample is the number of a trajectory."""
        returns = self.process.returns(self.gamma)
        return Expectation(
            cost=lambda number: returns[number],
            law=lambda theta: Categorical(probs=self._probabilities(theta), validate_args=False),
        )

    def exact_gradient(self, parameters: Parameters) -> Tensor:
        """Returns ∇J by dynamic programming and the policy gradient theorem."""
        leaves = as_leaves(parameters)
        return flat_gradient(self.process.policy_gradient_theorem(leaves["logits"].softmax(1), self.gamma), leaves)

    def exact_variance(self, estimator: str, parameters: Parameters) -> Tensor | None:
        """Returns the variance of `score` by enumeration, and that of `enumeration`, which has none."""
        if estimator == "enumeration":
            return torch.zeros_like(self.exact_gradient(parameters))
        return super().exact_variance(estimator, parameters)

    def nodes(self, parameters: Parameters) -> tuple[Tensor, Tensor]:
        """Returns the numbers of all trajectories and their probabilities."""
        probabilities = self._probabilities(parameters).detach()
        return torch.arange(len(probabilities)), probabilities

    def facts(self) -> Facts:
        """Returns the facts with the number of trajectories."""
        return replace(super().facts(), outcomes=len(self.process.trajectories))

    def _probabilities(self, parameters: Parameters) -> Tensor:
        return self.process.probabilities(parameters["logits"].softmax(1))
