"""What behaviours that differ from the policy share."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, final

import numpy as np
import torch
from torch import Tensor, nn

from pgkit.core.unrolling import is_recurrent
from pgkit.errors import UsageError
from pgkit.experience import Acting, Behaviors, Remembering
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

    @property
    def recurrent(self) -> bool:
        """Whether the policy has a memory."""
        return is_recurrent(self.policy)

    def log_prob(self, obs: Observations, actions: Tensor, *memory: Tensor | None) -> Tensor:
        """Returns log μ(a|s) `[...]`; a policy with a memory reads columns, `starts` and `state` with them."""
        result: Tensor = self.policy.law.log_prob(self.change(self.policy(obs, *memory)), actions)
        return result

    def actor(self) -> Actor:
        """Returns a function from numpy observations to changed parameters `[L, K]`."""
        actor: Actor = self.policy.actor()

        def act(obs: Any) -> np.ndarray:
            with torch.inference_mode():
                return self.change(torch.from_numpy(actor(obs))).numpy()

        return made_of(act, [(actor, slice(None))])


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

        return made_of(act, [(other, slice(0, count)), (own, slice(count, None))])

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


@final
class Composed:
    """An actor made of others, at least one of which has a memory; each sees the lanes beside it.

    Its parts keep their states: whole episodes begin with zeros, and nobody goes on with slabs of several policies.
    """

    state: np.ndarray | None = None

    def __init__(self, act: Actor, parts: Sequence[tuple[Actor, slice]]) -> None:
        self._act, self._parts = act, [(part, lanes) for part, lanes in parts if isinstance(part, Remembering)]

    def __call__(self, obs: Any) -> np.ndarray:
        """Returns what the actors make of the observations."""
        return self._act(obs)

    def begin(self, resetting: np.ndarray) -> None:
        """Lets every part forget everything."""
        for part, lanes in self._parts:
            part.begin(resetting[lanes])

    def follow(self, ended: np.ndarray) -> None:
        """Tells every part which of its lanes ended an episode."""
        for part, lanes in self._parts:
            part.follow(ended[lanes])


def made_of(act: Actor, parts: Sequence[tuple[Actor, slice]]) -> Actor:
    """Returns an actor that is made of others, with their memories if they have any."""
    return Composed(act, parts) if any(isinstance(part, Remembering) for part, _ in parts) else act


def _split(obs: Any, count: int) -> tuple[Any, Any]:
    if isinstance(obs, dict):
        return {key: each[:count] for key, each in obs.items()}, {key: each[count:] for key, each in obs.items()}
    return obs[:count], obs[count:]
