"""Conducts one off-policy evaluation: the policy, the data, the ratios between them, the estimates, the files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig
from threadpoolctl import threadpool_limits
from torch import Tensor

from pgkit.config import build
from pgkit.core import off_policy_value as value_of
from pgkit.core.unrolling import is_recurrent
from pgkit.errors import UsageError
from pgkit.offline.advice import conclusion, doubts
from pgkit.offline.bounds import Bound, bounds
from pgkit.offline.data import load_data
from pgkit.offline.estimates import FITTED, Estimate, Question, chosen, estimates, is_tabular
from pgkit.offline.report import picture, table
from pgkit.playback import restore
from pgkit.protocols import Policy
from pgkit.rl.logged import fit_behavior, log_prob_of_logged
from pgkit.run.checkpoint import SavedPolicy, load_policy_state
from pgkit.run.closing import shorten
from pgkit.run.folder import write_bytes, write_json
from pgkit.run.trajectory_files import SavedTrajectories
from pgkit.verifying.report import console


@dataclass(frozen=True, kw_only=True)
class Material:
    """What an evaluation reads: the target policy and how it was saved, and the logged episodes."""

    policy: Any
    saved: SavedPolicy
    data: SavedTrajectories


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What came of an evaluation."""

    estimates: Sequence[Estimate]
    bounds: Sequence[Bound]
    missing: value_of.MissingMass
    logged_return: float
    behavior_log_likelihood: float | None
    """Nats a step that a fitted behaviour model reaches on episodes held out; None where it was logged."""


def prepare(config: DictConfig) -> Material:
    """Returns everything that is read, checked; nothing is written.

    Raises: UsageError for whatever cannot be valued.
    """
    trusted = list(config.trusted_packages)
    saved = load_policy_state(Path(config.run) / "checkpoints" / "last")
    data = load_data(config.data, saved)
    if config.behavior_policy == "logged" and not data.has_log_prob:
        raise UsageError(
            f"data: {config.data} has no log-probabilities of the policy that acted, expected them, or"
            " behavior_policy=fitted, which fits a model of that policy and says so"
        )
    material = Material(policy=restore(saved, trusted=trusted), saved=saved, data=data)
    if config.behavior_policy == "logged":
        _log_ratio(material, data.trajectories.behavior_log_prob)
    elif is_recurrent(material.policy):
        raise UsageError("behavior_policy: fitted in the form of a policy that has a memory, expected logged")
    names = _names(config, material)
    if data.trajectories.num_columns < 2 and set(names) & set(FITTED):
        raise UsageError("data: a single episode, expected two or more, or estimators=[trajectory,per_decision]")
    if config.return_range is not None and (len(config.return_range) != 2 or not np.less(*config.return_range)):
        raise UsageError(f"return_range: {list(config.return_range)}, expected [lowest,highest]")
    return material


def answer(config: DictConfig, material: Material) -> Answer:
    """Returns the estimates and the bounds.

    Raises: UsageError where a range that was given does not hold the data.
    """
    batch = material.data.trajectories
    reached, log_behavior = None, batch.behavior_log_prob
    if config.behavior_policy == "fitted":
        reached, log_behavior = _fitted_behavior(config, material)
    question = _question(config, material, _log_ratio(material, log_behavior))
    names = _names(config, material)
    found = bounds(question, return_range=config.return_range, weight_limit=config.weight_limit)
    lines = estimates(question, names)
    if reached is not None:
        lines = [replace(line, bias="of the model") for line in lines]
    return Answer(
        estimates=lines,
        bounds=found,
        missing=value_of.missing_mass(question.log_ratio, batch.mask),
        logged_return=float(value_of.discounted_returns(batch.rewards, batch.mask, gamma=config.gamma).mean()),
        behavior_log_likelihood=reached,
    )


