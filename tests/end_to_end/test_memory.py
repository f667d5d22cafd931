"""Policies with a memory, from the command line to playback."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from pgkit import load_policy
from pgkit.assemble import assemble
from pgkit.core.processes import recall
from pgkit.errors import UsageError
from pgkit.playback import pausing_lanes, play_both
from pgkit.run.seeds import Streams
from tests.end_to_end.runs import configuration, train

SHORT = ("env=RecallCue", "env.kwargs={delay:2}", "critic.steps=5")
SMALL = ("policy.hidden_sizes=[8]", "policy.memory_size=4", "evaluation.episodes=0")


@pytest.mark.exact
@pytest.mark.parametrize(("cues", "delay"), [(2, 0), (2, 3), (3, 1)])
def test_what_is_seen_last_is_worth_chance_and_what_is_remembered_everything(cues: int, delay: int) -> None:
    process = recall(cues=cues, delay=delay)
    # The expected return is linear in the law at the question, so that the best is one of these; nothing else counts.
    for answer in range(cues):
        table = torch.full((process.num_states, cues), 1 / cues, dtype=torch.float64)
        asked = torch.tensor(process.observations) == cues + 1
        table[asked] = torch.eye(cues, dtype=torch.float64)[answer]
        value, _ = process.values(table, 1.0)
        assert float(value[0] @ value.new_tensor(process.start)) == pytest.approx(1 / cues, abs=1e-12)
    # A policy of the state knows the cue.
    table[asked] = torch.eye(cues, dtype=torch.float64)
    value, _ = process.values(table, 1.0)
    assert float(value[0] @ value.new_tensor(process.start)) == pytest.approx(1.0, abs=1e-12)
    assert process.horizon == delay + 2
    for _, steps in process.paths():
        assert len(steps) == process.horizon
        seen = [process.observations[state] for state, *_ in steps]
        assert seen == [seen[0], *[cues] * delay, cues + 1] and seen[0] < cues


@pytest.mark.slow
def test_a_memory_solves_what_nothing_else_can(tmp_path: Path) -> None:
    settings = ("agent=ppo", "total_steps=16000", "evaluation.episodes=40", "optimizer.lr=3e-3", "diagnostics=none")
    remembers = train(tmp_path / "gru", *SHORT, "policy=gru", *settings)
    assert remembers.summary["eval"]["stochastic"]["mean"] > 0.9
    forgets = train(tmp_path / "mlp", *SHORT, "policy=mlp", *settings)
    # 100 episodes at chance are within 0.25 of a half but once in a million.
    assert abs(forgets.summary["return_mean_100"] - 0.5) < 0.25
    policy = load_policy(tmp_path / "gru")
    lanes = pausing_lanes(configuration(*SHORT[:2])["env"], num_envs=4, trusted=[])
    try:
        played = play_both(policy, lanes, episodes=40, streams=Streams.from_seed(5))
    finally:
        lanes.close()
    assert played["stochastic"]["mean"] > 0.9
    # By hand: the cue, two blanks, the question.
    act = policy.actor()
    for seen in ([0, 1], [2, 2], [2, 2], [3, 3]):
        parameters = act(np.array(seen))
    assert policy.law.mode(parameters).tolist() == [0, 1]


@pytest.mark.parametrize("agent", ["reinforce", "vpg", "a2c", "ppo", "ppo_kl", "trpo", "npg", "off_policy_reinforce"])
@pytest.mark.parametrize("policy", ["gru", "lstm"])
def test_every_agent_learns_through_it(agent: str, policy: str, tmp_path: Path) -> None:
    steps = () if "reinforce" in agent else ("collect.steps=16",)
    run = train(
        tmp_path / "run", "env=CartPole", f"policy={policy}", f"agent={agent}", *SMALL, "total_steps=300", *steps
    )
    assert run.summary["status"] == "finished"
    first = [line.get("update/first_ratio_deviation") for line in run.metrics]
    if agent == "ppo":
        # Later slabs go on with episodes, and the policy has moved since they began.
        assert len(first) > 1 and all(float(value or "nan") < 1e-4 for value in first)


@pytest.mark.parametrize(
    ("agent", "policy"),
    [
        *((agent, "lstm") for agent in ("vpg", "a2c", "ppo", "ppo_kl", "trpo", "reinforce", "off_policy_reinforce")),
        *((agent, "mlp") for agent in ("ppo", "acktr", "off_policy_reinforce")),
    ],
)
def test_every_agent_values_what_a_critic_remembers(agent: str, policy: str, tmp_path: Path) -> None:
    whole = "reinforce" in agent
    run = train(
        tmp_path / "run", "env=CartPole", f"policy={policy}", f"agent={agent}", "policy.hidden_sizes=[8]",
        "critic=recurrent_value", "critic.hidden_sizes=[]", "critic.memory_size=4", "critic.steps=3", "total_steps=300",
        "evaluation.episodes=0", *(("baseline=value",) if whole else ("collect.steps=16",)),
    )  # fmt: skip
    assert run.summary["status"] == "finished"
    assert all(float(line["critic/loss"]) > 0 for line in run.metrics)


def test_every_instrument_goes_with_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = train(
        tmp_path / "run", "env=CartPole", "policy=gru", "agent=vpg", "collect=episodes", "diagnostics=full", *SMALL,
        *(f"diagnostics.{name}.every=1" for name in ("variance", "panel", "fisher", "scores", "decomposition", "dial")),
        "total_steps=400",
    )  # fmt: skip
    first, last = run.metrics[0], run.metrics[-1]
    for tag in ("gradient/per_sample_variance", "fisher/condition_number", "policy/kl", "step_decomposition/total"):
        assert float(first[tag]) > 0, tag
    for tag in ("scores/z_max", "fisher/empirical_over_exact"):
        assert last[tag] == ""
        assert sum(tag in record.message for record in caplog.records) == 1


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("agent=ppo", "update.minibatch_of=steps"), "update.minibatch_of: steps, expected auto or columns"),
        (("critic=action_value",), "critic: ActionValueCritic with policy GRUPolicy, which has a memory, expected"),
        (("env=RecallCue", "diagnostics=truth"), "diagnostics: truth with a policy that has a memory, expected"),
        (
            ("critic=value", "diagnostics=decomposition", "diagnostics.decomposition.continuations=2"),
            "diagnostics.decomposition.continuations: with policy GRUPolicy, which has a memory, expected 0",
        ),
        (
            ("agent=vtrace", "behavior=temperature", "weights=one_step", "reuse=none"),
            "behavior: Temperature on slabs of steps with a policy that has a memory, expected collect=episodes",
        ),
        (("agent=vtrace",), "reuse: Window on slabs of steps with a policy that has a memory"),
        (
            ("agent=vtrace", "critic=recurrent_value"),
            "critic: RecurrentValueCritic, which has a memory, with slabs of the past in reuse Window, expected",
        ),
        (
            ("critic=recurrent_value", "baseline=gls", "baseline.features=critic_features"),
            "baseline.features: critic_features of RecurrentValueCritic, which has none; expected critic=value",
        ),
    ],
)
def test_what_asks_about_single_rows_is_refused(overrides: tuple[str, ...], message: str) -> None:
    with pytest.raises(UsageError) as error:
        assemble(configuration(*(() if "env=RecallCue" in overrides else ("env=CartPole",)), "policy=gru", *overrides))
    assert message in str(error.value)
    assert "\n" not in str(error.value)
