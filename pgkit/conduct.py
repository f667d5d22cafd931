"""Conducts one training run: its parts, the loop, the evaluation, the summary."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, final

import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from threadpoolctl import threadpool_limits

from pgkit.assemble import assemble
from pgkit.config import build
from pgkit.errors import RunFault
from pgkit.loggers.group import LoggerGroup
from pgkit.playback import pausing_lanes, play_both
from pgkit.protocols import Logger
from pgkit.reporting.advice import advise
from pgkit.reporting.more_advice import weights
from pgkit.run import journal as journals
from pgkit.run.checkpoint import SavedPolicy
from pgkit.run.closing import closing_block, header_line
from pgkit.run.interrupts import Interrupts
from pgkit.run.journal import Journal
from pgkit.run.keeping import Keeper, first_not_finite
from pgkit.run.progress import Progress
from pgkit.run.record import Clock, EpisodeRecord
from pgkit.run.seeds import draw_seeds
from pgkit.run.session import Job, Session, hold
from pgkit.run.summary import build_summary
from pgkit.run.world import World

Learn = Callable[..., None]


def conduct(config: DictConfig, path: Path, learn: Learn) -> None:
    """Runs `learn` from start to summary in the folder `path`; whatever happens, what there is gets written.

    Raises: what `learn` raises; KeyboardInterrupt after an interrupted run.
    """
    with World(device=config.device) as world:
        world.agree(flatten(OmegaConf.to_container(config)))
        if world.leads:
            make = partial(_Training, config, learn, world)
            hold(make, path, settings=settings(config), overridden=overridden())
        else:
            follow(config, learn, world)


def follow(config: DictConfig, learn: Learn, world: World) -> None:
    """Runs `learn` beside the process that owns the run folder: acts on lanes of its own, says and writes nothing.

    Raises: what `learn` raises; KeyboardInterrupt after an interrupted run.
    """
    torch.set_num_threads(1)
    with (
        threadpool_limits(limits=1),
        Interrupts(patient=True) as interrupts,
        Path(os.devnull).open("w", encoding="utf-8") as nowhere,
    ):
        world.watch(interrupts)
        parts, clock = assemble(config, world), Clock()
        journal = Journal(
            loggers=LoggerGroup([], warn=lambda text: None),
            progress=Progress(total=config.total_steps, goal=None, stream=nowhere),
            record=EpisodeRecord(reward_threshold=parts.lanes.reward_threshold),
            clock=clock,
        )
        clock.start()
        try:
            parts.collector.start(draw_seeds(parts.streams.environments, config.env.num_envs))
            learn(parts, journal, world, total_steps=config.total_steps, stop_when_solved=config.stop_when_solved)
        finally:
            parts.lanes.close()
    if world.requested:
        raise KeyboardInterrupt


def settings(config: DictConfig) -> dict[str, Any]:
    """Returns what a run was asked for, flat: the choice of every group, then every key."""
    choices = {str(group): choice for group, choice in HydraConfig.get().runtime.choices.items()}
    groups = {group: choice for group, choice in choices.items() if not group.startswith("hydra/")}
    return {**groups, **flatten(OmegaConf.to_container(config))}


def overridden() -> list[str]:
    """Returns the keys that this run's command line set."""
    return [line.lstrip("+~").partition("=")[0] for line in HydraConfig.get().overrides.task]


def flatten(tree: Any, prefix: str = "") -> dict[str, Any]:
    """Returns a nested mapping as one level with dotted keys."""
    if not isinstance(tree, dict):
        return {prefix: tree}
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= flatten(value, f"{prefix}.{key}" if prefix else str(key))
    return flat


