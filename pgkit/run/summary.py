"""The result of a run as `summary.json` states it."""

from __future__ import annotations

import math
import platform
from collections.abc import Mapping
from importlib import metadata
from typing import Any

import pgkit
from pgkit.run.fit_journal import FitJournal
from pgkit.run.record import Clock, EpisodeRecord


def build_summary(
    *,
    status: str,
    env: str,
    agent: str,
    seed: int,
    env_steps: int,
    discarded_steps: int,
    updates: int,
    record: EpisodeRecord,
    clock: Clock,
    evaluation: Mapping[str, Any] | None,
    gradient: Mapping[str, float | None],
    metrics_incomplete: bool,
) -> dict[str, Any]:
    """Returns the summary as plain JSON values; a number that is not finite becomes null.

    `clock` counts from the first reset to the end of the last update, `record` the finished training episodes.
    """
    seconds = clock.seconds
    summary = {
        "status": status,
        "env": env,
        "agent": agent,
        "seed": seed,
        "env_steps": env_steps,
        "discarded_steps": discarded_steps,
        "episodes": record.episodes,
        "updates": updates,
        "wall_seconds": seconds,
        "train_cpu_seconds": clock.cpu_seconds,
        "steps_per_second": env_steps / seconds if seconds > 0 else None,
        "return_mean_100": record.return_mean_100,
        "reward_threshold": record.reward_threshold,
        "solved_at_steps": record.solved_at_steps,
        "solved_at_seconds": record.solved_at_seconds,
        "solved_at_cpu_seconds": record.solved_at_cpu_seconds,
        "eval": evaluation,
        "gradient": gradient,
        "metrics_incomplete": metrics_incomplete,
        "versions": versions(),
    }
    plain: dict[str, Any] = _plain(summary)
    return plain


def build_fit_summary(
    *,
    status: str,
    choices: Mapping[str, str],
    seed: int,
    num_samples: int,
    journal: FitJournal,
    clock: Clock,
    unbiased: bool,
    metrics_incomplete: bool,
) -> dict[str, Any]:
    """Returns the summary of a fit as plain JSON values; a number that is not finite becomes null.

    `choices` name the problem, the estimator, the baseline and the optimizer. The distance is that from the exact
    answer, in the problem's own units.
    """
    seconds = clock.seconds
    summary = {
        "status": status,
        **choices,
        "seed": seed,
        "num_samples": num_samples,
        "samples": journal.samples,
        "updates": journal.updates,
        "wall_seconds": seconds,
        "fit_cpu_seconds": clock.cpu_seconds,
        "samples_per_second": journal.samples / seconds if seconds > 0 else None,
        "objective": journal.objective,
        "distance": journal.distance,
        "target": journal.target,
        "samples_to_target": journal.samples_to_target,
        "unbiased": unbiased,
        "gradient": journal.gradient,
        "metrics_incomplete": metrics_incomplete,
        "versions": versions(),
    }
    plain: dict[str, Any] = _plain(summary)
    return plain


def versions() -> dict[str, str]:
    """Returns the versions that a result depends on."""
    packages = {name: metadata.version(name) for name in ("torch", "gymnasium", "numpy")}
    return {"pgkit": pgkit.__version__, **packages, "python": platform.python_version()}


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
