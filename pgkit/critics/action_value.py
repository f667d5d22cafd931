"""A critic of actions."""

from __future__ import annotations

from typing import Any, Literal, final

import torch
from gymnasium import spaces
from torch import Tensor

from pgkit.critics.expansion import Expansion
from pgkit.critics.value import FittedCritic
from pgkit.options import Count, Positive
from pgkit.types import Observations, Rows


@final
class ActionValueCritic(FittedCritic):
    """Fits Q(s, a) to the returns of the actions that were taken.

    Discrete actions have an output each, and V(s) = Σ_a π(a|s) Q(s, a). Any others are an input as they were sampled,
    encoded by the policy's law, and V(s) is Q at the mean of that code: what Q is expanded about, exact where Q is
    linear in the action. Both belong to the policy as it is when values are read; returns and baselines may bootstrap
    from them as from any critic.
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
        self.policy, self.finite = policy, isinstance(action_space, spaces.Discrete)
        encoded = sum(policy.law.dimensions)
        super().__init__(
            outputs=encoded if self.finite else 1, action_inputs=0 if self.finite else encoded,
            observation_space=observation_space, generator=generator, hidden_sizes=hidden_sizes,
            activation=activation, normalise_observations=normalise_observations, learning_rate=learning_rate,
            steps=steps, minibatch_size=minibatch_size,
        )  # fmt: skip

    def values(self, obs: Observations) -> Tensor:
        """Returns V(s) `[T+1, N]`, detached."""
        with torch.no_grad():
            return self._quality(obs, self._mean(obs))

    def probabilities(self, obs: Observations) -> Tensor | None:
        """Returns π(a|s) of every action, `[..., A]`, detached; None where they are no finite number."""
        with torch.no_grad():
            return self._mean(obs) if self.finite else None

    def action_values(self, obs: Observations) -> Tensor | None:
        """Returns Q(s, a) of every action, `[..., A]`, detached; None where they are no finite number."""
        with torch.no_grad():
            result: Tensor | None = self.network(obs) if self.finite else None
        return result

    def chosen_values(self, obs: Observations, actions: Tensor) -> Tensor:
        """Returns Q(s, a) of actions as sampled, `[...]`, detached."""
        with torch.no_grad():
            return self._quality(obs, self.policy.law.encode(actions))

    def expansion(self, obs: Observations, actions: Tensor) -> Expansion:
        """Returns Q around actions as sampled."""
        return Expansion(self.policy, obs, actions, quality=lambda encoded: self._quality(obs, encoded))

    def features(self, obs: Observations) -> Tensor:
        """Returns what the last layer reads, `[..., K]`, detached; of the mean action where actions are an input."""
        with torch.no_grad():
            inputs = self.network.encoder(obs) if self.finite else self._joined(obs, self._mean(obs))
            result: Tensor = self.network.network[:-1](inputs)
        return result

    def inputs(self, rows: Rows) -> Tensor:
        """Returns what the network reads of some transitions, `[M, …]`."""
        return super().inputs(rows) if self.finite else self._joined(rows.obs, self.policy.law.encode(rows.actions))

    def chosen(self, outputs: Tensor, actions: Tensor) -> Tensor:
        """Returns the outputs of the actions that were taken."""
        return outputs.gather(-1, actions[:, None]).squeeze(-1) if self.finite else outputs.squeeze(-1)

    def _quality(self, obs: Observations, encoded: Tensor) -> Tensor:
        """Returns Q `[...]` of encoded actions `[..., E]`; of finitely many it is linear in the code."""
        if self.finite:
            result: Tensor = (self.network(obs) * encoded).sum(dim=-1)
            return result
        return self.network.of_inputs(self._joined(obs, encoded)).squeeze(-1)

    def _joined(self, obs: Observations, encoded: Tensor) -> Tensor:
        features = self.network.encoder(obs)
        return torch.cat([features, encoded.to(features.dtype)], dim=-1)

    def _mean(self, obs: Observations) -> Tensor:
        mean: Tensor = self.policy.law.mean(self.policy(obs))
        return mean
