"""The step loop: act, step, remember; everything else happens once a batch."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch

from pgkit.errors import RunFault
from pgkit.rl.lanes import Lanes
from pgkit.rl.spaces import Observation
from pgkit.types import Observations, Trajectories

Actor = Callable[[Any], np.ndarray]


class ActionLaw(Protocol):
    """What the step loop needs of a law of actions."""

    def noise(self, generator: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray: ...

    def sample(self, parameters: np.ndarray, noise: np.ndarray) -> np.ndarray: ...

    def mode(self, parameters: np.ndarray) -> np.ndarray: ...

    def to_environment(self, actions: np.ndarray) -> np.ndarray: ...

    def log_prob(self, parameters: torch.Tensor, actions: torch.Tensor) -> torch.Tensor: ...


@dataclass(kw_only=True)
class Recording:
    """Rows of all lanes in the order they happened; lists, because only whole batches are worth arranging."""

    obs: list[Observation]
    parameters: list[np.ndarray] = field(default_factory=list)
    actions: list[np.ndarray] = field(default_factory=list)
    rewards: list[np.ndarray] = field(default_factory=list)
    terminated: list[np.ndarray] = field(default_factory=list)
    truncated: list[np.ndarray] = field(default_factory=list)

    def extend(self, lanes: Lanes, act: Actor, law: ActionLaw, noise: Iterable[np.ndarray]) -> Iterable[np.ndarray]:
        """Yields, after each step of the lanes, which of them ended an episode `[N]`; one step a row of noise."""
        obs = self.obs[-1]
        for row in noise:
            parameters = act(obs)
            actions = law.sample(parameters, row)
            obs, rewards, terminated, truncated = lanes.step(law.to_environment(actions))
            self.obs.append(obs)
            self.parameters.append(parameters.copy())
            self.actions.append(actions)
            self.rewards.append(rewards)
            self.terminated.append(terminated)
            self.truncated.append(truncated)
            yield terminated | truncated

    def arrays(self) -> Arrays:
        """Returns the rows stacked, time first."""
        observations = (
            {key: _stack([row[key] for row in self.obs]) for key in self.obs[0]}
            if isinstance(self.obs[0], dict)
            else _stack(self.obs)  # type: ignore[arg-type]
        )
        terminated = _stack(self.terminated)
        return Arrays(
            obs=observations,
            parameters=_stack(self.parameters),
            actions=_stack(self.actions),
            rewards=_stack(self.rewards),
            terminated=terminated,
            truncated=_stack(self.truncated) & ~terminated,
        )


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
        self, law: ActionLaw, *, starts: np.ndarray, mask: np.ndarray, lane: np.ndarray, whole_episodes: bool
    ) -> Trajectories:
        """Returns the batch, with the log-probability of each action under the parameters it was drawn with.

        Raises: RunFault where the policy's parameters are not finite.
        """
        if not np.isfinite(self.parameters).all():
            raise RunFault("policy: parameters of the action law are not finite, expected finite numbers")
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
        )


def _stack(rows: list[np.ndarray]) -> np.ndarray:
    # Joining and reshaping is several times faster than np.stack for many small rows.
    return np.concatenate(rows).reshape(len(rows), *rows[0].shape)
