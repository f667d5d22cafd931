"""Spaces survive JSON exactly."""

from __future__ import annotations

import json
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

from pgkit.run.spaces_json import space_from_json, space_to_json

BOUNDS = np.array([-4.8, -np.inf, 0.1, -3.4028235e38], np.float32)
SPACES: list[gym.Space[Any]] = [
    spaces.Box(BOUNDS, np.array([4.8, np.inf, np.inf, 3.4028235e38], np.float32)),
    spaces.Box(-1.0, 1.0, (2, 3), np.float64),
    spaces.Box(0, 255, (84, 84, 4), np.uint8),
    spaces.Box(0, 1, (), np.float32),
    spaces.Box(np.zeros((0,), np.float32), np.ones((0,), np.float32)),
    spaces.Box(-(2**62), 2**62 + 1, (2,), np.int64),
    spaces.Discrete(3, start=-1),
    spaces.Discrete(5, dtype=np.int32),
    spaces.MultiDiscrete([[2, 3], [4, 5]], start=[[0, 1], [-2, 0]]),
    spaces.MultiBinary(4),
    spaces.MultiBinary((2, 3)),
    spaces.Dict([("z", spaces.Discrete(2)), ("a", spaces.Dict({"x": spaces.Box(0, 1, (1,))}))]),
    spaces.Tuple([spaces.Discrete(2), spaces.Tuple([spaces.MultiBinary(1)])]),
]


@pytest.mark.parametrize("space", SPACES, ids=str)
def test_a_space_comes_back_equal_through_strict_json(space: gym.Space[Any]) -> None:
    restored = space_from_json(json.loads(json.dumps(space_to_json(space), allow_nan=False)))
    assert restored == space
    assert type(restored) is type(space)
    assert restored.dtype == space.dtype


@pytest.mark.parametrize("space", [space for space in SPACES if isinstance(space, spaces.Box)], ids=str)
def test_bounds_come_back_bit_for_bit(space: spaces.Box) -> None:
    restored = space_from_json(json.loads(json.dumps(space_to_json(space))))
    assert isinstance(restored, spaces.Box)
    np.testing.assert_array_equal(restored.low, space.low)
    np.testing.assert_array_equal(restored.high, space.high)


def test_the_order_of_a_dict_space_is_kept() -> None:
    space = spaces.Dict([("z", spaces.Discrete(2)), ("a", spaces.Discrete(3))])
    restored = space_from_json(json.loads(json.dumps(space_to_json(space), sort_keys=True)))
    assert isinstance(restored, spaces.Dict)
    assert list(restored) == ["z", "a"]


def test_equal_bounds_are_stored_once() -> None:
    assert len(json.dumps(space_to_json(spaces.Box(0, 255, (84, 84, 4), np.uint8)))) < 100


def test_a_space_that_cannot_be_described_is_named() -> None:
    with pytest.raises(TypeError, match="space: Text, expected Box, Discrete"):
        space_to_json(spaces.Text(5))


def test_an_unknown_description_is_refused_and_runs_nothing() -> None:
    with pytest.raises(ValueError, match=r"os\.system"):
        space_from_json({"type": "os.system"})
