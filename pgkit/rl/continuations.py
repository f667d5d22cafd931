"""What would have followed other actions: extra episodes from copies of an environment, apart from those of the run."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import Any, final

import gymnasium
import numpy as np
import torch
from gymnasium.vector.utils import concatenate, create_empty_array

from pgkit.errors import UsageError
from pgkit.rl.lanes import Lanes
from pgkit.rl.registry import brief
from pgkit.rl.spaces import flattener
from pgkit.snapshot import Continued
from pgkit.types import Observations

LONGEST = 10_000
"""Steps after which an episode without a limit of its own is given up."""
ATTEMPTS = 20
"""Episodes that are played to reach a step, most of which may be over before it."""


@final
class Continuations:
    """Plays a policy to some steps and goes on from copies; all randomness is that of one generator.

    An environment is copied whole, with its wrappers, and each copy draws from a generator of its own.
    """

    def __init__(self, lanes: Lanes, generator: np.random.Generator) -> None:
        self._lanes, self._generator = lanes, generator
        self._flatten = flattener(lanes.observation_space)
        self._limit = lanes.max_episode_steps or LONGEST
        self._env: gymnasium.Env[Any, Any] | None = None

    def check(self) -> None:
        """Returns nothing; plays a copy of an environment and the environment itself, and looks whether they agree.

        Raises: UsageError where they do not, or no copy can be made.
        """
        reason = "it has a vectorised form alone"
        if self._lanes.has_single:
            env = self._lanes.single()
            env.action_space.seed(0)
            env.reset(seed=0)
            env.step(env.action_space.sample())
            try:
                twin = self._copy(env, 1)
                first = list(_played(self._copy(env, 1)))
                list(_played(env))
                same = _equal(first, list(_played(twin)))
                reason = "" if same else "a copy does not go on from where it was made"
            except Exception as error:  # whatever copying an environment of somebody else may raise
                reason = brief(error)
        if reason:
            raise UsageError(
                "diagnostics.decomposition.continuations: on an environment that cannot be copied, expected 0 "
                f"({reason})"
            )

    def draw(
        self, policy: Any, times: Sequence[int], *, num_actions: int, num_outcomes: int, gamma: float
    ) -> Continued:
        """Returns what followed `num_actions` actions of the policy, `num_outcomes` times each, at each of some steps.

        Steps that no episode reaches are left out.
        """
        env = self._env = self._env or self._lanes.single()
        act, law = policy.actor(), policy.law
        states, reached, actions, returns, count = [], [], [], [], 0
        for time in times:
            for _ in range(ATTEMPTS):
                obs, _ = env.reset(seed=int(self._generator.integers(2**31)))
                over = False
                for _ in range(time):
                    obs, _, terminated, truncated, _ = env.step(self._choose(act, law, obs)[1])
                    count, over = count + 1, terminated or truncated
                    if over:
                        break
                if not over:
                    break
            else:
                continue
            chosen = [self._choose(act, law, obs) for _ in range(num_actions)]
            rows = []
            for _, to_env in chosen:
                outcomes = []
                for _ in range(num_outcomes):
                    twin = self._copy(env, int(self._generator.integers(2**63)))
                    outcome, steps = self._return(twin, to_env, act, law, gamma)
                    outcomes.append(outcome)
                    count += steps
                rows.append(outcomes)
            states.append(self._batched(obs))
            reached.append(time)
            actions.append(np.stack([action for action, _ in chosen]))
            returns.append(rows)
        return Continued(
            obs=_joined(states),
            times=torch.tensor(reached),
            actions=torch.from_numpy(np.stack(actions)) if actions else torch.zeros(0, num_actions),
            returns=torch.tensor(returns, dtype=torch.float64).reshape(len(returns), num_actions, num_outcomes),
            env_steps=count,
        )

    def _choose(self, act: Any, law: Any, obs: Any) -> tuple[np.ndarray[Any, Any], Any]:
        """Returns an action of the policy, as sampled and as the environment takes it."""
        action = law.sample(act(self._batched(obs)), law.noise(self._generator, (1,)))
        return action[0], law.to_environment(action)[0]

    def _return(self, env: gymnasium.Env[Any, Any], action: Any, act: Any, law: Any, gamma: float) -> tuple[float, int]:
        """Returns Σ γ^k r_k from an action on, of the rewards that learning sees, and the steps that it took."""
        total, steps, over = 0.0, 0, False
        while not over and steps < self._limit:
            obs, reward, terminated, truncated, _ = env.step(action)
            total += gamma**steps * float(self._lanes.learnt(reward))
            steps, over = steps + 1, terminated or truncated
            action = self._choose(act, law, obs)[1]
        return total, steps

    def _batched(self, obs: Any) -> Any:
        """Returns one observation as a batch of one, as policies take it."""
        space = self._lanes.observation_space
        empty: Any = create_empty_array(space, n=1)
        return self._flatten(concatenate(space, [obs], empty))

    @staticmethod
    def _copy(env: gymnasium.Env[Any, Any], seed: int) -> gymnasium.Env[Any, Any]:
        twin = copy.deepcopy(env)
        twin.unwrapped.np_random = np.random.default_rng(seed)
        return twin


def _played(env: gymnasium.Env[Any, Any]) -> Iterator[Any]:
    """Yields what an environment answers to a few actions that are always the same."""
    env.action_space.seed(2)
    for _ in range(8):
        obs, reward, terminated, truncated, _ = env.step(env.action_space.sample())
        yield obs, reward, terminated
        if terminated or truncated:
            return


def _equal(first: list[Any], second: list[Any]) -> bool:
    try:
        np.testing.assert_equal(first, second)
    except AssertionError:
        return False
    return True


def _joined(states: Sequence[Any]) -> Observations:
    """Returns batches of one as one batch."""
    if states and isinstance(states[0], dict):
        return {key: torch.from_numpy(np.concatenate([each[key] for each in states])) for key in states[0]}
    return torch.from_numpy(np.concatenate(states)) if states else torch.zeros(0)