def conduct(config: DictConfig, folder: Path) -> None:
    """Values the policy, prints the table and writes `offline.json` and `offline.png` into `folder`."""
    material = prepare(config)
    # Batches are small: a second thread costs more than it gives, and other runs share the machine.
    with threadpool_limits(limits=1):
        found = answer(config, material)
    out = console()
    batch = material.data.trajectories
    fitted = found.behavior_log_likelihood is not None
    behavior = "fitted by maximum likelihood, not logged" if fitted else "logged"
    head = (
        f"{config.run} on {material.data.source}: {batch.num_columns:,} episodes, {int(batch.mask.sum()):,} steps,"
        f" mean return {found.logged_return:.4g}, gamma {config.gamma:g}, behaviour {behavior}"
    )
    said = conclusion(found.estimates, found.missing, fitted=fitted)
    write_json(folder / "offline.json", _as_json(config, material, found, said))
    drawing = picture(
        found.estimates, found.bounds, found.missing, title=_title(config, material, behavior),
        logged_return=found.logged_return, confidence=config.confidence,
    )  # fmt: skip
    out.print(head, highlight=False, markup=False)
    out.print(table(found.estimates, found.bounds, found.missing, confidence=config.confidence))
    for sentence in said:
        out.print(sentence, highlight=False, markup=False)
    places = [shorten(folder / "offline.json")]
    if drawing is not None:
        write_bytes(folder / "offline.png", drawing)
        places.append(shorten(folder / "offline.png"))
    out.print(f"written to {' and '.join(places)}", highlight=False, markup=False)
    if drawing is None:
        out.print("no picture: matplotlib is not installed; pip install 'pgkit[plots]'", highlight=False, markup=False)


def _names(config: DictConfig, material: Material) -> list[str]:
    """Returns the names of the estimators that are asked for."""
    return chosen(config.estimators, tabular=is_tabular(material.data), memory=is_recurrent(material.policy))


def _question(config: DictConfig, material: Material, log_ratio: Tensor) -> Question:
    return Question(
        saved=material.data, log_ratio=log_ratio, policy=material.policy, gamma=config.gamma,
        confidence=config.confidence, resamples=config.resamples, folds=config.folds, fit_steps=config.fit_steps,
        seed=config.seed,
    )  # fmt: skip


def _log_ratio(material: Material, log_behavior: Tensor) -> Tensor:
    batch = material.data.trajectories
    return value_of.step_log_ratios(log_prob_of_logged(material.policy, batch), log_behavior, batch.mask)


def _fitted_behavior(config: DictConfig, material: Material) -> tuple[float, Tensor]:
    """Returns the held-out likelihood of a behaviour model in nats a step, and its log-probabilities `[T, N]`."""
    generator = np.random.default_rng([config.seed, 1])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(generator.integers(2**31)))
        model: Any = build(
            material.saved.config,
            expects=Policy,
            trusted=list(config.trusted_packages),
            observation_space=material.saved.observation_space,
            action_space=material.saved.action_space,
        )
    reached = fit_behavior(model, material.data.trajectories, generator=generator)
    return reached, log_prob_of_logged(model, material.data.trajectories)


def _title(config: DictConfig, material: Material, behavior: str) -> str:
    batch = material.data.trajectories
    of = f"valued on {batch.num_columns:,} episodes of {material.data.source}, behaviour {behavior}"
    return f"{shorten(Path(config.run))}\n{of}"


def _as_json(config: DictConfig, material: Material, found: Answer, said: Sequence[str]) -> dict[str, Any]:
    batch = material.data.trajectories
    return {
        "run": config.run,
        "data": {
            "from": config.data,
            "source": material.data.source,
            "episodes": batch.num_columns,
            "steps": int(batch.mask.sum()),
            "mean_return": found.logged_return,
        },
        "gamma": config.gamma,
        "confidence": config.confidence,
        "resamples": config.resamples,
        "folds": config.folds,
        "seed": config.seed,
        "behavior_policy": config.behavior_policy,
        "behavior_log_likelihood": found.behavior_log_likelihood,
        "missing_mass": {**asdict(found.missing), "evident": found.missing.is_evident},
        "estimates": [{**asdict(line), "doubts": doubts(line, found.missing)} for line in found.estimates],
        "bounds": [asdict(bound) for bound in found.bounds],
        "advice": list(said),
    }
