"""Ids `envpool/…`, with a stand-in for EnvPool: seeds given when it is made, NEXT_STEP, one form alone."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from pgkit.errors import UsageError
from pgkit.rl.lanes import Lanes
from tests.rl.envs import NUMBERS, CountingEnv
from tests.rl.vector_envs import AutoresetMode, CountingVectorEnv


class FakePool:
    """Counting lanes, with the interface of an EnvPool that Gymnasium's users get."""

    def __init__(self, num_envs: int, seed: int, options: dict[str, Any]) -> None:
        self.inner = CountingVectorEnv(num_envs, AutoresetMode.NEXT_STEP)
        self.seed, self.options, self.closed = seed, options, False
        self.observation_space, self.action_space = NUMBERS, CountingEnv.action_space

    def reset(self) -> Any:
        return self.inner.reset(seed=self.seed)

    def step(self, actions: Any) -> Any:
        assert not self.closed and actions.dtype == np.int64
        return self.inner.step(actions)

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def pools(monkeypatch: pytest.MonkeyPatch) -> list[FakePool]:
    """Every pool that was made, in order."""
    made: list[FakePool] = []

    def make_gymnasium(task: str, *, num_envs: int, seed: int, **options: Any) -> FakePool:
        made.append(FakePool(num_envs, seed, options))
        return made[-1]

    config = SimpleNamespace(max_episode_steps=7, reward_threshold=50.0)
    module = SimpleNamespace(
        list_all_envs=lambda: ["Count-v1"],
        make_spec=lambda task: SimpleNamespace(config=config),
        make_gymnasium=make_gymnasium,
    )
    monkeypatch.setitem(sys.modules, "envpool", module)  # type: ignore[arg-type]  # stands in for a module
    return made


def test_lanes_of_a_pool_begin_where_the_seed_says_and_reset_on_the_next_step(pools: list[FakePool]) -> None:
    lanes = Lanes(id="envpool/Count-v1", num_envs=2, kwargs={"options": {"frame_skip": 4}})
    assert (lanes.vectorization, lanes.can_pause) == ("vector_entry_point", False)
    assert (lanes.max_episode_steps, lanes.reward_threshold) == (7, 50.0)
    lanes.probe()
    assert lanes.reset([9, 1])[:, 0].tolist() == [9, 10]
    played = [lanes.step(np.array([2, 2])) for _ in range(4)]
    # Seeds 9 and 10 give episodes of 2 and 3 steps; the step after an end pays nothing.
    assert [rewards.tolist() for _, rewards, _, _ in played] == [[12, 12], [22, 22], [0, 32], [12, 0]]
    assert lanes.reset([5, 1])[:, 0].tolist() == [5, 6]
    assert pools[-1].options == {"frame_skip": 4, "max_episode_steps": 7, "num_threads": 0}
    lanes.close()
    assert all(pool.closed for pool in pools)


def test_what_a_pool_does_not_have_is_refused_by_name(pools: list[FakePool]) -> None:
    for keywords, words in (
        ({"id": "envpool/Cuont-v1"}, "expected a task of EnvPool (did you mean Count-v1?)"),
        ({"vectorization": "sync"}, "has only a vectorised form, expected vector_entry_point"),
        ({"wrappers": ["frame_skip"]}, "env.wrappers: frame_skip, but envpool/Count-v1 has only a vectorised form"),
        ({"kwargs": {"frame_skip": 4}}, "env.kwargs: frame_skip, expected keywords of envpool/Count-v1"),
    ):
        with pytest.raises(UsageError) as caught:
            Lanes(**{"id": "envpool/Count-v1", "num_envs": 2, **keywords})  # type: ignore[arg-type]  # of four kinds
        assert words in str(caught.value)
