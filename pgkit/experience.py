"""Who acts, what is remembered of it, and what it is still worth: behaviour policies, past batches, weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from pgkit.protocols import Policy
from pgkit.types import Factors, Metrics, Observations, Trajectories, WeightKind


@runtime_checkable
class Remembering(Protocol):
    """An actor with a memory of the episodes under way, a state `[L, S]`, zeros where one begins."""

    state: np.ndarray | None

    def __call__(self, obs: Any) -> np.ndarray: ...

    def begin(self, resetting: np.ndarray) -> None:
        """Forgets everything: all lanes begin an episode, or are `resetting` `[L]` and begin one a row later."""

    def follow(self, ended: np.ndarray) -> None:
        """Forgets what lanes saw of episodes that are over, once told after each row which lanes ended there `[L]`."""


class Acting(Protocol):
    """A law of actions given observations that somebody acts by."""

    def log_prob(self, obs: Observations, actions: Tensor) -> Tensor:
        """Returns log μ(a|s) `[...]`."""


@dataclass(frozen=True, kw_only=True)
class Behaviors:
    """The policies that act in one batch, and which of them does on which lane; lanes `[L]` hold places in `policies`.

    They are live: whoever keeps them makes copies.
    """

    policies: Sequence[Acting]
    lanes: Tensor

    @classmethod
    def single(cls, policy: Acting, num_lanes: int) -> Behaviors:
        """Returns one policy on every lane."""
        return cls(policies=(policy,), lanes=torch.zeros(num_lanes, dtype=torch.long))


@runtime_checkable
class Behavior(Protocol):
    """Chooses the policies that collect experience. `on_policy` says that it is the one that learns, and no other."""

    on_policy: bool
    tags: Sequence[str]

    def actor(self) -> Callable[[Any], np.ndarray]:
        """Returns a function from numpy observations `[L, *obs]` to parameters of the policy's law, `[L, K]`.

        It follows every later update of the policy.
        """

    def acting(self) -> Behaviors:
        """Returns who acts at present."""

    def learn(self, trajectories: Trajectories, factors: Factors, coefficients: Tensor) -> Metrics:
        """Learns how to act from a batch and the coefficients `[T, N]` or `[T, N, C]` of its gradient.

        Called after everything was read and before the policy moves.
        """

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: Mapping[str, Any], /) -> Any: ...


@runtime_checkable
class Reuse(Protocol):
    """Keeps batches of past policies. `batches` counts those of an estimate, the current one included."""

    batches: int
    unbiased: bool
    tags: Sequence[str]

    def extend(self, trajectories: Trajectories, behaviors: Behaviors) -> Trajectories:
        """Returns the new batch with those that are kept beside it: new columns first, `behavior_id` and `age` set.

        It then keeps the batch, as it is, with copies of the policies that acted in it.
        """

    def metrics(self) -> Metrics:
        """Returns a value for every one of its tags, about the batch that was last handed out."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: Mapping[str, Any], /) -> Any: ...


@runtime_checkable
class Weights(Protocol):
    """Corrects for data that another policy sampled.

    `kind` says what L_t is: `prefix`, the cumulative log weight of all that led to row t, 0 on-policy; or `step`, that
    of the action at row t alone, for returns that have traces of their own. `reach` says whose density it asks for:
    that of the policy which acted (`own`), or of every policy that acted in the batch (`all`).
    """

    unbiased: bool
    kind: WeightKind
    reach: Literal["none", "own", "all"]
    needs_whole_episodes: bool

    def log_weight(self, policy: Policy, trajectories: Trajectories) -> Tensor:
        """Returns the log weight of every row, `[T, N]`, detached."""
