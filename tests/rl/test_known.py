"""Environments whose gradient is known do what their dynamics say, alone, side by side and in worker processes."""

from __future__ import annotations

import copy
import warnings
from collections import Counter
from itertools import cycle
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from pgkit.core.processes import CHAIN, RING, SHORT_CORRIDOR, Process
from pgkit.errors import UsageError
from pgkit.rl.known import PROCESSES, Regulator, Tabular
from pgkit.rl.lanes import Lanes

NAMES = ("ShortCorridor", "Chain", "Gamble", "Ring", "LQR")


def played(env: Any, steps: int, *, seed: int | None) -> list[Any]:
    """Returns what an environment answers to fixed actions, starting anew at every end."""
    answers = [] if seed is None else [env.reset(seed=seed)[0]]
    for step in range(steps):
        action = np.array([np.sin(step)]) if isinstance(env.unwrapped, Regulator) else step % 2
        obs, reward, terminated, truncated, _ = env.step(action)
        answers += [obs, reward, terminated, truncated]
        if terminated or truncated:
            answers.append(env.reset()[0])
    return answers


def equal(first: list[Any], second: list[Any]) -> bool:
    return len(first) == len(second) and all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("name", NAMES)
def test_they_pass_gymnasiums_checks_and_ours(name: str) -> None:
    env = gymnasium.make(f"pgkit/{name}-v0", disable_env_checker=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a space has no bounds, as is meant
        check_env(env.unwrapped, skip_render_check=True)
    Lanes(id=f"pgkit/{name}-v0", num_envs=2).probe()


@pytest.mark.parametrize("name", NAMES)
def test_a_seed_says_everything(name: str) -> None:
    env, other = (gymnasium.make(f"pgkit/{name}-v0") for _ in range(2))
    first = played(env, 30, seed=5)
    assert equal(first, played(other, 30, seed=5))
    # Nothing is random in the corridor.
    assert (name == "ShortCorridor") == equal(first, played(other, 30, seed=6))


@pytest.mark.parametrize("name", NAMES)
def test_a_copy_goes_on_from_where_it_was_made_with_numbers_of_its_own(name: str) -> None:
    env = gymnasium.make(f"pgkit/{name}-v0")
    played(env, 3, seed=3)
    twin, third = copy.deepcopy(env), copy.deepcopy(env)
    after = played(twin, 20, seed=None)
    assert equal(after, played(env, 20, seed=None))
    third.unwrapped.np_random = np.random.default_rng(8)
    assert (name == "ShortCorridor") == equal(after, played(third, 20, seed=None))


@pytest.mark.parametrize("name", ["ShortCorridor", "LQR"])
def test_worker_processes_know_them_and_play_the_same(name: str) -> None:
    answers = []
    for vectorization in ("sync", "async"):
        lanes = Lanes(id=f"pgkit/{name}-v0", num_envs=2, vectorization=vectorization, kwargs={"horizon": 4})  # type: ignore[arg-type]  # one of the two
        rows: list[Any] = [lanes.reset([1, 2])]
        for step in range(12):
            action = np.full((2, 1), np.sin(step)) if name == "LQR" else np.array([step % 2, 0])
            rows += lanes.step(action)
        lanes.close()
        answers.append(rows)
    assert equal(*answers)
    ends = np.stack(answers[0][3::4])
    assert ends[[3, 8], 1].all() and ends[:, 1].sum() == 2  # five rows a turn: four steps and a reset


@pytest.mark.parametrize("process", ["chain", "ring", "gamble"])
def test_outcomes_come_as_often_as_their_chances_say(process: Any) -> None:
    env, known = Tabular(process=process), PROCESSES[process]
    turns = cycle((i + 0.5) / 20 for i in range(20))

    class Even:
        """Numbers that lie evenly between 0 and 1."""

        def random(self) -> float:
            return next(turns)

    env.np_random = Even()  # type: ignore[assignment]  # all that the environment asks of it
    starts = Counter(env.reset() and env.state for _ in range(20))
    assert all(starts[state] == pytest.approx(20 * chance) for state, chance in enumerate(known.start))
    for (state, action), outcomes in known.outcomes.items():
        found: Counter[tuple[float, bool]] = Counter()
        for _ in range(20):
            env.state, env.time = state, 0
            _, reward, terminated, truncated, _ = env.step(action)
            assert not truncated and (terminated or known.horizon > 1)
            found[reward, terminated] += 1
        expected: Counter[tuple[float, bool]] = Counter()
        for chance, reward, successor in outcomes:
            expected[reward, successor is None] += round(20 * chance)
        assert found == expected


def test_a_corridor_shows_nothing_of_where_one_is_and_ends_after_right_left_right() -> None:
    env = Tabular(process="short_corridor")
    env.reset(seed=0)
    answers = [env.step(action) for action in (1, 0, 1)]
    assert [answer[2] for answer in answers] == [False, False, True]
    assert [answer[0] for answer in answers] == [0, 0, 0] and all(answer[1] == -1 for answer in answers)


def test_the_horizon_terminates_and_belongs_to_the_dynamics() -> None:
    env = Tabular(process="short_corridor", horizon=7)
    env.reset(seed=0)
    assert [env.step(0)[2] for _ in range(7)] == [False] * 6 + [True]
    assert env.dynamics.horizon == 7 and SHORT_CORRIDOR.horizon == 100
    lanes = Lanes(id="pgkit/Ring-v0", kwargs={"horizon": 5})
    assert isinstance(lanes.dynamics, Process) and lanes.dynamics.horizon == 5
    assert Lanes(id="pgkit/Ring-v0", kwargs={"max_episode_steps": 5}).dynamics is None
    assert Lanes(id="CartPole-v1").dynamics is None


@pytest.mark.parametrize(
    "kind", [lambda horizon: Tabular(process="chain", horizon=horizon), lambda h: Regulator(horizon=h)]
)
@pytest.mark.parametrize("horizon", [0, -1, 2.5])
def test_a_horizon_that_is_none_is_refused(kind: Any, horizon: Any) -> None:
    with pytest.raises(UsageError, match=r"^env\.kwargs\.horizon: "):
        kind(horizon)


def test_every_process_is_a_law_over_outcomes() -> None:
    for process in PROCESSES.values():
        assert sum(process.start) == pytest.approx(1)
        assert set(process.outcomes) == {(s, a) for s in range(process.num_states) for a in range(process.num_actions)}
        for outcomes in process.outcomes.values():
            assert sum(chance for chance, *_ in outcomes) == pytest.approx(1)
    assert CHAIN.horizon == 3 and RING.num_actions == 3
