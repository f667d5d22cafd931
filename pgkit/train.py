"""`python -m pgkit.train env=CartPole agent=reinforce`: the training loop, and what surrounds it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pgkit.app import run_app

# Heavy imports come inside functions: a typing mistake is answered before torch is loaded.
if TYPE_CHECKING:
    from omegaconf import DictConfig

    from pgkit.assemble import Parts
    from pgkit.rl.collect import Batch
    from pgkit.run.interrupts import Ending
    from pgkit.run.journal import Journal


def learn(
    parts: Parts, journal: Journal, interrupts: Ending, *, total_steps: int, stop_when_solved: bool = False
) -> None:
    """Trains until `total_steps` environment steps were made, the task is solved (if asked to) or someone interrupts.

    One turn of the loop is the walk of one batch, in the order in which things are read and only then learnt from.
    """
    from pgkit.rl.factors import factors_of
    from pgkit.rl.objective import PolicyObjective, correction_of
    from pgkit.run.instruments import Instruments

    policy, critic, returns, baseline, update = (
        parts.policy, parts.critic, parts.returns, parts.baseline, parts.update
    )  # fmt: skip
    estimator = parts.estimator
    instruments = Instruments(
        parts.diagnostics, policy, estimator=estimator, coupling=parts.coupling, update=update, weights=parts.weights,
        groups_apart=parts.groups_apart,
    )  # fmt: skip

    def walk(batch: Batch) -> None:
        """Learns from one batch, of which nothing is left in memory when the next one is collected."""
        journal.collected(batch)
        trajectories = parts.reuse.extend(batch.trajectories, parts.behavior.acting())
        factors = factors_of(
            trajectories, policy=policy, critic=critic, weights=parts.weights, returns=returns, estimator=estimator,
            simulator=parts.simulator,
        )  # fmt: skip
        reference = baseline.value(factors)
        coefficients = estimator.coefficients(factors, reference)
        with journal.diagnosing():
            instruments.before(journal.updates, policy)
        objective = PolicyObjective(
            policy=policy,
            trajectories=trajectories,
            factors=factors,
            coefficients=coefficients,
            correction=correction_of(estimator, factors, coefficients),
            terms=estimator.terms,
            average=update.average,
            entropy_coefficient=update.entropy_coefficient,
        )
        metrics: dict[str, Any] = parts.reuse.metrics() | parts.behavior.learn(trajectories, factors, coefficients)
        metrics |= update.step(parts.shared(objective), progress=min(1.0, journal.env_steps / total_steps))
        baseline.update(factors)
        metrics |= critic.update(trajectories, factors.goals, factors.mask, factors.fit_weight)
        policy.update(batch.trajectories.rows())
        returns.update(batch.trajectories)
        with journal.diagnosing():
            metrics |= instruments.after(trajectories, factors, reference, coefficients, policy)
        journal.write(batch, metrics)

    act = parts.behavior.actor()
    while journal.env_steps < total_steps and not interrupts.requested:
        walk(parts.collector.collect(act, policy.law, parts.streams.policy))
        if stop_when_solved and journal.record.solved:
            break


def rehearse(config: DictConfig, trusted: tuple[str, ...]) -> None:
    """Builds everything once and tries the environment, before anything is written.

    Raises: UsageError for whatever does not work.
    """
    from pgkit.assemble import assemble
    from pgkit.run.world import World

    assemble(config, World()).lanes.probe()


def run(config: DictConfig, folder: Path) -> None:
    """Trains, evaluates and saves one run in `folder`.

    Raises: RunFault or UsageError, with everything so far written; KeyboardInterrupt after an interrupted run.
    """
    from pgkit.conduct import conduct

    conduct(config, folder, learn)


def main() -> None:
    """The console script `pgkit-train`."""
    run_app("train", dry=rehearse, task=run)


if __name__ == "__main__":
    main()
