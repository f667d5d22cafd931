"""The order of a turn of the training loop: everything is read before anything learns from it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from pgkit import train
from pgkit.baselines.constant import MovingAverage
from pgkit.behaviors.current import Current
from pgkit.core.processes import BANDIT
from pgkit.critics.none import NoCritic
from pgkit.estimators.score_function import ScoreFunction
from pgkit.policies.mlp import MLPPolicy
from pgkit.returns.discounted import RewardToGo
from pgkit.reuse.none import NoReuse
from pgkit.run import instruments
from pgkit.updates.gradient_step import GradientStep
from pgkit.weights.on_policy import OnPolicy
from tests.problems import Enumeration

pytestmark = pytest.mark.exact

READS = ["critic.values", "returns.signal", "baseline.value", "estimator.coefficients"]
LEARNING = ["baseline.update", "critic.update", "policy.update", "returns.update"]


class Journal:
    """Counts what a journal must and writes nothing."""

    env_steps = updates = 0
    record = SimpleNamespace(solved=False)

    def collected(self, batch: Any) -> None:
        self.env_steps += 3

    @contextmanager
    def diagnosing(self) -> Iterator[None]:
        yield

    def write(self, batch: Any, metrics: Any) -> None:
        self.updates += 1


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Two turns of the loop on the bandit, and what they called, in order."""
    log: list[str] = []

    def note(owner: type, name: str, label: str) -> None:
        original = getattr(owner, name)

        def noted(*arguments: Any, **options: Any) -> Any:
            log.append(label)
            return original(*arguments, **options)

        monkeypatch.setattr(owner, name, noted)

    for owner, group, names in (
        (NoCritic, "critic", ("values", "update")),
        (RewardToGo, "returns", ("signal", "update")),
        (MovingAverage, "baseline", ("value", "update")),
        (ScoreFunction, "estimator", ("coefficients",)),
        (MLPPolicy, "policy", ("update",)),
        (GradientStep, "update", ("step",)),
        (instruments.Instruments, "instruments", ("before", "after")),
    ):
        for name in names:
            note(owner, name, f"{group}.{name}")
    problem = Enumeration(BANDIT)
    collector = SimpleNamespace(collect=lambda *_: SimpleNamespace(trajectories=problem.trajectories))
    parts = SimpleNamespace(
        policy=problem.policy, critic=NoCritic(observation_space=None, generator=None), returns=RewardToGo(gamma=1.0),
        baseline=MovingAverage(), estimator=ScoreFunction(gamma=1.0), weights=OnPolicy(), diagnostics={},
        update=GradientStep(optimizer=torch.optim.SGD(problem.policy.parameters(), lr=0.1)), collector=collector,
        behavior=Current(policy=problem.policy, num_lanes=1), reuse=NoReuse(),
        streams=SimpleNamespace(policy=np.random.default_rng(0)), coupling="independent", simulator=None,
        groups_apart=False, shared=lambda objective: objective,
    )  # fmt: skip
    train.learn(parts, Journal(), SimpleNamespace(requested=False), total_steps=6)
    return log


def test_every_part_is_called_once_a_turn(calls: list[str]) -> None:
    once = [*READS, "instruments.before", "update.step", *LEARNING, "instruments.after"]
    assert sorted(calls) == sorted(2 * once)


def test_what_learns_from_a_batch_was_read_before(calls: list[str]) -> None:
    for turn in (calls[: len(calls) // 2], calls[len(calls) // 2 :]):
        step = turn.index("update.step")
        assert [turn.index(read) for read in READS] == sorted(turn.index(read) for read in READS)
        assert max(turn.index(read) for read in READS) < step
        assert turn.index("instruments.before") < step < min(turn.index(learns) for learns in LEARNING)
        assert turn[-1] == "instruments.after"
