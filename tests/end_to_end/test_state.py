"""What outlives an update can be saved and put back: the next updates are the same, bit for bit."""

from __future__ import annotations

import copy
import json
import signal
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch

from pgkit.assemble import Parts, assemble
from pgkit.rl.collect import Batch
from pgkit.run.interrupts import Interrupts
from pgkit.run.journal import Journal
from pgkit.run.seeds import draw_seeds
from pgkit.train import learn
from tests.end_to_end.runs import configuration, gym, journal_of

STATEFUL = ("policy", "critic", "returns", "baseline", "update", "streams")
RUNS = {
    "reinforce": ("policy.normalise_observations=true", "returns.scale_rewards=true"),
    "moving average": ("baseline=moving_average", "optimizer=sgd", "optimizer.momentum=0.9"),
    "vpg": (
        "agent=vpg",
        "collect.steps=5",  # after two slabs an episode is under way
        "critic.steps=3",
        "returns.scale_rewards=true",
        "policy.normalise_observations=true",
        "critic.normalise_observations=true",
    ),
    "ppo": ("agent=ppo", "collect.steps=5", "critic.steps=3", "update.minibatches=4"),
    "ppo_kl": ("agent=ppo_kl", "collect.steps=5", "critic.steps=3", "update.minibatches=4"),
    "reps": ("agent=reps", "collect.steps=5", "critic.steps=3", "update.minibatches=4"),
    "page": ("update=page", "update.snapshot_batches=1"),
    "pois": ("update=pois", "baseline=zero"),
}
"""Between them every kind of state moves: moments, momentum, schedule, averages, minibatches."""


class Rehearsal:
    """A collector that plays batches back, so that no environment has to remember anything; asks to end at the last."""

    def __init__(self, batches: list[Batch], interrupts: Interrupts) -> None:
        self.batches, self.interrupts = list(batches), interrupts

    def collect(self, act: Any, law: Any, generator: np.random.Generator) -> Batch:
        generator.random()
        if len(self.batches) == 1:
            self.interrupts.number = signal.SIGINT
        return self.batches.pop(0)


def recorded(*overrides: str) -> list[Batch]:
    """Returns four batches of the environment under the untrained policy."""
    parts = assemble(configuration(*overrides))
    parts.collector.start(draw_seeds(parts.streams.environments, parts.lanes.num_lanes))
    act, law = parts.policy.actor(), parts.policy.law
    batches = [parts.collector.collect(act, law, parts.streams.policy) for _ in range(4)]
    parts.lanes.close()
    return batches


def learn_from(parts: Parts, journal: Journal, batches: list[Batch]) -> None:
    """Makes one update of each batch, in a run of a thousand steps."""
    interrupts = Interrupts()
    rehearsed = Parts(**{**vars(parts), "collector": Rehearsal(batches, interrupts)})
    learn(rehearsed, journal, interrupts, total_steps=1000)


def states(parts: Parts) -> dict[str, Any]:
    """Returns the state of every part that has one, as it is at this moment."""
    return {name: copy.deepcopy(getattr(parts, name).state_dict()) for name in STATEFUL}


def same(a: Any, b: Any) -> bool:
    """Returns whether two states agree bit for bit."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, Mapping):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)


def halves(name: str, *, forgotten: str = "") -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns the states after four updates: in one go, and with new parts from the second on."""
    overrides = (*gym("Shapes"), "update.schedule=linear", *RUNS[name])
    config = configuration(*overrides)
    batches = recorded(*overrides)
    whole, first, second = (assemble(config) for _ in range(3))
    journal = journal_of(config, whole)
    learn_from(whole, journal, batches[:2])
    learn_from(whole, journal, batches[2:])
    journal = journal_of(config, first)
    learn_from(first, journal, batches[:2])
    saved, counted = states(first), json.loads(json.dumps(journal.state_dict()))
    for part in STATEFUL:
        if part != forgotten:
            getattr(second, part).load_state_dict(saved[part])
    restored = journal_of(config, second)
    restored.load_state_dict(counted)
    restored.clock.start()
    assert restored.env_steps == sum(batch.env_steps for batch in batches[:2])
    assert same({**restored.state_dict(), "clock": 0}, {**counted, "clock": 0})
    learn_from(second, restored, batches[2:])
    assert restored.updates == 4
    return states(whole), states(second)


@pytest.mark.parametrize("name", RUNS)
def test_a_run_goes_on_bit_for_bit_in_new_parts(name: str) -> None:
    whole, second = halves(name)
    for part in STATEFUL:
        assert same(whole[part], second[part]), part


@pytest.mark.parametrize(("name", "forgotten"), [
    ("vpg", "policy"), ("vpg", "critic"), ("vpg", "returns"), ("vpg", "update"), ("vpg", "streams"),
    ("reinforce", "returns"), ("reinforce", "update"), ("moving average", "baseline"), ("moving average", "update"),
])  # fmt: skip
def test_each_state_matters(name: str, forgotten: str) -> None:
    whole, second = halves(name, forgotten=forgotten)
    assert not same(whole, second)
    if forgotten != "streams":
        assert not same(whole["policy"], second["policy"])
