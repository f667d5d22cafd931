"""A critic of every action."""

from __future__ import annotations

from typing import Any, Literal, final

import torch
from gymnasium import spaces
from torch import Tensor

from pgkit.critics.value import FittedCritic
from pgkit.errors import UsageError
from pgkit.options import Count, Positive
from pgkit.types import Observations


@final
class ActionValueCritic(FittedCritic):
    """Fits Q(s, a) of each of finitely many actions to the returns of those that were taken.

    V(s) = Σ_a π(a|s) Q(s, a) under the policy as it is when values are read: returns and baselines may bootstrap from
    it as from any critic.
    """

    def __init__(
        self,
        *,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        policy: Any,
        generator: torch.Generator,
        hidden_sizes: list[Count] = [64, 64],  # noqa: B006 read only
        activation: Literal["tanh", "relu", "silu"] = "tanh",
        normalise_observations: bool = False,
        learning_rate: Positive = 1e-3,
        steps: Count = 40,
        minibatch_size: Count = 256,
    ) -> None:
        if not isinstance(action_space, spaces.Discrete):
            name = type(action_space).__name__
            raise UsageError(f"critic: action_value with actions {name}, expected Discrete ones; or critic=value")
        super().__init__(
            outputs=int(action_space.n), observation_space=observation_space, generator=generator,
            hidden_sizes=hidden_sizes, activation=activation, normalise_observations=normalise_observations,
            learning_rate=learning_rate, steps=steps, minibatch_size=minibatch_size,
        )  # fmt: skip
        self.policy = policy

    def values(self, obs: Observations) -> Tensor:
        """Returns Σ_a π(a|s) Q(s, a) `[T+1, N]`, detached."""
        return (self.probabilities(obs) * self.action_values(obs)).sum(dim=-1)

    def probabilities(self, obs: Observations) -> Tensor:
        """Returns π(a|s) of every action, `[..., A]`, detached."""
        with torch.no_grad():
            result: Tensor = self.policy.law.log_probabilities(self.policy(obs)).exp()
        return result

    def action_values(self, obs: Observations) -> Tensor:
        """Returns Q(s, a) of every action, `[..., A]`, detached."""
        with torch.no_grad():
            result: Tensor = self.network(obs)
        return result

    def chosen(self, outputs: Tensor, actions: Tensor) -> Tensor:
        """Returns the outputs of the actions that were taken."""
        return outputs.gather(-1, actions[:, None]).squeeze(-1)
