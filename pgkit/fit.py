"""`python -m pgkit.fit problem=conjugate_gaussian estimator=pathwise`: SGD with any gradient estimator."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pgkit.app import run_app

# Heavy imports come inside functions: a typing mistake is answered before torch is loaded.
if TYPE_CHECKING:
    from omegaconf import DictConfig

    from pgkit.fitting import FitParts
    from pgkit.run.fit_journal import FitJournal
    from pgkit.run.interrupts import Interrupts


def descend(
    parts: FitParts,
    journal: FitJournal,
    interrupts: Interrupts,
    *,
    total_samples: int,
    num_samples: int,
    objective_every: int,
    stop_at_target: bool,
) -> None:
    """Takes steps along estimated gradients until the samples are spent, the target is reached (if asked to) or
    someone interrupts.

    With `estimator=score` it is stochastic gradient descent by the score function, with `estimator=pathwise` by
    reparameterisation; the loop is the same for every estimator.
    """
    problem, parameters = parts.problem, parts.values
    while journal.samples < total_samples and not interrupts.requested:
        expectation = problem.minibatch(parameters, parts.minibatches)
        estimate = parts.estimator.estimate(expectation, parameters, num_samples=num_samples, generator=parts.noise)
        metrics = parts.ascent.step(estimate, progress=journal.samples / total_samples)
        last = journal.samples + num_samples >= total_samples
        due = last or (journal.updates + 1) % objective_every == 0
        measured = (problem.objective(parameters), problem.distance(parameters)) if due else None
        journal.write(drawn=num_samples, measured=measured, metrics={**estimate.metrics, **metrics})
        if stop_at_target and journal.samples_to_target is not None:
            break


def rehearse(config: DictConfig, trusted: tuple[str, ...]) -> None:
    """Builds everything once and takes one estimate, before anything is written.

    Raises: UsageError for whatever does not work, such as a pathwise estimator of a discrete law.
    """
    from pgkit.fitting import assemble, trial

    parts = assemble(config)
    try:
        trial(parts, num_samples=config.num_samples)
    finally:
        parts.problem.close()


def run(config: DictConfig, folder: Path) -> None:
    """Fits the parameters of one problem and saves the run in `folder`.

    Raises: RunFault or UsageError, with everything so far written; KeyboardInterrupt after an interrupted run.
    """
    from pgkit.fitting import conduct

    conduct(config, folder, descend)


def main() -> None:
    """The console script `pgkit-fit`."""
    run_app("fit", dry=rehearse, task=run)


if __name__ == "__main__":
    main()
