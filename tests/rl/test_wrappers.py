"""What the wrappers of `env.wrappers` do to an environment, in every form, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pgkit.errors import UsageError
from pgkit.rl.lanes import Lanes
from tests.rl.envs import toy

BOTH = pytest.mark.parametrize("vectorization", ["sync", "async"])
ROWS = 6


def walk(rows: int = ROWS, action: int = 2, **keywords: Any) -> tuple[list[Any], np.ndarray, np.ndarray]:
    """Returns observations, rewards and ends of lanes that all take one action, from seeds 10 and 11."""
    lanes = Lanes(**{"num_envs": 2, **keywords})
    try:
        lanes.probe()
        seen, rewards, ends = [lanes.reset([10, 11])], [], []
        shape = (2, *(lanes.action_space.shape or ()))
        for _ in range(rows):
            obs, reward, terminated, truncated = lanes.step(np.full(shape, action, lanes.action_space.dtype))
            seen.append(obs)
            rewards.append(reward)
            ends.append(terminated | truncated)
    finally:
        lanes.close()
    return seen, np.array(rewards), np.array(ends)


def refusal(*wrappers: Any, **keywords: Any) -> str:
    """Returns the one line with which wrappers are refused."""
    with pytest.raises(UsageError) as caught:
        Lanes(**{"id": toy("Counting"), "num_envs": 2, **keywords}, wrappers=list(wrappers)).probe()
    assert "\n" not in str(caught.value)
    return str(caught.value)


@BOTH
def test_frame_skip_takes_an_action_several_times_and_adds_up_the_rewards(vectorization: Any) -> None:
    # The episodes of seeds 10 and 11 are 3 and 4 steps long; a step pays 10 times its number, plus the action.
    _, rewards, ends = walk(id=toy("Counting"), vectorization=vectorization, wrappers=[{"frame_skip": {"num": 2}}])
    assert rewards[:3].tolist() == [[34, 34], [32, 74], [0, 0]]
    assert ends[:3].tolist() == [[False, False], [True, True], [False, False]]


@BOTH
def test_frame_stack_holds_the_last_observations_of_this_episode(vectorization: Any) -> None:
    seen, _, ends = walk(id=toy("Counting"), vectorization=vectorization, wrappers=[{"frame_stack": {"num": 3}}])
    steps = np.array([obs[0, :, 2] for obs in seen])
    assert seen[0].shape == (2, 3, 4) and ends[:, 0].tolist() == [False, False, True, False, False, False]
    assert steps[:5].tolist() == [[0, 0, 0], [0, 0, 1], [0, 1, 2], [1, 2, 3], [0, 0, 0]]
    padded = [{"frame_stack": {"num": 2, "padding": "zero"}}]
    assert walk(id=toy("Counting"), wrappers=padded)[0][0][1].tolist() == [[0, 0, 0, 0], [11, 1, 0, 0]]


@BOTH
def test_time_aware_tells_the_share_of_the_limit_that_has_passed(vectorization: Any) -> None:
    seen, _, ends = walk(id=toy("Limited"), vectorization=vectorization, wrappers=["time_aware"])
    assert [float(obs[0, -1]) for obs in seen] == [0, 0.25, 0.5, 0.75, 1, 0, 0.25]
    assert ends[:, 0].tolist() == [False, False, False, True, False, False]
    other = walk(id=toy("Limited"), kwargs={"max_episode_steps": 2}, wrappers=["time_aware"])[0]
    assert [float(obs[0, -1]) for obs in other] == [0, 0.5, 1, 0, 0.5, 1, 0]


def test_time_aware_leaves_an_image_an_image() -> None:
    keywords = {"kwargs": {"observation": "Image", "max_episode_steps": 4}, "wrappers": ["time_aware"]}
    seen = walk(id=toy("Spaces"), **keywords)[0][1]
    assert seen["obs"].shape == (2, 2, 2, 3) and seen["obs"].dtype == np.uint8 and seen["time"].tolist() == [[0.25]] * 2


def test_time_aware_counts_the_frames_that_are_skipped() -> None:
    seen, _, ends = walk(id=toy("Limited"), wrappers=["time_aware", {"frame_skip": {"num": 2}}])
    assert [float(obs[0, -1]) for obs in seen[:4]] == [0, 0.5, 1, 0] and ends[:3, 0].tolist() == [False, True, False]


@BOTH
def test_sticky_actions_repeat_the_action_before_as_the_seed_says(vectorization: Any) -> None:
    def played(probability: float) -> list[float]:
        lanes = Lanes(
            id=toy("Endless"),
            num_envs=1,
            vectorization=vectorization,
            wrappers=[{"sticky_action": {"probability": probability}}],
        )
        lanes.reset([3])
        taken = [float(lanes.step(np.array([row % 5]))[0][0, 3]) for row in range(300)]
        lanes.close()
        return taken

    chosen = [float(row % 5) for row in range(300)]
    assert played(0.0) == chosen
    taken = played(0.25)
    stuck = np.mean([a != b for a, b in zip(taken, chosen, strict=True)])
    assert taken == played(0.25) and 0.17 < stuck < 0.33  # more than three standard errors about 0.25


@pytest.mark.parametrize("vectorization", ["sync", "async", "vector_entry_point"])
def test_rescale_action_stretches_actions_to_the_bounds(vectorization: Any) -> None:
    keywords: dict[str, Any] = {"id": toy("Scaled"), "vectorization": vectorization}
    wrappers = [{"rescale_action": {"low": 0.0, "high": 2.0}}]
    plain, rescaled = walk(action=0, **keywords)[1], walk(action=0, **keywords, wrappers=wrappers)[1]
    assert (plain == 0).all() and (rescaled == -5).all()


@pytest.mark.parametrize("vectorization", ["sync", "async", "vector_entry_point"])
def test_filter_observation_leaves_out_what_no_policy_reads(vectorization: Any) -> None:
    wrappers = [{"filter_observation": {"keys": ["seen"]}}]
    seen = walk(id=toy("Mission"), vectorization=vectorization, wrappers=wrappers)[0]
    assert seen[1].keys() == {"seen"} and seen[1]["seen"].shape == (2, 2)


@pytest.mark.parametrize("vectorization", ["sync", "vector_entry_point"])
def test_filter_observation_picks_numbers_of_a_vector(vectorization: Any) -> None:
    lanes = Lanes(
        id="CartPole-v1", num_envs=2, vectorization=vectorization, wrappers=[{"filter_observation": {"keys": [0, 2]}}]
    )
    plain = Lanes(id="CartPole-v1", num_envs=2, vectorization=vectorization)
    assert (lanes.observation_space.low == plain.observation_space.low[[0, 2]]).all()
    seen, everything = lanes.reset([1, 2]), plain.reset([1, 2])
    for _ in range(3):
        assert seen.dtype == everything.dtype and (seen == everything[:, [0, 2]]).all() and seen.any()
        seen, everything = lanes.step(np.array([0, 1]))[0], plain.step(np.array([0, 1]))[0]
    lanes.close()
    plain.close()
    message = r"env\.wrappers: filter_observation, expected one that fits observations Box"
    for keys in ([7], []):
        with pytest.raises(UsageError, match=message):
            Lanes(id="CartPole-v1", num_envs=2, wrappers=[{"filter_observation": {"keys": keys}}]).reset([1, 2])


def test_text_in_an_observation_is_refused_with_the_wrapper_that_leaves_it_out() -> None:
    message = refusal(id=toy("Mission"))
    assert message.startswith("env.id: an observation space Text, expected Box")
    assert message.endswith("env.wrappers=[{filter_observation:{keys:[seen]}}]")


def test_wrappers_lie_in_the_order_of_the_list_the_first_inside() -> None:
    skip, stack = {"frame_skip": {"num": 2}}, {"frame_stack": {"num": 2}}
    outside = walk(id=toy("Endless"), wrappers=[skip, stack])[0]
    inside = walk(id=toy("Endless"), wrappers=[stack, skip])[0]
    assert [obs[0, :, 2].tolist() for obs in outside[:3]] == [[0, 0], [0, 2], [2, 4]]
    assert [obs[0, :, 2].tolist() for obs in inside[:3]] == [[0, 0], [1, 2], [3, 4]]


def test_auto_turns_to_sync_where_a_wrapper_or_the_spaces_ask_for_it_and_says_so() -> None:
    assert Lanes(id="CartPole-v1", num_envs=2).vectorization == "vector_entry_point"
    lanes = Lanes(id="CartPole-v1", num_envs=2, wrappers=["time_aware"])
    assert lanes.vectorization == "sync"
    assert lanes.note == "env.vectorization: sync, as time_aware cannot wrap the vectorised form of CartPole-v1"
    other = Lanes(id=toy("OtherSpaces"), num_envs=2)
    assert other.vectorization == "sync" and other.note.endswith("has other spaces")
    asked = Lanes(id=toy("OtherSpaces"), num_envs=2, vectorization="vector_entry_point")
    assert asked.vectorization == "vector_entry_point" and asked.observation_space != other.observation_space


def test_a_form_that_a_wrapper_cannot_serve_is_refused() -> None:
    message = refusal("frame_skip", "time_aware", id="CartPole-v1", vectorization="vector_entry_point")
    assert message.startswith("env.wrappers: time_aware after frame_skip")
    message = refusal("time_aware", "frame_skip", id="CartPole-v1", vectorization="vector_entry_point")
    assert message.startswith("env.vectorization: vector_entry_point, which env.wrappers=time_aware and frame_skip")
    assert "only a vectorised form" in refusal("frame_stack", id=toy("VectorOnly"))


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ("frame_stak", "env.wrappers: frame_stak, expected one of "),
        ("sticky", "(did you mean sticky_action?)"),
        ({"frame_stack": {"nun": 3}}, "env.wrappers.frame_stack.nun: unknown option, expected one of num, padding"),
        ({"frame_stack": {"num": 0}}, "env.wrappers.frame_stack.num: 0, expected an integer at least 1"),
        ({"frame_stack": {"num": 2.5}}, "env.wrappers.frame_stack.num: 2.5, expected an integer"),
        ({"frame_stack": {"padding": "last"}}, "env.wrappers.frame_stack.padding: last, expected reset or zero"),
        ({"frame_stack": 4}, "env.wrappers: {'frame_stack': 4}, expected a name, or {name: {option: value}}"),
        ({"frame_stack": {}, "frame_skip": {}}, "expected a name, or {name: {option: value}}"),
        (7, "env.wrappers: 7, expected a name"),
        ("filter_observation", "env.wrappers.filter_observation.keys: missing"),
        ("time_aware", "env.wrappers: time_aware, expected one that fits observations Box"),
        ("rescale_action", "env.wrappers: rescale_action, expected one that fits observations Box"),
        ({"sticky_action": {"probability": 1.0}}, "env.wrappers: sticky_action, expected one that fits"),
        ("normalize_observation", "policy.normalise_observations=true"),
        ("normalise_rewards", "returns.scale_rewards=true"),
        ("clip_reward", "env.reward_clip=[-1,1]"),
        ("time_limit", "env.kwargs={max_episode_steps: 500}"),
        ("record_episode_statistics", "always logged, raw"),
    ],
)
def test_what_is_no_wrapper_is_refused_by_name(entry: Any, words: str) -> None:
    message = refusal(entry)
    assert message.startswith("env.wrappers") and words in message
    assert refusal("frame_skip", "frame_skip") == "env.wrappers: frame_skip twice, expected once"


@pytest.mark.parametrize("bounds", [[1], [1, -1], [0.5, 1], [0, 0], [-2, -1]])
def test_bounds_of_rewards_that_make_no_sense_are_refused(bounds: list[float]) -> None:
    assert refusal(reward_clip=bounds).startswith("env.reward_clip: ")


def test_what_is_known_of_an_environment_does_not_outlive_its_alteration() -> None:
    keywords: dict[str, Any] = {"id": "pgkit/Chain-v0", "num_envs": 2}
    assert Lanes(**keywords).dynamics is not None
    assert Lanes(**keywords, wrappers=["frame_skip"]).dynamics is None
    assert Lanes(**keywords, reward_clip=[-1.0, 1.0]).dynamics is None


def test_a_missing_opencv_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "cv2", None)  # type: ignore[arg-type]  # None is how an import is blocked
    message = refusal("resize", id=toy("Spaces"), kwargs={"observation": "Image"})
    assert message == 'env.wrappers: resize needs OpenCV, which is not installed, expected pip install "pgkit[atari]"'
