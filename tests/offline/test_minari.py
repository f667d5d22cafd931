"""Episodes of a Minari data set become trajectories; a double stands for the library, which is an extra."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from gymnasium import spaces

from pgkit.errors import UsageError
from pgkit.offline.conduct import prepare
from pgkit.offline.minari_data import load_minari
from tests.minari_double import DataSet, Episode, module
from tests.off_policy import evaluation, save_run

SEEN, ACTED = spaces.Discrete(2), spaces.Discrete(2)


def episode(states: list[int], actions: list[int], *, terminated: bool, logged: bool = False) -> Episode:
    count = len(actions)
    ends = np.arange(count) == count - 1
    log_prob = np.log(np.linspace(0.1, 0.9, count))
    return Episode(
        observations=np.array(states),
        actions=np.array(actions),
        rewards=np.arange(1.0, count + 1),
        terminations=ends & terminated,
        truncations=ends & (not terminated),
        infos={"log_prob": np.concatenate([[0.0], log_prob])} if logged else {},
    )


def two(*, logged: bool = False, action_space: spaces.Space[np.int64] = ACTED) -> DataSet:
    episodes = [
        episode([0, 1, 0, 1], [1, 0, 1], terminated=True, logged=logged),
        episode([1, 1], [0], terminated=False, logged=logged),
    ]
    return DataSet(observation_space=SEEN, action_space=action_space, episodes=episodes)


@pytest.fixture
def minari(monkeypatch: pytest.MonkeyPatch) -> None:
    """Puts the double in the place of the library."""
    shifted = spaces.Discrete(2, start=-1)
    known = {"plain": two(), "logged": two(logged=True), "shifted": two(action_space=shifted)}
    monkeypatch.setitem(sys.modules, "minari", module(**known, empty=DataSet(SEEN, ACTED, [])))


@pytest.mark.usefixtures("minari")
def test_every_step_is_where_it_was() -> None:
    found = load_minari("plain", SEEN, ACTED)
    batch = found.trajectories
    assert found.source == "minari:plain" and not found.has_log_prob and batch.whole_episodes
    assert batch.mask.T.tolist() == [[True, True, True], [True, False, False]]
    assert isinstance(batch.obs, torch.Tensor) and batch.obs[:, 0].tolist() == [0, 1, 0, 1]
    assert batch.obs[:2, 1].tolist() == [1, 1] and batch.actions[:, 0].tolist() == [1, 0, 1]
    assert batch.rewards[batch.mask].sum() == 7
    assert batch.terminated.T.tolist() == [[False, False, True], [False] * 3]
    assert batch.truncated.T.tolist() == [[False] * 3, [True, False, False]]
    assert batch.starts[0].all() and not batch.starts[1:].any()


@pytest.mark.usefixtures("minari")
def test_log_probabilities_among_the_infos_are_read() -> None:
    found = load_minari("logged", SEEN, ACTED)
    assert found.has_log_prob
    assert found.trajectories.behavior_log_prob[:, 0].exp().tolist() == pytest.approx([0.1, 0.5, 0.9])


@pytest.mark.usefixtures("minari")
def test_actions_are_counted_from_zero() -> None:
    found = load_minari("shifted", SEEN, spaces.Discrete(2, start=-1))
    assert found.trajectories.actions[:, 0].tolist() == [2, 1, 2]


def test_composite_observations_go_by_the_names_of_their_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    space = spaces.Dict({"a": spaces.Tuple([SEEN, spaces.Box(0, 1, (2,))]), "b": SEEN})
    seen = {"a": (np.array([0, 1]), np.ones((2, 2), np.float32)), "b": np.array([1, 0])}
    one = episode([0, 1], [0], terminated=True)
    one.observations = seen
    monkeypatch.setitem(sys.modules, "minari", module(composite=DataSet(space, ACTED, [one])))
    obs = load_minari("composite", space, ACTED).trajectories.obs
    assert isinstance(obs, dict) and list(obs) == ["a/0", "a/1", "b"]
    assert obs["a/1"].shape == (2, 1, 2) and obs["b"][:, 0].tolist() == [1, 0]


@pytest.mark.usefixtures("minari")
@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("nowhere", "data: minari:nowhere: .*not found locally.*minari list local"),
        ("empty", "data: minari:empty holds no episode"),
        ("shifted", r"data: minari:shifted: action space Discrete\(2, start=-1\), expected that of the policy"),
        ("plain", "data: minari:plain has no log-probabilities of the policy that acted"),
    ],
)
def test_what_cannot_be_used_is_named(tmp_path: Path, name: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        prepare(evaluation(save_run(tmp_path), f"data=minari:{name}"))


@pytest.mark.usefixtures("minari")
def test_a_data_set_with_what_it_takes_is_valued(tmp_path: Path) -> None:
    assert prepare(evaluation(save_run(tmp_path), "data=minari:logged")).data.has_log_prob
    assert not prepare(evaluation(save_run(tmp_path), "data=minari:plain", "behavior_policy=fitted")).data.has_log_prob


def test_without_the_extra_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "minari", None)
    with pytest.raises(
        UsageError, match=r"data: minari is not installed, expected the extra: pip install 'pgkit\[minari\]'"
    ):
        load_minari("plain", SEEN, ACTED)
