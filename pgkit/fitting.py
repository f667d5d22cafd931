"""From a checked configuration to the parts of a fit, and from there to its summary."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import safetensors.torch
import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig
from torch import Tensor

from pgkit.conduct import overridden, settings
from pgkit.config import build
from pgkit.errors import UsageError
from pgkit.problems.base import Problem
from pgkit.protocols import Baseline, GradientEstimator, Logger
from pgkit.run import fit_journal
from pgkit.run.closing import fit_closing_block, fit_header_line
from pgkit.run.fit_journal import FitJournal
from pgkit.run.folder import write_bytes
from pgkit.run.progress import Progress
from pgkit.run.seeds import Streams, draw_seed
from pgkit.run.session import Job, Session, hold
from pgkit.run.summary import build_fit_summary
from pgkit.types import GradientEstimate
from pgkit.updates import ascent
from pgkit.updates.ascent import Ascent

Descend = Callable[..., None]


@dataclass(frozen=True, kw_only=True)
class FitParts:
    """Everything that a fit is made of; `values` are the parameters as estimators see them, without gradients."""

    problem: Problem
    estimator: GradientEstimator
    ascent: Ascent
    values: dict[str, Tensor]
    noise: torch.Generator
    minibatches: torch.Generator


def assemble(config: DictConfig) -> FitParts:
    """Returns the parts of a fit, new; nothing has been started and nothing has been written.

    Raises: UsageError for whatever a part does not accept, and for parts that do not fit each other.
    """
    trusted = list(config.trusted_packages)
    streams = Streams.from_seed(config.seed)
    problem: Problem = build(config["problem"], expects=Problem, trusted=trusted)
    baseline: Baseline = build(config["baseline"], expects=Baseline, trusted=trusted)
    if baseline.needs_values:
        raise UsageError(f"baseline: {type(baseline).__name__}, expected one that needs no critic, as leave_one_out")
    estimator: GradientEstimator = build(
        config["estimator"], expects=GradientEstimator, trusted=trusted, baseline=baseline
    )
    if problem.maximise and getattr(estimator, "best", "highest") == "lowest":
        raise UsageError("estimator.best: lowest for an objective that is maximised, expected highest")
    leaves = {name: torch.nn.Parameter(value) for name, value in problem.parameters().items()}
    optimizer = build(config["optimizer"], expects=torch.optim.Optimizer, trusted=trusted, params=list(leaves.items()))
    return FitParts(
        problem=problem,
        estimator=estimator,
        ascent=Ascent(
            optimizer=optimizer,
            parameters=leaves,
            maximise=problem.maximise,
            max_grad_norm=config.max_grad_norm,
            schedule=config.schedule,
        ),
        values={name: leaf.detach() for name, leaf in leaves.items()},
        noise=torch.Generator().manual_seed(draw_seed(streams.samples)),
        minibatches=torch.Generator().manual_seed(draw_seed(streams.minibatches)),
    )


def trial(parts: FitParts, *, num_samples: int) -> GradientEstimate:
    """Returns one estimate at the start, by a copy of the estimator and noise of its own: it changes nothing.

    Raises: UsageError where the estimator does not fit the problem.
    """
    generator = torch.Generator().manual_seed(0)
    expectation = parts.problem.minibatch(parts.values, generator)
    parts.estimator.accepts(expectation, parts.values)
    estimator = copy.deepcopy(parts.estimator)
    return estimator.estimate(expectation, parts.values, num_samples=num_samples, generator=generator)


def conduct(config: DictConfig, path: Path, descend: Descend) -> None:
    """Runs `descend` from start to summary in the folder `path`; whatever happens, what there is gets written.

    Raises: what `descend` raises; KeyboardInterrupt after an interrupted run.
    """
    hold(lambda: _Fitting(config, descend), path, settings=settings(config), overridden=overridden())


@final
class _Fitting(Job):
    """One fit."""

    def __init__(self, config: DictConfig, descend: Descend) -> None:
        self._config, self._descend = config, descend
        self._parts = assemble(config)
        # What an estimator counts on its way is known once it has estimated something.
        self._counted = tuple(trial(self._parts, num_samples=config.num_samples).metrics)

    def progress(self) -> Progress:
        """Returns the view of samples and of the distance to the answer, or of the objective where none is known."""
        problem = self._parts.problem
        known = problem.distance(self._parts.values) is not None
        return Progress(
            total=self._config.total_samples,
            goal=problem.target,
            unit="samples",
            outcome="distance" if known else "objective",
        )

    def loggers(self, folder: Path) -> list[Logger]:
        """Returns the loggers, told of every tag that the fit may report."""
        tags = list(dict.fromkeys((*fit_journal.TAGS, *ascent.TAGS, *self._counted)))
        trusted = list(self._config.trusted_packages)
        return [
            build(node, expects=Logger, trusted=trusted, folder=folder, tags=tags, axis="samples")
            for node in self._config.logger.values()
        ]

    def begin(self, session: Session) -> str:
        """Opens the journal and returns the header."""
        problem = self._parts.problem
        self._journal = FitJournal(
            loggers=session.loggers,
            progress=session.progress,
            clock=session.clock,
            target=problem.target,
            maximise=problem.maximise,
        )
        return fit_header_line(
            choices=self._choices(),
            num_parameters=sum(value.numel() for value in self._parts.values.values()),
            folder=session.folder.path,
        )

    def work(self, session: Session) -> None:
        """Fits."""
        config = self._config
        self._descend(
            self._parts,
            self._journal,
            session.interrupts,
            total_samples=config.total_samples,
            num_samples=config.num_samples,
            objective_every=config.objective_every,
            stop_at_target=config.stop_at_target,
        )

    def evaluate(self, session: Session) -> None:
        """Nothing more to measure: the journal looked at the last parameters."""

    def close(self, session: Session) -> None:
        """Closes what the problem started and saves the parameters, tensors by name."""
        self._parts.problem.close()
        session.folder.checkpoints.mkdir(exist_ok=True)
        tensors = {name: value.clone().contiguous() for name, value in self._parts.values.items()}
        write_bytes(session.folder.checkpoints / "parameters.safetensors", safetensors.torch.save(tensors))

    def summary(self, session: Session) -> dict[str, Any]:
        """Returns what came of the fit."""
        config, journal = self._config, self._journal
        return build_fit_summary(
            status=session.status,
            choices=self._choices(),
            seed=config.seed,
            num_samples=config.num_samples,
            journal=journal,
            clock=session.clock,
            unbiased=self._parts.estimator.unbiased and config.max_grad_norm is None,
            metrics_incomplete=session.loggers.incomplete,
        )

    def results(self, summary: Mapping[str, Any]) -> dict[str, float | None]:
        """Returns the objective, and the samples that it took to the target."""
        return {key: summary[key] for key in ("objective", "samples_to_target")}

    def closing(self, summary: Mapping[str, Any], folder: Path) -> str:
        """Returns the last words."""
        return fit_closing_block(summary, folder)

    def _choices(self) -> dict[str, str]:
        chosen = HydraConfig.get().runtime.choices
        return {group: str(chosen[group]) for group in ("problem", "estimator", "baseline", "optimizer")}
