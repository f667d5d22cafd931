"""What lanes promise when environments behave: one autoreset mode, equal trajectories, pauses, flat observations."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pgkit.rl.lanes import Lanes
from tests.rl.envs import length_of, toy

Row = tuple[Any, ...]


def walk(lanes: Lanes, seeds: list[int], steps: int, *, pausing: bool = False) -> list[Row]:
    """Returns the observations of a reset and the rows after it, under fixed random actions and pauses."""
    generator = np.random.default_rng(0)
    actions = lanes.action_space
    rows: list[Row] = [(lanes.reset(seeds),)]
    for t in range(steps):
        if pausing and t % 7 == 3:
            lanes.pause(generator.random(lanes.num_lanes) < 0.5)
        if hasattr(actions, "n"):
            chosen = generator.integers(actions.start, actions.start + actions.n, lanes.num_lanes)
        else:
            chosen = generator.normal(size=(lanes.num_lanes, *(actions.shape or ()))).astype(np.float32)
        rows.append(lanes.step(chosen))
    return rows


def assert_equal(first: list[Row], second: list[Row]) -> None:
    assert len(first) == len(second)
    for t, (one, other) in enumerate(zip(first, second, strict=True)):
        for left, right in zip(one, other, strict=True):
            assert type(left) is type(right)
            named = {key: (left[key], right[key]) for key in left} if isinstance(left, dict) else {"": (left, right)}
            for a, b in named.values():
                assert a.dtype == b.dtype
                np.testing.assert_array_equal(a, b, err_msg=f"row {t}")


@pytest.mark.equivalence
@pytest.mark.parametrize("pausing", [False, True])
@pytest.mark.parametrize("id", ["CartPole-v1", "Pendulum-v1", toy("Counting"), toy("Nested")])
def test_sync_and_async_give_equal_trajectories(id: str, pausing: bool) -> None:
    found = []
    for vectorization in ("sync", "async"):
        lanes = Lanes(id=id, num_envs=3, vectorization=vectorization, kwargs={"max_episode_steps": 30})
        found.append([*walk(lanes, [7, 8, 9], 80, pausing=pausing), (lanes.reset(None),)])
        lanes.close()
    assert_equal(*found)


def test_the_row_after_an_end_is_a_reset_row() -> None:
    seeds = [0, 1, 2]
    lanes = Lanes(id=toy("Counting"), num_envs=3)
    rows = walk(lanes, seeds, 20)
    for lane, seed in enumerate(seeds):
        episode, step, ended = 1, 0, False
        np.testing.assert_array_equal(rows[0][0][lane], [seed, 1, 0, 0])
        for obs, rewards, terminated, truncated in rows[1:]:
            if ended:
                episode, step = episode + 1, 0
                np.testing.assert_array_equal(obs[lane], [seed, episode, 0, 0])  # the action left no trace
                assert rewards[lane] == 0 and not terminated[lane] and not truncated[lane]
            else:
                step += 1
                np.testing.assert_array_equal(obs[lane][:3], [seed, episode, step])
                assert rewards[lane] == 10 * step + obs[lane][3]
                assert terminated[lane] == (step == length_of(seed)) and not truncated[lane]
            ended = bool(terminated[lane])
        assert episode > 3


def test_a_paused_lane_resets_once_and_then_stands_still() -> None:
    lanes = Lanes(id=toy("Counting"), num_envs=2)
    lanes.reset([0, 2])  # episodes of 2 and 4 steps
    actions = np.array([3, 3])
    lanes.step(actions)
    assert lanes.step(actions)[2].tolist() == [True, False]
    lanes.pause(np.array([True, False]))
    for _ in range(4):
        obs, rewards, terminated, truncated = lanes.step(actions)
        np.testing.assert_array_equal(obs[0], [0, 2, 0, 0])
        assert rewards[0] == 0 and not terminated[0] and not truncated[0]
    assert obs[1][1] == 2  # the other lane ended and went on
    lanes.pause(np.array([False, False]))
    obs, rewards, _, _ = lanes.step(actions)
    np.testing.assert_array_equal(obs[0], [0, 2, 1, 3])
    assert rewards[0] == 13


def test_a_pause_in_mid_episode_changes_nothing_but_the_time() -> None:
    lanes = Lanes(id="CartPole-v1", num_envs=2, vectorization="sync")
    plain = [lanes.reset([5, 6])] + [lanes.step(np.array([1, 0]))[0] for _ in range(6)]
    lanes.reset([5, 6])
    found = [lanes.step(np.array([1, 0]))[0] for _ in range(2)]
    lanes.pause(np.array([True, True]))
    assert (lanes.step(np.array([0, 1]))[0] == found[-1]).all()
    lanes.pause(np.array([False, False]))
    found += [lanes.step(np.array([1, 0]))[0] for _ in range(4)]
    np.testing.assert_array_equal(np.stack(found), np.stack(plain[1:]))


@pytest.mark.equivalence
def test_the_vectorised_cartpole_equals_sync_from_equal_states_and_actions() -> None:
    count = 16
    own, sync = (Lanes(id="CartPole-v1", num_envs=count, vectorization=form) for form in ("auto", "sync"))
    assert (own.vectorization, own.can_pause) == ("vector_entry_point", False)
    own.reset([1] * count)
    sync.reset(list(range(count)))
    inner: Any = sync._vector
    states = np.array(own._vector.state)  # type: ignore[union-attr]
    for lane, env in enumerate(inner.envs):
        env.unwrapped.state = tuple(states[:, lane])
    generator, running = np.random.default_rng(3), np.ones(count, dtype=bool)
    ends = 0
    while running.any():
        actions = generator.integers(0, 2, count)
        one, other = own.step(actions), sync.step(actions)
        for left, right in zip(one, other, strict=True):
            np.testing.assert_allclose(left[running], right[running], rtol=1e-5, atol=1e-6)
        ended = running & (one[2] | one[3])
        ends += int(ended.sum())
        running &= ~ended
    assert ends == count


@pytest.mark.equivalence
def test_an_environment_that_resets_in_the_same_step_is_asked_for_the_next_one() -> None:
    own, sync = (Lanes(id=toy("SameStep"), num_envs=3, vectorization=form) for form in ("auto", "sync"))
    assert own.vectorization == "vector_entry_point"
    own.probe()
    assert_equal(walk(own, [4, 5, 6], 25), walk(sync, [4, 5, 6], 25))


@pytest.mark.parametrize("vectorization", ["auto", "sync"])
def test_lanes_differ_and_a_rerun_is_equal(vectorization: Any) -> None:
    lanes = Lanes(id="CartPole-v1", num_envs=4, vectorization=vectorization)
    seeds = [int(seed) for seed in np.random.SeedSequence(0).generate_state(4, np.uint64)]
    first = walk(lanes, seeds, 60)
    assert len(np.unique(first[0][0], axis=0)) == 4
    assert_equal(first, walk(lanes, seeds, 60))
    other = Lanes(id="CartPole-v1", num_envs=4, vectorization=vectorization)
    other.probe()  # a probe leaves no trace
    assert_equal(first, walk(other, seeds, 60))
    assert not np.array_equal(first[0][0], lanes.reset([seed + 1 for seed in seeds]))


@pytest.mark.parametrize("vectorization", ["sync", "async"])
def test_every_lane_gets_its_own_seed(vectorization: Any) -> None:
    lanes = Lanes(id=toy("Counting"), num_envs=3, vectorization=vectorization)
    obs = lanes.reset([50, 2, 9])
    lanes.close()
    assert isinstance(obs, np.ndarray) and obs[:, 0].tolist() == [50, 2, 9]


def test_a_reset_without_seeds_begins_new_episodes() -> None:
    lanes = Lanes(id=toy("Counting"), num_envs=2)
    lanes.reset([3, 4])
    lanes.step(np.array([1, 1]))
    np.testing.assert_array_equal(lanes.reset(None), [[3, 2, 0, 0], [4, 2, 0, 0]])


@pytest.mark.parametrize("vectorization", ["auto", "sync", "async"])
def test_what_is_handed_out_is_never_changed_afterwards(vectorization: Any) -> None:
    lanes = Lanes(id="CartPole-v1", num_envs=2, vectorization=vectorization)
    kept = [lanes.reset([1, 2]), *lanes.step(np.array([0, 1]))]
    copies = [np.array(array) for array in kept]
    for _ in range(40):
        lanes.step(np.array([0, 1]))
    lanes.close()
    for array, copy in zip(kept, copies, strict=True):
        np.testing.assert_array_equal(array, copy)


@pytest.mark.parametrize(("name", "ends"), [("OneStep", True), ("Endless", False)])
def test_shortest_and_endless_episodes(name: str, ends: bool) -> None:
    rows = walk(Lanes(id=toy(name), num_envs=2), [0, 1], 6)
    assert [bool(row[2].all()) for row in rows[1:]] == [ends and t % 2 == 0 for t in range(6)]


def test_the_time_limit_is_a_truncation_and_can_be_set() -> None:
    lanes = Lanes(id=toy("Limited"), num_envs=2)
    assert (lanes.max_episode_steps, lanes.reward_threshold) == (4, 7.0)
    assert [row[3].tolist() for row in walk(lanes, [0, 1], 5)[1:]] == [[t == 3] * 2 for t in range(5)]
    shorter = Lanes(id=toy("Limited"), num_envs=2, kwargs={"max_episode_steps": 2})
    assert shorter.max_episode_steps == 2
    assert [bool(row[3].all()) for row in walk(shorter, [0, 1], 3)[1:]] == [False, True, False]
    assert Lanes(id=toy("Limited"), num_envs=1, kwargs={"max_episode_steps": -1}).max_episode_steps is None
    own = Lanes(id="CartPole-v1", num_envs=2, kwargs={"max_episode_steps": 3})
    assert own.max_episode_steps == 3 and walk(own, [0, 1], 3)[3][3].all()


def test_a_closed_vector_can_be_opened_again() -> None:
    lanes = Lanes(id=toy("Counting"), num_envs=2, vectorization="async")
    first = walk(lanes, [1, 2], 5)
    lanes.close()
    lanes.close()
    assert_equal(first, walk(lanes, [1, 2], 5))
    lanes.close()
