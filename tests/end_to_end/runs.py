"""Whole runs in this process: composed, checked and conducted as an entry point would, without its start-up time."""

from __future__ import annotations

import contextlib
import csv
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from pgkit.assemble import Parts, assemble
from pgkit.conduct import conduct
from pgkit.config import check, compose
from pgkit.loggers.group import LoggerGroup
from pgkit.rl.collect import Batch
from pgkit.run.interrupts import Interrupts
from pgkit.run.journal import Journal
from pgkit.run.progress import Progress
from pgkit.run.record import Clock, EpisodeRecord
from pgkit.run.seeds import draw_seeds
from pgkit.train import learn

ENVS = "tests.end_to_end.envs"
TYPED = ("env=CartPole", "total_steps=4000")
Learn = Callable[..., None]


def gym(name: str) -> tuple[str, str]:
    """Returns the overrides that choose a toy environment of this folder."""
    return "env=gym", f"env.id={ENVS}:{name}-v0"


@cache
def _composed(overrides: tuple[str, ...]) -> DictConfig:
    return compose("train", list(overrides))


def configuration(*overrides: str) -> DictConfig:
    """Returns the checked configuration of a command line."""
    return check(_composed(overrides))


@dataclass(frozen=True)
class Run:
    """What a finished run left."""

    folder: Path
    parts: Parts

    @property
    def summary(self) -> dict[str, Any]:
        result: dict[str, Any] = json.loads((self.folder / "summary.json").read_text(), parse_constant=_refuse)
        return result

    @property
    def metrics(self) -> list[dict[str, str]]:
        return metrics_of(self.folder)

    @property
    def parameters(self) -> dict[str, torch.Tensor]:
        return dict(self.parts.policy.state_dict())


def metrics_of(folder: Path) -> list[dict[str, str]]:
    """Returns the lines of `metrics.csv` as text."""
    with (folder / "metrics.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def events_of(folder: Path) -> EventAccumulator:
    """Returns the event file of a run, read whole."""
    return EventAccumulator(str(folder), size_guidance={"scalars": 0, "tensors": 0}).Reload()


def train(folder: Path, *overrides: str, through: Learn = learn) -> Run:
    """Returns a run that was conducted in `folder`, with the loop `through`."""
    config, parts = configuration(*overrides), []

    def loop(made: Parts, *arguments: Any, **keywords: Any) -> None:
        parts.append(made)
        through(made, *arguments, **keywords)

    folder.mkdir(parents=True, exist_ok=True)
    with hydra_node(*overrides):
        conduct(config, folder, loop)
    return Run(folder, parts[0])


@contextlib.contextmanager
def hydra_node(*overrides: str) -> Iterator[None]:
    """Lets the code inside see Hydra's node of a command line, as in a job."""
    instance = HydraConfig.instance()
    before = instance.cfg
    instance.set_config(_composed(overrides))
    try:
        yield
    finally:
        instance.cfg = before


def journal_of(config: DictConfig, parts: Parts) -> Journal:
    """Returns a journal that writes nowhere, its clock running."""
    clock = Clock()
    clock.start()
    return Journal(
        loggers=LoggerGroup([], warn=print),
        progress=Progress(total=config.total_steps, goal=None),
        record=EpisodeRecord(reward_threshold=parts.lanes.reward_threshold),
        clock=clock,
    )


def watching(look: Callable[[Batch], object]) -> Learn:
    """Returns the training loop with `look` called on every batch that is collected."""

    def loop(parts: Parts, journal: Journal, *rest: Any, **keywords: Any) -> None:
        collect = parts.collector.collect

        def collect_and_look(*arguments: Any) -> Batch:
            batch = collect(*arguments)
            look(batch)
            return batch

        parts.collector.collect = collect_and_look  # type: ignore[method-assign]
        learn(parts, journal, *rest, **keywords)

    return loop


def train_briefly(*overrides: str, through: Learn = learn) -> tuple[Parts, Journal]:
    """Returns the parts and the journal after training that leaves nothing on the disk."""
    config = configuration(*overrides)
    parts = assemble(config)
    journal = journal_of(config, parts)
    parts.collector.start(draw_seeds(parts.streams.environments, parts.lanes.num_lanes))
    try:
        through(parts, journal, Interrupts(), total_steps=config.total_steps, stop_when_solved=config.stop_when_solved)
    finally:
        parts.lanes.close()
    return parts, journal


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    """Returns whether two states agree bit for bit."""
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def _refuse(name: str) -> float:
    raise ValueError(f"{name} is not JSON")
