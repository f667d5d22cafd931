"""Every law of continuous actions finds a known optimum, and says before anything is written what it cannot serve."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pgkit.assemble import assemble
from pgkit.errors import UsageError
from pgkit.playback import load_policy
from tests.end_to_end.runs import configuration, gym, train, train_briefly


@pytest.mark.parametrize("law", ["clipped_gaussian", "squashed_gaussian", "beta", "mixture"])
def test_a_continuous_optimum_is_learnt_by_every_law(law: str) -> None:
    parts, _ = train_briefly(
        *gym("ContinuousBandit"), "agent=reinforce", "collect.episodes=16", f"policy.law={law}", "total_steps=4000",
        "policy.initial_log_std=-1", "optimizer.lr=0.02", "diagnostics=none",
    )  # fmt: skip
    policy = parts.policy
    action = policy.law.to_environment(policy.law.mode(policy.actor()(np.ones((1, 2), np.float32))))[0]
    assert action == pytest.approx([0.5, -0.25], abs=0.12)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (
            ("policy.law=beta",),
            "policy.law: beta for actions Discrete(3, start=7), expected auto, which is categorical",
        ),
        (
            ("policy.law=squashed_gaussian", "env.kwargs={action:half_infinite}"),
            "policy.law: squashed_gaussian for actions Box(",
        ),
        (("policy.law=beta", "env.kwargs={action:infinite}"), "policy.law: beta for actions Box("),
        (
            ("policy.law=clipped_gaussian", "env.kwargs={action:infinite}"),
            "policy.law: clipped_gaussian for actions Box(",
        ),
        (("policy.state_dependent_std=true",), "policy.state_dependent_std: true for Categorical, expected false"),
        (
            ("policy.law=normal",),
            "policy.law: normal, expected auto, gaussian, clipped_gaussian, squashed_gaussian, be",
        ),
        (("policy.components=0", "policy.law=mixture"), "policy.components: 0, expected an integer at least 1"),
        (("policy=cnn",), "policy: a network for images and no image in the observation, expected one"),
        (
            ("policy.law=beta", "behavior=epsilon", "weights=balance", "env.kwargs={action:unequal}"),
            "behavior: a share of uniform actions of continuous ones, expected behavior=temperature",
        ),
    ],
    ids=lambda given: " ".join(given) if isinstance(given, tuple) else "",
)
def test_what_a_law_cannot_serve_is_named_before_a_run(overrides: tuple[str, ...], words: str) -> None:
    with pytest.raises(UsageError) as caught:
        assemble(configuration(*gym("Shapes"), *overrides))
    assert str(caught.value).startswith(words) and "\n" not in str(caught.value)


@pytest.mark.parametrize("law", ["squashed_gaussian", "beta", "mixture"])
def test_a_saved_law_acts_as_it_did(tmp_path: Path, law: str) -> None:
    keys = (f"policy.law={law}", "env.kwargs={action:unequal}", "total_steps=100", "evaluation.episodes=0")
    run = train(tmp_path, *gym("Shapes"), *keys, "env.num_envs=4", "collect.episodes=4")
    policy = load_policy(tmp_path)
    shape = run.parts.lanes.observation_space.shape
    obs = np.zeros((3, *(shape or ())), np.float32)
    np.testing.assert_array_equal(policy.actor()(obs), run.parts.policy.actor()(obs))
