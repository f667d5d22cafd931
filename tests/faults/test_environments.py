"""What lanes do when environments misbehave or the user asks for what is not there: one line that names it."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest

from pgkit.errors import EnvironmentFault, UsageError
from pgkit.rl.lanes import Lanes
from tests.rl.envs import toy

BOTH = pytest.mark.parametrize("vectorization", ["sync", "async"])


def refusal(**keywords: Any) -> str:
    """Returns the one line with which lanes are refused, at construction or by the probe."""
    with pytest.raises(UsageError) as caught:
        Lanes(**{"num_envs": 2, **keywords}).probe()
    message = str(caught.value)
    assert "\n" not in message
    return message


def fault(lanes: Lanes, actions: np.ndarray, steps: int = 40) -> str:
    """Returns the one line with which lanes break during a walk from seeds 10, 11, …"""
    try:
        with pytest.raises(EnvironmentFault) as caught:
            lanes.reset([10 + lane for lane in range(lanes.num_lanes)])
            for _ in range(steps):
                lanes.step(actions)
    finally:
        lanes.close()
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    ("id", "near"),
    [("CartPol-v1", "CartPole-v1"), ("cartpole", "CartPole-v1"), ("CartPole", "CartPole-v1"), ("Ant-v99", "Ant-v5")],
)
def test_an_unknown_id_is_refused_with_a_near_one(id: str, near: str) -> None:
    message = refusal(id=id)
    assert message.startswith(f"env.id: {id}, expected a registered Gymnasium id (did you mean ")
    assert near[:-1] in message


def test_an_id_that_is_not_set_or_not_near_anything_is_refused() -> None:
    assert refusal(id="???").startswith("env.id: not set, expected")
    assert refusal(id="zzzzzzzz") == "env.id: zzzzzzzz, expected a registered Gymnasium id"
    assert "no_such_module" in refusal(id="no_such_module:Toy-v0")


def test_a_deprecated_id_is_refused_with_the_current_one() -> None:
    assert "Taxi-v4" in refusal(id="Taxi-v3")


@pytest.mark.parametrize(
    ("id", "package", "extra", "modules"),
    [
        ("LunarLander-v3", "Box2D", "box2d", "gymnasium.envs.box2d"),
        ("HalfCheetah-v5", "mujoco", "mujoco", "gymnasium.envs.mujoco"),
        ("ALE/Pong-v5", "ale_py", "atari", "ale_py"),
        ("MiniGrid-Empty-8x8-v0", "minigrid", "minigrid", "minigrid"),
        ("envpool/CartPole-v1", "envpool", "envpool", "envpool"),
    ],
)
def test_a_missing_extra_is_named(
    monkeypatch: pytest.MonkeyPatch, id: str, package: str, extra: str, modules: str
) -> None:
    for name in [name for name in sys.modules if name.startswith(modules)]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)  # type: ignore[arg-type]  # None is how an import is blocked
    message = refusal(id=id)
    assert message.startswith(f"env.id: {id} needs") and f'pip install "pgkit[{extra}]"' in message


def test_keywords_that_the_environment_does_not_take_are_named() -> None:
    message = refusal(id="CartPole-v1", kwargs={"suton_barto_reward": True})
    assert message.startswith("env.kwargs: suton_barto_reward, expected") and "did you mean sutton_barto_re" in message
    assert refusal(id="FrozenLake-v1", kwargs={"map_name": "9x9"}).startswith("env.kwargs: {'map_name': '9x9'}")


@pytest.mark.parametrize("space", ["Text", "Graph", "Sequence", "OneOf", "DictOfText", "Empty", "Twins"])
def test_observation_spaces_that_are_not_supported_are_named(space: str) -> None:
    message = refusal(id=toy("Spaces"), kwargs={"observation": space})
    assert message.startswith("env.id: ")
    assert {"DictOfText": "Text", "Empty": "without entries", "Twins": "both called a/b"}.get(space, space) in message


@pytest.mark.parametrize("space", ["Dict", "Tuple", "Text"])
def test_action_spaces_that_are_not_supported_are_named(space: str) -> None:
    message = refusal(id=toy("Spaces"), kwargs={"action": space})
    assert f"action space {space}, expected Discrete, MultiDiscrete, MultiBinary or Box" in message


@pytest.mark.parametrize("mode", ["SAME_STEP", "DISABLED", None])
def test_another_autoreset_mode_is_refused_by_name(mode: str | None) -> None:
    id = toy(f"Only{mode}")
    message = refusal(id=id)
    assert message.startswith("env.vectorization: ") and f"autoreset mode {mode}, expected NEXT_STEP" in message
    Lanes(id=id, num_envs=2, vectorization="sync", kwargs={}).close() if mode is None else None


def test_a_form_that_the_environment_does_not_have_is_refused() -> None:
    assert refusal(id="Pendulum-v1", vectorization="vector_entry_point").startswith("env.vectorization: vector_entry")


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("raise", "ZeroDivisionError: division by zero (envs.py:"),
        ("nan_observation", "not finite"),
        ("inf_observation", "not finite"),
        ("nan_reward", "a reward nan"),
        ("text_reward", "a reward 'many'"),
        ("longer", "shape (8,), expected (4,)"),
        ("shorter", "shape (1,), expected (4,)"),
        ("list", "list, expected an array of shape (4,)"),
        ("float64", "dtype float64, expected float32"),
        ("four_values", "4 values from step()"),
        ("flag", "terminated 'no', expected a bool"),
    ],
)
def test_the_probe_refuses_what_breaks_at_once(kind: str, words: str) -> None:
    # A time limit would unpack the step itself and hide what the environment returned.
    message = refusal(id=toy("Faulty"), kwargs={"fault": kind, "at": 3, "max_episode_steps": 50})
    assert message.startswith("env.id: Faulty-v0 ") and words in message


def test_the_probe_refuses_the_old_api_and_a_reset_that_raises() -> None:
    assert "CountingEnv" not in refusal(id=toy("OldApi")) and "old Gym API" in refusal(id=toy("OldApi"))
    message = refusal(id=toy("Faulty"), kwargs={"fault": "raise_in_reset", "at": 1})
    assert "the robot fell off the table" in message and "in reset()" in message


@BOTH
def test_an_environment_that_raises_is_placed(vectorization: Any) -> None:
    lanes = Lanes(id=toy("Faulty"), num_envs=3, vectorization=vectorization, kwargs={"fault": "raise", "only": 11})
    lanes.probe()
    message = fault(lanes, np.array([4, 3, 2]))
    assert message.startswith("lane 1, seed 11, step 20 (episode 1, its step 20), action 3: ZeroDivisionError: ")
    assert "(envs.py:" in message


@BOTH
def test_a_reset_that_raises_is_placed(vectorization: Any) -> None:
    kwargs = {"fault": "raise_in_reset", "at": 2, "only": 11}
    message = fault(Lanes(id=toy("Faulty"), num_envs=2, vectorization=vectorization, kwargs=kwargs), np.array([0, 0]))
    assert message.startswith("lane 1, seed 11, step 2 (episode 2, its step 0), in reset: RuntimeError: the robot fell")


@BOTH
@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("nan_observation", "observation [11. 1. nan 3.], expected finite numbers"),
        ("inf_observation", "observation [11. 1. inf 3.], expected finite numbers"),
        ("nan_reward", "reward nan, expected finite numbers"),
        ("longer", "observation: shape (8,), expected (4,)"),
        ("shorter", "observation: shape (1,), expected (4,)"),
        ("turned", "observation: shape (2, 2), expected (4,)"),
        ("list", "observation: list, expected an array of shape (4,)"),
        ("text_reward", "could not convert string to float"),
        ("four_values", "not enough values to unpack"),
    ],
)
def test_what_must_not_reach_a_policy_is_placed(vectorization: Any, kind: str, words: str) -> None:
    lanes = Lanes(id=toy("Faulty"), num_envs=2, vectorization=vectorization, kwargs={"fault": kind, "only": 11})
    lanes.probe()
    message = fault(lanes, np.array([2, 3]))
    assert words in message and "step 20" in message and "lane 1, seed 11" in message and "action 3" in message


@pytest.mark.filterwarnings("ignore:.*Worker", "ignore:.*Traceback", "ignore:.*Raising")
@pytest.mark.parametrize(
    ("vectorization", "words"), [("sync", "observation: dtype <U1, expected float32"), ("async", "could not convert")]
)
def test_an_observation_that_cannot_be_cast_is_placed(vectorization: Any, words: str) -> None:
    lanes = Lanes(id=toy("Faulty"), num_envs=2, vectorization=vectorization, kwargs={"fault": "text", "only": 11})
    message = fault(lanes, np.array([2, 3]))
    assert words in message and "lane 1, seed 11, step 20" in message


def test_a_dtype_that_begins_with_a_reset_is_placed() -> None:
    lanes = Lanes(id=toy("Faulty"), num_envs=2, kwargs={"fault": "float64_in_reset", "at": 2, "only": 11})
    assert "(episode 2, its step 0), in reset: observation: dtype float64" in fault(lanes, np.array([2, 3]))


def test_a_paused_lane_raises_nothing() -> None:
    lanes = Lanes(id=toy("Faulty"), num_envs=2, kwargs={"fault": "raise", "only": 11})
    lanes.reset([10, 11])
    lanes.pause(np.array([False, True]))
    for _ in range(30):
        lanes.step(np.array([0, 0]))
    lanes.pause(np.array([False, False]))
    with pytest.raises(EnvironmentFault, match="lane 1, seed 11, step 20"):
        for _ in range(20):
            lanes.step(np.array([0, 0]))


def test_wrong_use_of_lanes_is_an_error() -> None:
    lanes = Lanes(id="CartPole-v1", num_envs=2)
    with pytest.raises(RuntimeError, match="before the first reset"):
        lanes.step(np.array([0, 0]))
    with pytest.raises(ValueError, match="seeds: 3, expected 2"):
        lanes.reset([1, 2, 3])
    lanes.reset([1, 2])
    with pytest.raises(ValueError, match="pause"):
        lanes.pause(np.array([True, False]))
