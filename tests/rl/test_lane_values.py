"""What passes through lanes unchanged: observations of every supported space, flags, actions, dtypes."""

from __future__ import annotations

import numpy as np
import pytest

from pgkit.core.spaces import leaves
from pgkit.rl.lanes import Lanes
from pgkit.rl.pausable import Pausable
from tests.rl.envs import CountingEnv, toy
from tests.rl.test_lanes import walk


def test_nested_observations_become_a_flat_dict_in_the_order_of_the_space() -> None:
    lanes = Lanes(id=toy("Nested"), num_envs=2)
    lanes.reset([3, 4])
    obs, *_ = lanes.step(np.array([1, 2]))
    assert isinstance(obs, dict)
    assert list(obs) == list(leaves(lanes.observation_space)) == ["bits", "pair/0", "pair/1", "seed"]
    assert {key: (value.shape, value.dtype.name) for key, value in obs.items()} == {
        "bits": ((2, 2), "int8"),
        "pair/0": ((2,), "int64"),
        "pair/1": ((2, 2), "int64"),
        "seed": ((2, 1, 1), "uint16"),
    }
    assert obs["seed"].ravel().tolist() == [3, 4] and obs["pair/1"].tolist() == [[1, 1], [1, 2]]


def test_both_flags_pass_unchanged() -> None:
    lanes = Lanes(id=toy("TwoFlags"), num_envs=1)
    rows = walk(lanes, [0], 3)
    assert [(bool(row[2][0]), bool(row[3][0])) for row in rows[1:]] == [(False, False), (False, False), (True, True)]


def test_actions_reach_the_environment_as_they_are() -> None:
    lanes = Lanes(id=toy("Offset"), num_envs=3)
    lanes.probe()
    lanes.reset([0, 0, 0])
    assert lanes.step(np.array([-1, 0, 1]))[1].tolist() == [1, 0, 0]


@pytest.mark.parametrize("action", ["Infinite", "HalfInfinite"])
def test_unbounded_boxes_are_taken(action: str) -> None:
    lanes = Lanes(id=toy("Spaces"), num_envs=2, kwargs={"action": action})
    lanes.probe()
    lanes.reset([0, 1])
    assert lanes.step(np.zeros((2, 2), dtype=lanes.action_space.dtype))[1].tolist() == [10, 10]


def test_double_and_image_observations_keep_their_dtype() -> None:
    for kind, dtype in (("Infinite", "float64"), ("Image", "uint8"), ("", "float32")):
        lanes = Lanes(id=toy("Spaces"), num_envs=2, kwargs={"observation": kind})
        lanes.probe()
        assert lanes.reset([0, 1]).dtype == lanes.step(np.array([0, 0]))[0].dtype == dtype


@pytest.mark.filterwarnings("ignore:overflow encountered")
def test_huge_observations_are_finite() -> None:
    rows = walk(Lanes(id=toy("Faulty"), num_envs=2, kwargs={"fault": "huge"}), [0, 1], 25)
    assert rows[20][0][0][2] == np.float32(1e30)


def test_the_environments_info_goes_no_further() -> None:
    lane = Pausable(CountingEnv(), lane=0)
    lane.reset(seed=0)
    assert lane.step(1)[4] == {}
