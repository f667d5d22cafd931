"""Conducts one training run: the folder, the loggers, the loop, the evaluation, the summary."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from threadpoolctl import threadpool_limits

from pgkit.assemble import Parts, assemble
from pgkit.config import build
from pgkit.errors import RunFault
from pgkit.loggers.group import LoggerGroup
from pgkit.playback import pausing_lanes, play_both
from pgkit.protocols import Logger
from pgkit.run import journal as journals
from pgkit.run.checkpoint import SavedPolicy, save_policy
from pgkit.run.closing import closing_block, header_line
from pgkit.run.folder import RunFolder, write_json
from pgkit.run.interrupts import Interrupts
from pgkit.run.journal import Journal
from pgkit.run.progress import Progress
from pgkit.run.record import Clock, EpisodeRecord
from pgkit.run.seeds import draw_seeds
from pgkit.run.summary import build_summary

Learn = Callable[..., None]


def conduct(config: DictConfig, path: Path, learn: Learn) -> None:
    """Runs `learn` from start to summary in the folder `path`; whatever happens, what there is gets written.

    Raises: what `learn` raises; KeyboardInterrupt after an interrupted run.
    """
    # One thread a run, in torch and in numpy alike: small matrices gain nothing from more, and a second core can run
    # a second seed.
    torch.set_num_threads(1)
    parts = assemble(config)
    with threadpool_limits(limits=1), RunFolder(path) as folder, Interrupts() as interrupts:
        progress = Progress(total_steps=config.total_steps, goal=parts.lanes.reward_threshold)
        loggers = LoggerGroup(_loggers(config, folder.path, parts), warn=progress.print)
        clock = Clock()
        journal = Journal(
            loggers=loggers,
            progress=progress,
            record=EpisodeRecord(reward_threshold=parts.lanes.reward_threshold),
            clock=clock,
        )
        choices = {str(group): choice for group, choice in HydraConfig.get().runtime.choices.items()}
        groups = {group: choice for group, choice in choices.items() if not group.startswith("hydra/")}
        loggers.start({**groups, **flatten(OmegaConf.to_container(config))}, overridden=_overridden())
        status, evaluation = "failed", None
        try:
            with progress:
                progress.print(_header(config, folder, parts))
                clock.start()
                parts.collector.start(draw_seeds(parts.streams.environments, parts.lanes.num_lanes))
                try:
                    learn(
                        parts,
                        journal,
                        interrupts,
                        total_steps=config.total_steps,
                        stop_when_solved=config.stop_when_solved,
                    )
                finally:
                    clock.stop()
                status = "interrupted" if interrupts.requested else "finished"
            if status == "finished":
                evaluation = evaluate(config, parts, progress)
        except KeyboardInterrupt:
            status = "interrupted"
            raise
        finally:
            parts.lanes.close()
            _save(config, folder, parts)
            summary = _summary(config, parts, journal, status, evaluation)
            write_json(folder.summary, summary)
            loggers.finish({key: summary[key] for key in ("return_mean_100", "solved_at_steps")}, status=status)
            loggers.close()
            progress.print(closing_block(summary, folder.path))
    if status == "interrupted":
        raise KeyboardInterrupt


def evaluate(config: DictConfig, parts: Parts, progress: Progress) -> dict[str, Any] | None:
    """Returns the statistics of the final policy, deterministic and stochastic, on lanes of their own; None if none."""
    if config.evaluation.episodes == 0:
        return None
    trusted = list(config.trusted_packages)
    lanes = pausing_lanes(config["env"], num_envs=config.evaluation.num_envs, trusted=trusted)
    try:
        return play_both(parts.policy, lanes, episodes=config.evaluation.episodes, streams=parts.streams)
    except RunFault as fault:
        progress.print(f"no evaluation: {fault}")
        return None
    finally:
        lanes.close()


def flatten(tree: Any, prefix: str = "") -> dict[str, Any]:
    """Returns a nested mapping as one level with dotted keys."""
    if not isinstance(tree, dict):
        return {prefix: tree}
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= flatten(value, f"{prefix}.{key}" if prefix else str(key))
    return flat


def _loggers(config: DictConfig, folder: Path, parts: Parts) -> list[Logger]:
    instruments = (tag for diagnostic in parts.diagnostics.values() for tag in diagnostic.tags)
    tags = list(dict.fromkeys((*journals.TAGS, *parts.update.tags, *parts.critic.tags, *instruments)))
    trusted = list(config.trusted_packages)
    return [build(node, expects=Logger, trusted=trusted, folder=folder, tags=tags) for node in config.logger.values()]


def _header(config: DictConfig, folder: RunFolder, parts: Parts) -> str:
    return header_line(
        env=config.env.id,
        agent=HydraConfig.get().runtime.choices["agent"],
        vectorization=parts.lanes.vectorization,
        num_lanes=parts.lanes.num_lanes,
        num_parameters=parts.num_parameters,
        folder=folder.path,
    )


def _overridden() -> list[str]:
    """Returns the keys that this run's command line set."""
    return [line.lstrip("+~").partition("=")[0] for line in HydraConfig.get().overrides.task]


def _save(config: DictConfig, folder: RunFolder, parts: Parts) -> None:
    node = OmegaConf.to_container(config["policy"])
    save_policy(
        folder.checkpoints / "last",
        SavedPolicy(
            config=node if isinstance(node, dict) else {},  # type: ignore[arg-type]  # keys are strings
            observation_space=parts.lanes.observation_space,
            action_space=parts.lanes.action_space,
            tensors=parts.policy.state_dict(),
        ),
    )


def _summary(
    config: DictConfig, parts: Parts, journal: Journal, status: str, evaluation: dict[str, Any] | None
) -> dict[str, Any]:
    return build_summary(
        status=status,
        env=config.env.id,
        agent=HydraConfig.get().runtime.choices["agent"],
        seed=config.seed,
        env_steps=journal.env_steps,
        discarded_steps=journal.discarded_steps,
        updates=journal.updates,
        record=journal.record,
        clock=journal.clock,
        evaluation=evaluation,
        gradient=journal.gradient,
        metrics_incomplete=journal.loggers.incomplete,
    )
