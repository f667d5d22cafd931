"""Batches from lanes of several processes, and batches that are learnt from elsewhere than on the host."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Protocol, final

import numpy as np
import torch
from torch import Tensor

from pgkit.errors import EnvironmentFault, RunFault
from pgkit.rl.collect import Batch, Collector, EpisodesCollector
from pgkit.rl.recording import ActionLaw, Actor
from pgkit.types import Observations, Trajectories


class Peers(Protocol):
    """The processes that share a run."""

    rank: int
    size: int

    def gather(self, message: Any) -> list[Any]:
        """Returns the messages of all, in their order."""


@final
class Moved:
    """A collector whose batches go to a device, each once and whole; what acts and steps stays on the host."""

    def __init__(self, collector: Collector, device: torch.device) -> None:
        self.collector, self.device = collector, device

    def start(self, seeds: Sequence[int]) -> None:
        """Seeds and resets every lane."""
        self.collector.start(seeds)

    def collect(self, act: Actor, law: ActionLaw, generator: np.random.Generator) -> Batch:
        """Returns the next batch, on the device."""
        batch = self.collector.collect(act, law, generator)
        return replace(batch, trajectories=batch.trajectories.to(self.device))


@final
class Gathered:
    """A collector of a share of the lanes, whose batches are those of all lanes, as one process would have them.

    Each process acts on its own lanes with its slice of the noise of all; then every process gets every column, in the
    order of the lanes, and learns the same from them. `parameters` must be the same everywhere: that is looked at, and
    drifting apart ends the run.
    """

    def __init__(
        self, own: Collector, peers: Peers, *, num_lanes: int, parameters: Callable[[], Sequence[Tensor]]
    ) -> None:
        self._own, self._peers, self._parameters = own, peers, parameters
        each = num_lanes // peers.size
        self._lanes, self._num_lanes = slice(peers.rank * each, (peers.rank + 1) * each), num_lanes

    def start(self, seeds: Sequence[int]) -> None:
        """Seeds and resets every lane; `seeds` are those of all."""
        self._all(lambda: self._own.start(seeds[self._lanes]))

    def collect(self, act: Actor, law: ActionLaw, generator: np.random.Generator) -> Batch:
        """Returns the next batch of all lanes.

        Raises: RunFault for what befell any process, in all of them.
        """
        sliced: Any = _Sliced(law, self._lanes, self._num_lanes)
        state = float(sum(each.detach().double().abs().sum() for each in self._parameters()))

        def work() -> tuple[Batch, float, int, int]:
            batch = self._own.collect(act, sliced, generator)
            return batch, state, sliced.draws, sliced.rows

        batches, states, draws, rows = zip(*self._all(work), strict=True)
        if len(set(states)) > 1:
            raise RunFault(f"torchrun: parameters differ between processes ({states}), expected them to be the same")
        # Elsewhere episodes were longer: there was more noise, and time for the resets that are pending here.
        for _ in range(max(draws) - sliced.draws):
            sliced.draw(generator)
        if isinstance(self._own, EpisodesCollector) and sliced.rows < max(rows):
            self._own.settle()
        return joined(batches)

    def _all(self, work: Callable[[], Any]) -> list[Any]:
        """Returns what the work gave in every process.

        Raises: RunFault where it failed in one.
        """
        fault: Exception | None = None
        result = None
        try:
            result = work()
        except Exception as error:  # the others are waiting, and hear of it first
            fault = error
        told = None if fault is None else (isinstance(fault, EnvironmentFault), str(fault) or repr(fault))
        answers = self._peers.gather((told, result))
        if fault is not None:
            raise fault
        for rank, (told, _) in enumerate(answers):
            if told is not None:
                known, message = told
                place = f"process {rank} of {self._peers.size}: {message}"
                raise EnvironmentFault(place) if known else RunFault(place)
        return [answer for _, answer in answers]


@final
class _Sliced:
    """A law whose noise is a slice of that of all lanes; it counts what was drawn, and the rows that acted."""

    def __init__(self, law: ActionLaw, lanes: slice, num_lanes: int) -> None:
        self._law, self._lanes, self._num_lanes = law, lanes, num_lanes
        self._latest = 0  # rows of the latest draw
        self.draws = self.rows = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._law, name)

    def noise(self, generator: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        """Returns the noise of this process's lanes."""
        self._latest = shape[0]
        return self.draw(generator)[:, self._lanes]

    def draw(self, generator: np.random.Generator) -> np.ndarray:
        """Returns noise of all lanes, as much as was drawn last."""
        self.draws += 1
        return self._law.noise(generator, (self._latest, self._num_lanes))

    def sample(self, parameters: np.ndarray, noise: np.ndarray) -> np.ndarray:
        """Returns what the law picks."""
        self.rows += 1
        return self._law.sample(parameters, noise)


