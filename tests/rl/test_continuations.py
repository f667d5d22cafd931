"""Extra episodes: from copies, with the law of the environment, apart from everything that the run draws."""

from __future__ import annotations

import threading
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces

from pgkit.core.processes import GAMBLE
from pgkit.core.truth import policy_table
from pgkit.errors import UsageError
from pgkit.policies.mlp import MLPPolicy
from pgkit.rl.continuations import Continuations
from pgkit.rl.lanes import Lanes
from tests.rl.envs import toy

Step = tuple[Any, Any, bool, bool, dict[str, Any]]


class Locked(gymnasium.Env[Any, Any]):
    """Holds what cannot be copied."""

    observation_space: spaces.Space[Any] = spaces.Discrete(2)
    action_space: spaces.Space[Any] = spaces.Discrete(2)

    def __init__(self) -> None:
        self.lock = threading.Lock()

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        return 0, {}

    def step(self, action: Any) -> Step:
        return 0, 0.0, False, False, {}


class Elsewhere(Locked):
    """Keeps its state where a copy of it does not go."""

    COUNT: list[int] = []  # noqa: RUF012  # shared on purpose

    def __init__(self) -> None: ...

    def step(self, action: Any) -> Step:
        self.COUNT.append(1)
        return 0, float(len(self.COUNT)), False, False, {}


for kind in (Locked, Elsewhere):
    gymnasium.register(f"{kind.__name__}-v0", entry_point=lambda kind=kind: kind())


def continuations(id: str, *, seed: int = 0) -> Continuations:
    return Continuations(Lanes(id=id, num_envs=1), np.random.default_rng(seed))


def policy_for(id: str) -> MLPPolicy:
    lanes = Lanes(id=id, num_envs=1)
    torch.manual_seed(0)
    return MLPPolicy(
        observation_space=lanes.observation_space, action_space=lanes.action_space, hidden_sizes=[], init="default"
    )


@pytest.mark.parametrize(
    "id", ["pgkit/Ring-v0", "pgkit/LQR-v0", "CartPole-v1", "Pendulum-v1", "FrozenLake-v1", "MountainCar-v0"]
)
def test_these_environments_can_be_copied(id: str) -> None:
    continuations(id).check()


@pytest.mark.parametrize(
    ("id", "reason"), [("Locked-v0", "cannot pickle"), ("Elsewhere-v0", "a copy does not go on from where it was made")]
)
def test_what_cannot_be_copied_is_refused_with_its_reason(id: str, reason: str) -> None:
    with pytest.raises(UsageError, match=rf"^diagnostics\.decomposition\.continuations: .*expected 0 .*{reason}"):
        continuations(id).check()


def test_returns_after_an_action_average_to_its_quality() -> None:
    policy, gamma = policy_for("pgkit/Gamble-v0"), 0.9
    drawn = continuations("pgkit/Gamble-v0").draw(policy, [0] * 300, num_actions=3, num_outcomes=4, gamma=gamma)
    _, quality = GAMBLE.values(policy_table(policy.log_prob, GAMBLE).double(), gamma)
    for action in range(3):
        found = drawn.returns[drawn.actions == action]
        # Four standard errors: a false alarm in 1e4; Q of another action lies much farther away.
        error = float(found.std()) / len(found) ** 0.5
        assert abs(float(found.mean() - quality[0, 0, action])) < 4 * error
        assert abs(float(found.mean() - quality[0, 0, (action + 1) % 3])) > 4 * error


def test_every_copy_has_chances_of_its_own() -> None:
    # Without what comes later the outcomes of one action differ by the environment's chances alone.
    policy = policy_for("pgkit/Chain-v0")
    drawn = continuations("pgkit/Chain-v0").draw(policy, [0] * 20, num_actions=2, num_outcomes=4, gamma=0.0)
    assert float(drawn.returns.var(dim=2).mean()) > 0.5


def test_only_steps_that_are_reached_are_continued_from_and_every_transition_is_counted() -> None:
    policy = policy_for(toy("Counting"))
    # Episodes of two to four steps: step 3 is reached in some, step 9 in none.
    drawn = continuations(toy("Counting")).draw(policy, [0, 3, 9], num_actions=2, num_outcomes=2, gamma=1.0)
    assert drawn.times.tolist() == [0, 3] and drawn.returns.shape == (2, 2, 2)
    assert isinstance(drawn.obs, torch.Tensor) and drawn.obs[:, 2].tolist() == [0.0, 3.0]
    # The toy pays 10 · step + action: the last of four steps has nothing after it.
    assert torch.equal(drawn.returns[1], 40 + drawn.actions[1].double()[:, None].expand(2, 2))
    assert drawn.env_steps > 4 + 4 * 2


def test_a_generator_says_everything_and_no_other_is_touched() -> None:
    policy = policy_for("CartPole-v1")
    before = torch.get_rng_state(), np.random.get_state()[1].copy()  # type: ignore[union-attr]  # noqa: NPY002
    first, again, other = (
        continuations("CartPole-v1", seed=seed).draw(policy, [2, 5], num_actions=2, num_outcomes=2, gamma=0.9)
        for seed in (1, 1, 2)
    )
    assert torch.equal(first.returns, again.returns) and torch.equal(first.actions, again.actions)
    assert not torch.equal(first.returns, other.returns)
    assert torch.equal(before[0], torch.get_rng_state())
    assert np.array_equal(before[1], np.random.get_state()[1])  # noqa: NPY002
