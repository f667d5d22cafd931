"""What behaviours that differ from the policy share."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, Protocol, final

import numpy as np
import torch
from torch import Tensor, nn

from pgkit.errors import UsageError
from pgkit.experience import Acting, Behaviors
from pgkit.types import Factors, Metrics, Observations, Trajectories

Actor = Callable[[Any], np.ndarray]


class Change(Protocol):
    """A map from parameters of a law of actions to others of the same law, `[..., K]` to `[..., K]`."""

    def __call__(self, parameters: Tensor) -> Tensor: ...


@final
class ChangedPolicy(nn.Module):
    """A policy that acts by changed parameters of its law, and follows the one it is made of."""

    def __init__(self, policy: Any, change: Change) -> None:
        super().__init__()
        self.policy, self.change = policy, change

    def log_prob(self, obs: Observations, actions: Tensor) -> Tensor:
        """Returns log μ(a|s) `[...]`."""
        result: Tensor = self.policy.law.log_prob(self.change(self.policy(obs)), actions)
        return result

    def actor(self) -> Actor:
        """Returns a function from numpy observations to changed parameters `[L, K]`."""
        actor = self.policy.actor()

        def act(obs: Any) -> np.ndarray:
            with torch.inference_mode():
                return self.change(torch.from_numpy(actor(obs))).numpy()

        return act


class LaneBehavior(ABC):
    """Another policy on the first `lanes` lanes, on all of them by default; the policy that learns on the others.

    Trajectories of the policy itself keep the mixture's weights bounded, by num_lanes / (num_lanes − lanes): a
    defensive share.
    Source: Hesterberg 1995 (Technometrics 37:185).
    """

    on_policy = False
    tags: tuple[str, ...] = ()

    def __init__(self, *, policy: Any, num_lanes: int, lanes: int | None) -> None:
        if lanes is not None and lanes > num_lanes:
            raise UsageError(f"behavior.lanes: {lanes}, expected at most env.num_envs={num_lanes}")
        self.policy = policy
        self.count, self.num_lanes = num_lanes if lanes is None else lanes, num_lanes

    @property
    @abstractmethod
    def other(self) -> Any:
        """The policy of the first lanes: it has `log_prob` and `actor`."""

    def actor(self) -> Actor:
        """Returns a function from numpy observations `[L, *obs]` to parameters `[L, K]`, each lane's by its policy."""
        other, own, count = self.other.actor(), self.policy.actor(), self.count
        if count == self.num_lanes:
            result: Actor = other
            return result

        def act(obs: Any) -> np.ndarray:
            first, last = _split(obs, count)
            return np.concatenate([other(first), own(last)])

        return act

    def acting(self) -> Behaviors:
        """Returns who acts: where lanes are left to the policy that learns, it comes first."""
        if self.count == self.num_lanes:
            return Behaviors.single(self.other, self.num_lanes)
        policies: list[Acting] = [self.policy, self.other]
        return Behaviors(policies=policies, lanes=(torch.arange(self.num_lanes) < self.count).long())

    def learn(self, trajectories: Trajectories, factors: Factors, coefficients: Tensor) -> Metrics:
        """Learns nothing."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """Returns an empty state."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes an empty state."""


def copied(policy: Any) -> Any:
    """Returns a copy of a policy with parameters of its own."""
    return copy.deepcopy(policy)


def _split(obs: Any, count: int) -> tuple[Any, Any]:
    if isinstance(obs, dict):
        return {key: each[:count] for key, each in obs.items()}, {key: each[count:] for key, each in obs.items()}
    return obs[:count], obs[count:]
