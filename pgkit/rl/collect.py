"""Two ways of collecting experience that fill one type: whole episodes, or a slab of steps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, final, runtime_checkable

import numpy as np
import torch

from pgkit.errors import RunFault, UsageError
from pgkit.experience import Remembering
from pgkit.options import Count
from pgkit.rl.lanes import Lanes
from pgkit.rl.recording import ActionLaw, Actor, Arrays, Recording
from pgkit.rl.spaces import Observation
from pgkit.types import Trajectories

BLOCK = 64
"""Rows of noise drawn at once."""


@dataclass(frozen=True, kw_only=True)
class Batch:
    """A collected batch, and what it took: raw returns and lengths of the episodes it finished, in that order, and the
    rows of the recording that they ended in, from 0; every transition the environments made (`env_steps`) and those of
    them that are in no column (`discarded_steps`)."""

    trajectories: Trajectories
    returns: Sequence[float]
    lengths: Sequence[int]
    env_steps: int
    discarded_steps: int
    rows: Sequence[int] = ()


@runtime_checkable
class Collector(Protocol):
    """Fills batches by letting a policy act on lanes."""

    def start(self, seeds: Sequence[int]) -> None:
        """Seeds and resets every lane."""

    def collect(self, act: Actor, law: ActionLaw, generator: np.random.Generator) -> Batch:
        """Returns the next batch; `generator` draws the noise of the actions."""


@final
class EpisodesCollector:
    """Whole episodes, the same number on every lane: taking the first to finish would favour short ones.

    A lane that has met its quota pauses where it can; where it cannot, what it does until the others are done is
    counted as discarded. In groups of neighbouring lanes episodes begin alike, from the same seed of the environment:
    in the same state, and with the same chances as long as the actions are the same.

    Raises: UsageError for groups of lanes that cannot be seeded one by one, or that do not divide the lanes.
    """

    def __init__(
        self, *, lanes: Lanes, episodes: Count = 8, max_episode_steps: Count | None = None, group: Count = 1
    ) -> None:
        if group > 1 and not lanes.can_pause:
            form = f"env.vectorization={lanes.vectorization}, whose lanes share one generator"
            raise UsageError(f"collect.group: {group} with {form}, expected env.vectorization=sync or async")
        if lanes.num_lanes % group:
            raise UsageError(f"collect.group: {group}, expected a divisor of the {lanes.num_lanes} of env.num_envs")
        self.lanes, self.group = lanes, group
        self.quota = episodes // lanes.num_lanes
        self.limit = max_episode_steps or lanes.max_episode_steps or 10_000

    def start(self, seeds: Sequence[int]) -> None:
        """Seeds and resets every lane."""
        shared = [seeds[lane - lane % self.group] for lane in range(self.lanes.num_lanes)]
        self._obs = self.lanes.reset(shared)
        if self.group > 1:
            self.lanes.start_alike(shared)
        self._ended = np.zeros(self.lanes.num_lanes, bool)
        self._fresh = True

    def collect(self, act: Actor, law: ActionLaw, generator: np.random.Generator) -> Batch:
        """Returns one batch of `episodes` columns, padded to the longest.

        Raises: RunFault where an episode does not end.
        """
        lanes = self.lanes
        if lanes.can_pause:
            lanes.pause(np.zeros(lanes.num_lanes, bool))
        elif not self._fresh:
            # Lanes that could not pause are in the middle of episodes that began in the batch before.
            self._obs, self._ended = lanes.reset(None), np.zeros(lanes.num_lanes, bool)
        self._fresh = False
        if isinstance(act, Remembering):
            act.begin(self._ended)
        states = _states(act)
        recording = Recording(self._obs, capacity=4 * BLOCK)
        finished = np.zeros(lanes.num_lanes, int)
        for ended in recording.extend(lanes, act, law, self._noise(law, generator, recording, finished)):
            if ended.any():
                finished += ended
                if finished.min() >= self.quota:
                    break
                if lanes.can_pause:
                    lanes.pause(finished >= self.quota)
        arrays = recording.arrays()
        first, self._ended, self._obs = self._ended, arrays.done[-1], recording.last
        self._idle = law.to_environment(arrays.actions[-1])
        return self._cut(arrays, law, first, states)

    def settle(self) -> None:
        """Does the resets that are pending, as further rows would while other lanes are not done."""
        if self.lanes.can_pause and self._ended.any():
            self.lanes.pause(np.ones(self.lanes.num_lanes, bool))
            self._obs = self.lanes.step(self._idle)[0]
            self._ended = np.zeros(self.lanes.num_lanes, bool)

    def _noise(
        self, law: ActionLaw, generator: np.random.Generator, recording: Recording, finished: np.ndarray
    ) -> Iterator[np.ndarray]:
        while True:
            yield from law.noise(generator, (BLOCK, self.lanes.num_lanes))
            running = finished < self.quota
            steps = recording.since_end()
            if (steps[running] > self.limit).any():
                lane = int(np.flatnonzero(running & (steps > self.limit))[0])
                raise RunFault(
                    f"collect.max_episode_steps: the episode on lane {lane} goes on after {self.limit} steps, "
                    "expected an end; collect=steps takes endless episodes"
                )

    def _cut(self, arrays: Arrays, law: ActionLaw, reset_first: np.ndarray, states: np.ndarray | None) -> Batch:
        """Cuts the rows of each lane into its first `quota` episodes, one a column."""
        num_lanes, done = self.lanes.num_lanes, arrays.done
        lane_of, row_of = np.nonzero(done.T)
        offset = np.searchsorted(lane_of, np.arange(num_lanes))
        ends = row_of[offset[:, None] + np.arange(self.quota)]
        # A lane that ended on the last row of the batch before spends its first row on the reset.
        begins = np.concatenate([reset_first[:, None].astype(int), ends[:, :-1] + 2], axis=1)
        first, last, lane = begins.T.ravel(), ends.T.ravel(), np.tile(np.arange(num_lanes), self.quota)
        lengths = last - first + 1
        time = np.arange(lengths.max() + 1)[:, None]
        mask = time[:-1] < lengths
        rows, obs_rows = np.minimum(first + time[:-1], last), np.minimum(first + time, last + 1)
        columns = Arrays(
            obs=_take(arrays.obs, obs_rows, lane),
            parameters=arrays.parameters[rows, lane],
            actions=arrays.actions[rows, lane],
            rewards=np.where(mask, arrays.rewards[rows, lane], 0.0),
            terminated=arrays.terminated[rows, lane] & (time[:-1] == lengths - 1),
            truncated=arrays.truncated[rows, lane] & (time[:-1] == lengths - 1),
        )
        starts = np.broadcast_to(time[:-1] == 0, mask.shape).copy()
        used = int(lengths.sum())
        # Every row of every lane but those spent on resets; lanes that pause make no others than the used ones.
        made = used if self.lanes.can_pause else done.size - int(done[:-1].sum())
        order = np.lexsort((lane, last))
        trajectories = _learnt(columns, self.lanes).trajectories(
            law, starts=starts, mask=mask, lane=lane, whole_episodes=True, states=states
        )
        if self.group > 1:
            trajectories = replace(trajectories, group=torch.arange(len(lane)) // self.group)
        return Batch(
            trajectories=trajectories,
            returns=columns.rewards.sum(axis=0)[order].tolist(),
            lengths=lengths[order].tolist(),
            rows=last[order].tolist(),
            env_steps=made,
            discarded_steps=made - used,
        )


@final
class StepsCollector:
    """A slab of `steps` rows on every lane; an episode goes on in the next slab where one cuts it."""

    def __init__(self, *, lanes: Lanes, steps: Count = 128) -> None:
        self.lanes, self.steps = lanes, steps

    def start(self, seeds: Sequence[int]) -> None:
        """Seeds and resets every lane."""
        self._obs: Observation = self.lanes.reset(seeds)
        num_lanes = self.lanes.num_lanes
        self._ended = np.zeros(num_lanes, bool)  # the next row is a reset row
        self._was_reset = np.ones(num_lanes, bool)  # the next row begins an episode
        self._returns, self._lengths = np.zeros(num_lanes), np.zeros(num_lanes, int)  # of the episodes under way

    def collect(self, act: Actor, law: ActionLaw, generator: np.random.Generator) -> Batch:
        """Returns one batch of a column a lane."""
        if isinstance(act, Remembering) and act.state is None:
            act.begin(self._ended)
        states = _states(act)
        recording = Recording(self._obs, capacity=self.steps)
        for block in range(0, self.steps, BLOCK):
            noise = law.noise(generator, (min(BLOCK, self.steps - block), self.lanes.num_lanes))
            for _ in recording.extend(self.lanes, act, law, noise):
                pass
        arrays = recording.arrays()
        done = arrays.done
        resets = np.concatenate([self._ended[None], done[:-1]])
        starts = np.concatenate([self._was_reset[None], resets[:-1]]) & ~resets
        mask = ~resets
        returns, lengths = self._finished(arrays.rewards, mask, done)
        self._obs, self._ended, self._was_reset = recording.last, done[-1], resets[-1]
        lane = np.arange(self.lanes.num_lanes)
        return Batch(
            trajectories=_learnt(arrays, self.lanes).trajectories(
                law, starts=starts, mask=mask, lane=lane, whole_episodes=False, states=states
            ),
            returns=returns.tolist(),
            lengths=lengths.tolist(),
            rows=np.nonzero(done)[0].tolist(),
            env_steps=int(mask.sum()),
            discarded_steps=0,
        )

    def _finished(self, rewards: np.ndarray, mask: np.ndarray, done: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns (returns, lengths) of the episodes that ended, in order; carries over those under way."""
        returns = self._returns + np.cumsum(np.where(mask, rewards, 0.0), axis=0)
        lengths = self._lengths + np.cumsum(mask, axis=0)
        lane, row = np.nonzero(done.T)
        first = np.diff(lane, prepend=-1) > 0

        def since_last_end(total: np.ndarray) -> np.ndarray:
            at_end = total[row, lane]
            return at_end - np.where(first, 0, np.concatenate([[0], at_end[:-1]]))

        order = np.argsort(row, kind="stable")
        finished = since_last_end(returns)[order], since_last_end(lengths)[order].astype(int)
        self._returns, self._lengths = returns[-1], lengths[-1]
        # Ends are in order on each lane, so the last one is what stays.
        self._returns[lane] = returns[-1, lane] - returns[row, lane]
        self._lengths[lane] = lengths[-1, lane] - lengths[row, lane]
        return finished


def _states(act: Actor) -> np.ndarray | None:
    """Returns a copy of the state that an actor has of every lane, None where it has no memory."""
    state = act.state if isinstance(act, Remembering) else None
    return None if state is None else state.copy()


def _learnt(arrays: Arrays, lanes: Lanes) -> Arrays:
    """Returns the arrays with the rewards that learning sees; returns are summed before."""
    return replace(arrays, rewards=lanes.learnt(arrays.rewards))


def _take(obs: Observation, rows: np.ndarray, lane: np.ndarray) -> Observation:
    if isinstance(obs, dict):
        return {key: value[rows, lane] for key, value in obs.items()}
    return obs[rows, lane]