HELD = ("actions", "behavior_log_prob", "action_mask")
"""Fields whose last row stands for those that are missing, as in a padded column."""
PLAIN = ("rewards", "terminated", "truncated", "starts", "mask")
"""Fields that are 0 there."""
OF_COLUMNS = ("behavior_id", "lane", "group", "policy_state")
NUMBERED = ("lane", "group")
"""Those whose numbers mean something else in every batch."""


def joined(batches: Sequence[Batch]) -> Batch:
    """Returns batches from equally many lanes each as one, columns and episodes in the order one process would have."""
    parts = [batch.trajectories for batch in batches]
    rows, lanes = max(part.num_steps for part in parts), int(parts[0].lane.max()) + 1
    found: dict[str, Any] = {"obs": _observations([part.obs for part in parts], rows + 1)}
    for name in (*HELD, *PLAIN, *OF_COLUMNS):
        each = [getattr(part, name) for part in parts]
        if each[0] is None:
            continue
        if name in NUMBERED:
            each = [numbers + place * (int(each[0].max()) + 1) for place, numbers in enumerate(each)]
        wide = name not in OF_COLUMNS
        found[name] = torch.cat([_padded(x, rows, held=name in HELD) for x in each] if wide else each, dim=int(wide))
    whole = Trajectories(**found, whole_episodes=parts[0].whole_episodes)
    # Columns are numbered round by round, each over all lanes.
    places = torch.arange(whole.num_columns).view(len(parts), -1, lanes).transpose(0, 1).reshape(-1)
    trajectories = whole.columns(places)
    if "group" in found:
        numbered: dict[str, Any] = {"group": torch.unique_consecutive(found["group"][places], return_inverse=True)[1]}
        trajectories = replace(trajectories, **numbered)
    order = np.argsort(np.concatenate([batch.rows for batch in batches]), kind="stable").tolist()
    returns, lengths, ends = (
        [each for batch in batches for each in getattr(batch, name)] for name in ("returns", "lengths", "rows")
    )
    return Batch(
        trajectories=trajectories,
        returns=[returns[place] for place in order],
        lengths=[lengths[place] for place in order],
        rows=[ends[place] for place in order],
        env_steps=sum(batch.env_steps for batch in batches),
        discarded_steps=sum(batch.discarded_steps for batch in batches),
    )


def _observations(observations: Sequence[Any], rows: int) -> Observations:
    first = observations[0]
    if isinstance(first, dict):
        return {key: torch.cat([_padded(each[key], rows, held=True) for each in observations], dim=1) for key in first}
    return torch.cat([_padded(each, rows, held=True) for each in observations], dim=1)


def _padded(values: Tensor, rows: int, *, held: bool) -> Tensor:
    """Returns values `[T, N, …]` with rows behind them, the last one over and over or zeros."""
    missing = rows - len(values)
    if not missing:
        return values
    shape = (missing, *values.shape[1:])
    return torch.cat([values, values[-1:].expand(shape) if held else values.new_zeros(shape)])
