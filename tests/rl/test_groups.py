"""Lanes of a group begin every episode in the same state."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from pgkit.assemble import assemble
from pgkit.errors import UsageError
from pgkit.reuse.joining import joined
from pgkit.run.seeds import draw_seeds
from pgkit.types import Trajectories
from tests.end_to_end.runs import configuration


def batches(number: int, *overrides: str) -> list[Trajectories]:
    parts: Any = assemble(configuration("env=CartPole", *overrides))
    try:
        parts.collector.start(draw_seeds(parts.streams.environments, parts.lanes.num_lanes))
        act, law = parts.policy.actor(), parts.policy.law
        return [parts.collector.collect(act, law, parts.streams.policy).trajectories for _ in range(number)]
    finally:
        parts.lanes.close()


@pytest.mark.parametrize("vectorization", ["sync", "async"])
def test_columns_of_a_group_begin_alike_and_others_do_not(vectorization: str) -> None:
    sizes = ("env.num_envs=4", "collect.episodes=12", "collect.group=2")
    found = batches(3, *sizes, f"env.vectorization={vectorization}")
    seen = set()
    for batch in found:
        assert batch.group is not None and torch.equal(batch.group, torch.arange(12) // 2)
        first = batch.obs[0].numpy()  # type: ignore[index]  # an array
        assert np.array_equal(first[0::2], first[1::2])
        assert batch.columns(torch.tensor([3, 8])).group.tolist() == [1, 4]  # type: ignore[union-attr]
        seen |= {tuple(each) for each in first[0::2].tolist()}
    assert len(seen) == 18  # three batches of six groups
    # From there on they part: actions are drawn one by one.
    assert not torch.equal(found[0].actions[:, 0], found[0].actions[:, 1])


def test_without_groups_all_begin_apart() -> None:
    (batch,) = batches(1, "env.num_envs=4", "collect.episodes=8", "env.vectorization=sync")
    assert batch.group is None and len({tuple(each) for each in batch.obs[0].tolist()}) == 8  # type: ignore[index]


def test_groups_of_several_batches_stay_apart() -> None:
    one, two = batches(2, "env.num_envs=4", "collect.episodes=4", "collect.group=2", "env.vectorization=sync")
    whole = joined([one, two], rows=max(one.num_steps, two.num_steps))
    assert whole.group is not None and whole.group.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    # Numbers that a batch which left had are given anew.
    later = joined([one, whole.columns(slice(2, None))], rows=whole.num_steps)
    assert later.group is not None and later.group.tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("collect.group=3", "env.vectorization=sync"), r"^collect\.group: 3, expected a divisor of the 8"),
        (
            ("collect.group=4", "env.vectorization=vector_entry_point"),
            r"^collect\.group: 4 with env\.vectorization=vector_entry_point, .* expected env\.vectorization=sync",
        ),
    ],
)
def test_groups_that_cannot_be_are_refused(overrides: tuple[str, ...], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        assemble(configuration("env=CartPole", *overrides))
