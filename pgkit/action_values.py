"""The protocols of critics that know actions which were not taken.

An action is encoded in E numbers that have a mean under the policy: its own where it is continuous, ones and zeros for
choices. D counts its independent dimensions.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from torch import Tensor

from pgkit.protocols import Critic
from pgkit.types import Observations


class ActionExpansion(Protocol):
    """What a critic makes of actions near those that were taken; lazy, detached, of the critic as it is when read."""

    @property
    def deviations(self) -> Tensor:
        """The encoded actions less their mean under the policy, `[F, N, E]`."""

    @property
    def slopes(self) -> Tensor:
        """∇Q in the encoded action, taken at its mean, `[F, N, E]`."""

    @property
    def gradients(self) -> Tensor:
        """∇Q in the action as sampled, taken at that action, `[F, N, A]`, of actions that are real vectors."""

    @property
    def others(self) -> Tensor:
        """Q of the action with one of its dimensions at its mean, less Q of the mean action, `[F, N, D]`."""


class Path(Protocol):
    """What a model of the environment makes of actions near those that were taken; lazy, at the policy as it is."""

    def slopes(self, *, gamma: float, horizon: int | None) -> Tensor:
        """Returns how the discounted return from each step on moves with the step's action as sampled, `[F, N, A]`.

        The noise of environment and policy stays as it was; of the return at most `horizon` rewards are counted.
        """


@runtime_checkable
class ReparameterisedLaw(Protocol):
    """A law whose actions are smooth functions of its parameters and of noise that knows nothing of these."""

    def reparameterised(self, parameters: Tensor, actions: Tensor) -> Tensor:
        """Returns actions as sampled, flat, `[..., A]`, moving with the parameters at the noise that they came from."""

    def applied(self, actions: Tensor) -> Tensor:
        """Returns the actions as the environment takes them, `[..., *act]`, differentiable."""


@runtime_checkable
class ActionCritic(Critic, Protocol):
    """A critic that values actions."""

    def action_values(self, obs: Observations) -> Tensor | None:
        """Returns Q(s, a) of every action, `[..., A]`, detached; None where they are not finitely many."""

    def chosen_values(self, obs: Observations, actions: Tensor) -> Tensor:
        """Returns Q(s, a) of actions as sampled, `[...]`, detached."""

    def probabilities(self, obs: Observations) -> Tensor | None:
        """Returns π(a|s) of every action, `[..., A]`, detached, under the policy as it is; None likewise."""

    def expansion(self, obs: Observations, actions: Tensor) -> ActionExpansion:
        """Returns what is known around actions as sampled."""
