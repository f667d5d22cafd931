"""What processes make of each other's batches, faults and wishes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from pgkit.errors import EnvironmentFault, RunFault, UsageError
from pgkit.policies.laws import law_of
from pgkit.ranks import num_processes, rank
from pgkit.rl.collect import Batch, EpisodesCollector
from pgkit.rl.gathering import Gathered, joined
from pgkit.rl.lanes import Lanes
from pgkit.run.world import World, backend_for

THERE = {"RANK": "1", "LOCAL_RANK": "1", "MASTER_ADDR": "localhost", "MASTER_PORT": "1", "WORLD_SIZE": "2"}


class Fixed:
    """A peer whose neighbour always says the same."""

    rank, size = 0, 2

    def __init__(self, neighbour: Any) -> None:
        self.neighbour = neighbour

    def gather(self, message: Any) -> list[Any]:
        return [message, self.neighbour]


class Broken:
    """A collector that cannot."""

    def start(self, seeds: Sequence[int]) -> None:
        raise EnvironmentFault("lane 0, seed 1, step 2: it broke")

    def collect(self, *arguments: Any) -> Batch:
        raise ZeroDivisionError


class Idle:
    """A collector that does nothing."""

    def start(self, seeds: Sequence[int]) -> None:
        self.seeds = seeds

    def collect(self, *arguments: Any) -> Any:
        return None


def gathered(own: Any, neighbour: Any) -> Gathered:
    return Gathered(own, Fixed(neighbour), num_lanes=4, parameters=lambda: [torch.ones(1)])


def test_a_fault_elsewhere_ends_this_process_and_names_the_other() -> None:
    there = gathered(Idle(), ((True, "lane 0, seed 1, step 2: it broke"), None))
    with pytest.raises(EnvironmentFault, match=r"^process 1 of 2: lane 0, seed 1, step 2: it broke$"):
        there.start([1, 2, 3, 4])
    with pytest.raises(EnvironmentFault, match=r"^lane 0"):
        gathered(Broken(), (None, None)).start([1, 2, 3, 4])
    with pytest.raises(ZeroDivisionError):
        gathered(Broken(), (None, None)).collect(None, None, None)  # type: ignore[arg-type]  # never looked at


def test_each_process_takes_the_seeds_of_its_lanes() -> None:
    idle = Idle()
    gathered(idle, (None, None)).start([1, 2, 3, 4])
    assert idle.seeds == [1, 2]


def test_parameters_that_drift_apart_end_the_run() -> None:
    there = gathered(Idle(), (None, (None, 2.0, 0, 0)))
    with pytest.raises(RunFault, match="parameters differ between processes"):
        there.collect(None, None, None)  # type: ignore[arg-type]  # never looked at


def collected(lanes: int, first: int, *, of: int, episodes: int, group: int = 1) -> Batch:
    """Returns a batch of some of the lanes of a random policy, `first` on, with their share of seeds and noise."""
    vector = Lanes(id="CartPole-v1", num_envs=lanes, vectorization="sync")
    law = law_of(vector.action_space)
    collector = EpisodesCollector(lanes=vector, episodes=episodes, group=group)
    collector.start(list(range(first, first + lanes)))
    noise = law.noise(np.random.default_rng(0), (1000, of))[:, first : first + lanes]
    row = iter(noise)

    class Dealt:
        def __getattr__(self, name: str) -> Any:
            return getattr(law, name)

        def noise(self, generator: Any, shape: tuple[int, ...]) -> Any:
            return np.stack([next(row) for _ in range(shape[0])])

    parameters = np.zeros((lanes, 2), np.float32)
    batch = collector.collect(lambda obs: parameters, Dealt(), np.random.default_rng(0))  # type: ignore[arg-type]
    vector.close()
    return batch


@pytest.mark.parametrize("group", [1, 3])
def test_batches_of_some_lanes_each_are_the_batch_of_all(group: int) -> None:
    whole = collected(6, 0, of=6, episodes=18, group=group)
    parts = joined([collected(3, first, of=6, episodes=9, group=group) for first in (0, 3)])
    assert (parts.returns, parts.lengths, parts.rows) == (whole.returns, whole.lengths, whole.rows)
    assert (parts.env_steps, parts.discarded_steps) == (whole.env_steps, whole.discarded_steps)
    for name in ("obs", "actions", "rewards", "behavior_log_prob", "terminated", "truncated", "starts", "mask", "lane"):
        assert torch.equal(getattr(parts.trajectories, name), getattr(whole.trajectories, name)), name
    if group > 1:
        assert parts.trajectories.group is not None and whole.trajectories.group is not None
        assert torch.equal(parts.trajectories.group, whole.trajectories.group)


def test_processes_without_a_place_to_meet_are_named() -> None:
    with pytest.raises(UsageError, match=r"^WORLD_SIZE: 2 without LOCAL_RANK, MASTER_PORT, expected processes that"):
        World({"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "localhost"})
    with pytest.raises(UsageError, match=r"^WORLD_SIZE: 1x for RANK=1"):
        num_processes({**THERE, "WORLD_SIZE": "1x"})
    assert (num_processes({}), rank({}), num_processes(THERE), rank(THERE)) == (1, 0, 2, 1)


def test_what_cannot_be_divided_is_named() -> None:
    world = World(THERE)
    assert world.share("env.num_envs", 8) == 4 and not world.leads
    with pytest.raises(UsageError, match=r"^env.num_envs: 3 over 2 processes, expected a multiple of 2$"):
        world.share("env.num_envs", 3)


@pytest.mark.parametrize(
    ("device", "gpus", "processes", "expected"),
    [
        ("cpu", 2, 2, "gloo"),
        ("auto", 0, 2, "gloo"),
        ("cuda", 1, 2, "gloo"),  # NCCL refuses two processes on one GPU
        ("cuda:0", 2, 2, "gloo"),
        ("cuda", 2, 2, "cpu:gloo,cuda:nccl"),
        ("auto", 4, 2, "cpu:gloo,cuda:nccl"),
    ],
)
def test_sums_go_by_nccl_where_every_process_has_a_gpu(
    monkeypatch: pytest.MonkeyPatch, device: str, gpus: int, processes: int, expected: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(torch.distributed, "is_nccl_available", lambda: True)
    assert backend_for(device, processes) == expected


def test_a_sum_that_nobody_answers_names_the_cause_and_not_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(tensor: torch.Tensor) -> None:
        raise RuntimeError("[/src/gloo/pair.cc:537] Read error [::1]:80: Connection reset. This is caused by\nmore")

    monkeypatch.setattr(torch.distributed, "all_reduce", broken)
    with pytest.raises(RunFault, match=r"process of this run is gone \(Read error \[::1\]:80: Connection reset\)$"):
        World(THERE).add(torch.ones(1))