@final
class _Training(Job):
    """A training run."""

    def __init__(self, config: DictConfig, learn: Learn, world: World) -> None:
        self._config, self._learn, self._world = config, learn, world
        self._parts = assemble(config, world)
        self._evaluation: dict[str, Any] | None = None

    def progress(self) -> Progress:
        """Returns the view of environment steps and returns."""
        return Progress(total=self._config.total_steps, goal=self._parts.lanes.reward_threshold)

    def loggers(self, folder: Path) -> list[Logger]:
        """Returns the loggers, told of every tag that a part may report."""
        config, parts = self._config, self._parts
        instruments = (tag for diagnostic in parts.diagnostics.values() for tag in diagnostic.tags)
        owners = (parts.update, parts.critic, parts.behavior, parts.reuse)
        tags = list(dict.fromkeys((*journals.TAGS, *(tag for part in owners for tag in part.tags), *instruments)))
        trusted = list(config.trusted_packages)
        return [
            build(node, expects=Logger, trusted=trusted, folder=folder, tags=tags, axis="env_steps")
            for node in config.logger.values()
        ]

    def begin(self, session: Session) -> str:
        """Opens the journal and returns the header."""
        parts = self._parts
        place, every = session.folder.checkpoints / "last", self._config.save_every
        self._keeper = Keeper(place, parts.policy, self._saved, every=every)
        self._journal = Journal(
            keep=self._keeper.keep,
            loggers=session.loggers,
            progress=session.progress,
            record=EpisodeRecord(reward_threshold=parts.lanes.reward_threshold),
            clock=session.clock,
        )
        line = header_line(
            env=self._config.env.id,
            agent=HydraConfig.get().runtime.choices["agent"],
            vectorization=parts.vectorization,
            num_lanes=self._config.env.num_envs,
            num_parameters=parts.num_parameters,
            folder=session.folder.path,
        )
        return f"{line}\n  {parts.lanes.note}" if parts.lanes.note else line

    def work(self, session: Session) -> None:
        """Trains."""
        config, parts = self._config, self._parts
        world = self._world
        world.watch(session.interrupts)
        parts.collector.start(draw_seeds(parts.streams.environments, config.env.num_envs))
        try:
            self._learn(
                parts,
                self._journal,
                session.interrupts if world.size == 1 else world,
                total_steps=config.total_steps,
                stop_when_solved=config.stop_when_solved,
            )
        except RunFault as fault:
            if (bad := first_not_finite(parts.policy)) is None:
                raise
            raise RunFault(f"{fault}; the first tensor that is not finite is {bad}") from fault
        if world.requested and not session.interrupts.requested:
            session.interrupts.number = signal.SIGINT  # another process was asked

    def evaluate(self, session: Session) -> None:
        """Plays the final policy, deterministic and stochastic, on lanes of their own."""
        config, parts = self._config, self._parts
        if config.evaluation.episodes == 0:
            return
        trusted = list(config.trusted_packages)
        lanes = pausing_lanes(config["env"], num_envs=config.evaluation.num_envs, trusted=trusted)
        try:
            self._evaluation = play_both(
                parts.policy, lanes, episodes=config.evaluation.episodes, streams=parts.streams
            )
        except RunFault as fault:
            session.progress.print(f"no evaluation: {fault}")
        finally:
            lanes.close()

    def close(self, session: Session) -> None:
        """Closes the environments and saves the policy."""
        parts = self._parts
        parts.lanes.close()
        if (reason := self._keeper.save()) is not None:
            session.progress.print(reason)

    def _saved(self) -> SavedPolicy:
        """Returns the policy as it is, with what is needed to build it again."""
        parts, node = self._parts, OmegaConf.to_container(self._config["policy"])
        assert isinstance(node, dict)
        return SavedPolicy(
            config={str(key): value for key, value in node.items()},
            observation_space=parts.lanes.observation_space,
            action_space=parts.lanes.action_space,
            tensors=parts.policy.state_dict(),
        )

    def summary(self, session: Session) -> dict[str, Any]:
        """Returns what came of the run."""
        config, journal = self._config, self._journal
        return build_summary(
            status=session.status,
            env=config.env.id,
            agent=HydraConfig.get().runtime.choices["agent"],
            seed=config.seed,
            env_steps=journal.env_steps,
            discarded_steps=journal.discarded_steps,
            updates=journal.updates,
            record=journal.record,
            clock=session.clock,
            evaluation=self._evaluation,
            gradient=journal.gradient,
            metrics_incomplete=session.loggers.incomplete,
        )

    def results(self, summary: Mapping[str, Any]) -> dict[str, float | None]:
        """Returns the return and the moment at which the task was solved."""
        return {key: summary[key] for key in ("return_mean_100", "solved_at_steps")}

    def closing(self, summary: Mapping[str, Any], folder: Path) -> str:
        """Returns the last words."""
        return closing_block(summary, folder, advice=advise(self._journal.latest, also=(weights,)))
