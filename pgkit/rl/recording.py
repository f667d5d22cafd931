"""The step loop: act, step, remember; everything else happens once a batch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol, final

import numpy as np
import torch

from pgkit.errors import RunFault
from pgkit.experience import Remembering
from pgkit.rl.lanes import Lanes
from pgkit.rl.spaces import Observation
from pgkit.types import Observations, Trajectories

Actor = Callable[[Any], np.ndarray]


class ActionLaw(Protocol):
    """What the step loop needs of a law of actions."""

    def fault(self, parameters: np.ndarray, acted: np.ndarray) -> str | None: ...

    def allowed(self, parameters: np.ndarray) -> np.ndarray | None: ...

    def noise(self, generator: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray: ...

    def sample(self, parameters: np.ndarray, noise: np.ndarray) -> np.ndarray: ...

    def mode(self, parameters: np.ndarray) -> np.ndarray: ...

    def to_environment(self, actions: np.ndarray) -> np.ndarray: ...

    def log_prob(self, parameters: torch.Tensor, actions: torch.Tensor) -> torch.Tensor: ...


@final
class Recording:
    """Rows of all lanes in the order they happened, in arrays of a batch's own that double when they are full."""

    def __init__(self, obs: Observation, *, capacity: int) -> None:
        self.last = obs
        self.rows = 0
        self._capacity = capacity
        self._obs = {name: _room(array, capacity + 1) for name, array in _named(obs).items()}
        for name, array in _named(obs).items():
            self._obs[name][0] = array
        self._rest: list[np.ndarray] = []

    def extend(self, lanes: Lanes, act: Actor, law: ActionLaw, noise: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """Yields, after each step of the lanes, which of them ended an episode `[N]`; one step a row of noise."""
        obs = self.last
        follow = act.follow if isinstance(act, Remembering) else None
        for row in noise:
            parameters = act(obs)
            actions = law.sample(parameters, row)
            obs, rewards, terminated, truncated = lanes.step(law.to_environment(actions))
            values = (parameters, actions, rewards, terminated, truncated)
            if self.rows == self._capacity or not self._rest:
                self._make_room(values)
            index = self.rows
            for store, value in zip(self._rest, values, strict=True):
                store[index] = value
            if isinstance(obs, dict):
                for name, array in obs.items():
                    self._obs[name][index + 1] = array
            else:
                self._obs[""][index + 1] = obs
            self.last = obs
            self.rows = index + 1
            ended = terminated | truncated
            if follow is not None:
                follow(ended)
            yield ended

    def since_end(self) -> np.ndarray:
        """Returns how many rows each lane has gone without an end, `[L]`."""
        done = self._rest[3][: self.rows] | self._rest[4][: self.rows]
        return np.where(done.any(axis=0), done[::-1].argmax(axis=0), self.rows)

    def arrays(self) -> Arrays:
        """Returns the rows so far, time first, as views."""
        parameters, actions, rewards, terminated, truncated = (store[: self.rows] for store in self._rest)
        obs = {name: store[: self.rows + 1] for name, store in self._obs.items()}
        return Arrays(
            obs=obs if isinstance(self.last, dict) else obs[""],
            parameters=parameters,
            actions=actions,
            rewards=rewards,
            terminated=terminated,
            truncated=truncated & ~terminated,
        )

    def _make_room(self, values: tuple[np.ndarray, ...]) -> None:
        if self._rest:
            self._capacity *= 2
        self._obs = {name: _moved(store, self._capacity + 1, self.rows + 1) for name, store in self._obs.items()}
        stores = self._rest or [_room(value, 0) for value in values]
        self._rest = [_moved(store, self._capacity, self.rows) for store in stores]


@dataclass(frozen=True, kw_only=True)
class Arrays:
    """A recording as arrays: obs `[S+1, L, …]`, everything else `[S, L, …]`; rewards in float64."""

    obs: Observation
    parameters: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray

    @property
    def done(self) -> np.ndarray:
        """Where an episode ended, `[S, L]`."""
        return self.terminated | self.truncated

    def trajectories(
        self,
        law: ActionLaw,
        *,
        starts: np.ndarray,
        mask: np.ndarray,
        lane: np.ndarray,
        whole_episodes: bool,
        states: np.ndarray | None = None,
    ) -> Trajectories:
        """Returns the batch, with the log-probability of each action under the parameters it was drawn with.

        `states` `[L, S]` are those of an actor with a memory before the first row.
        Raises: RunFault where the policy's parameters are not finite, or no action was allowed.
        """
        if fault := law.fault(self.parameters, mask):
            raise RunFault(f"policy: {fault}")
        allowed = law.allowed(self.parameters)
        obs: Observations = (
            {key: torch.from_numpy(array) for key, array in self.obs.items()}
            if isinstance(self.obs, dict)
            else torch.from_numpy(self.obs)
        )
        actions = torch.from_numpy(self.actions)
        with torch.no_grad():
            log_prob = law.log_prob(torch.from_numpy(self.parameters), actions)
        return Trajectories(
            obs=obs,
            actions=actions,
            rewards=torch.from_numpy(self.rewards).to(log_prob.dtype),
            behavior_log_prob=log_prob,
            behavior_id=torch.zeros(len(lane), dtype=torch.long),
            terminated=torch.from_numpy(self.terminated & mask),
            truncated=torch.from_numpy(self.truncated & mask),
            starts=torch.from_numpy(starts),
            mask=torch.from_numpy(mask),
            lane=torch.from_numpy(lane),
            whole_episodes=whole_episodes,
            action_mask=None if allowed is None else torch.from_numpy(allowed),
            policy_state=None if states is None else torch.from_numpy(states[lane]),
        )


def _named(obs: Observation) -> dict[str, np.ndarray]:
    return obs if isinstance(obs, dict) else {"": obs}


def _room(like: np.ndarray, rows: int) -> np.ndarray:
    return np.empty((rows, *like.shape), like.dtype)


def _moved(store: np.ndarray, capacity: int, rows: int) -> np.ndarray:
    """Returns a store of another capacity with the same first rows."""
    if len(store) == capacity:
        return store
    larger = np.empty((capacity, *store.shape[1:]), store.dtype)
    larger[:rows] = store[:rows]
    return larger
