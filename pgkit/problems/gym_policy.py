"""A Gymnasium policy's parameters as what is searched over, and its return as what they are worth."""

from __future__ import annotations

from typing import Any, final

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from pgkit.errors import RunFault, UsageError
from pgkit.options import Count, Positive
from pgkit.problems.base import Problem
from pgkit.problems.search import Covariance, search_law, search_parameters
from pgkit.rl.lanes import Lanes
from pgkit.types import Expectation, Parameters

LONGEST = 10_000
"""Steps after which an episode without a limit of its own is given up."""


@final
class GymPolicy(Problem):
    """E[−return] of linear policies whose weights are drawn from a Gaussian; one episode a candidate.

    An action is the largest of W·observation + b where actions are discrete, else W·observation + b itself, clipped to
    its bounds. The episodes of one estimate start alike where the environment has no vectorised form: common random
    numbers, so that candidates differ by what they do. The objective is the mean cost of the last estimate's
    candidates; its target is that of the environment, with its sign flipped.
    Source: Salimans et al. 2017, arXiv:1703.03864; Mania, Guy and Recht 2018, arXiv:1803.07055, for linear policies.
    """

    def __init__(
        self,
        *,
        id: str = "CartPole-v1",
        num_envs: Count = 16,
        kwargs: dict[str, Any] = {},  # noqa: B006  (read, never written)
        scale: Positive = 0.5,
        covariance: Covariance = "diagonal",
    ) -> None:
        self._lanes = Lanes(id=id, num_envs=num_envs, kwargs=kwargs)
        self._inputs = _inputs(self._lanes.observation_space)
        self._outputs = _outputs(self._lanes.action_space)
        self.scale, self.covariance = scale, covariance
        goal = self._lanes.reward_threshold
        self.target = None if goal is None else -goal
        self._seed = 0
        self._last: float | None = None

    def parameters(self) -> dict[str, Tensor]:
        """Returns a mean of zeros, the policy that prefers nothing, and the spread."""
        size = self._outputs * (self._inputs + 1)
        return search_parameters(torch.zeros(size, dtype=torch.float64), self.scale, self.covariance)

    def expectation(self) -> Expectation:
        """Returns the expected cost over weights."""
        return Expectation(cost=self._cost, law=search_law(self.covariance))

    def minibatch(self, parameters: Parameters, generator: torch.Generator) -> Expectation:
        """Returns the expected cost on episodes of their own."""
        self._seed = int(torch.randint(2**31, (), generator=generator))
        return self.expectation()

    def objective(self, parameters: Parameters) -> float | None:
        """Returns the mean cost of the candidates that were last played; None before any."""
        return self._last

    def close(self) -> None:
        """Closes the environments; they start again when asked."""
        self._lanes.close()

    def _cost(self, x: Tensor) -> Tensor:
        lanes = self._lanes.num_lanes
        padded = np.resize(x.numpy(), (-(-len(x) // lanes) * lanes, x.shape[1]))
        costs = np.concatenate([-self._play(padded[first : first + lanes]) for first in range(0, len(padded), lanes)])
        self._last = float(costs[: len(x)].mean())
        return torch.from_numpy(costs[: len(x)])

    def _play(self, weights: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Returns the undiscounted return of one episode of each policy, `[lanes]`."""
        lanes = self._lanes
        policies = weights.reshape(lanes.num_lanes, self._outputs, self._inputs + 1)
        obs = lanes.reset([self._seed] * lanes.num_lanes)
        if lanes.can_pause:
            lanes.pause(np.zeros(lanes.num_lanes, bool))
        returns, running = np.zeros(lanes.num_lanes), np.ones(lanes.num_lanes, bool)
        for _ in range(lanes.max_episode_steps or LONGEST):
            features = np.asarray(obs, np.float64).reshape(lanes.num_lanes, self._inputs)
            outputs = np.einsum("noi,ni->no", policies[:, :, :-1], features) + policies[:, :, -1]
            obs, rewards, terminated, truncated = lanes.step(_actions(lanes.action_space, outputs))
            returns += np.where(running, rewards, 0.0)
            ended = running & (terminated | truncated)
            running &= ~ended
            if not running.any():
                return returns
            if lanes.can_pause and ended.any():
                lanes.pause(~running)
        raise RunFault(f"problem.id: an episode goes on after {LONGEST} steps, expected an end")


def _inputs(space: spaces.Space[Any]) -> int:
    if not isinstance(space, spaces.Box):
        raise UsageError(f"problem.id: observations in {space}, expected a Box")
    return int(np.prod(space.shape))


def _outputs(space: spaces.Space[Any]) -> int:
    if isinstance(space, spaces.Discrete):
        return int(space.n)
    if isinstance(space, spaces.Box):
        return int(np.prod(space.shape))
    raise UsageError(f"problem.id: actions in {space}, expected a Discrete or a Box")


def _actions(space: spaces.Space[Any], outputs: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    if isinstance(space, spaces.Discrete):
        return outputs.argmax(axis=1) + int(space.start)
    assert isinstance(space, spaces.Box)
    return np.clip(outputs.reshape(len(outputs), *space.shape), space.low, space.high).astype(space.dtype)
