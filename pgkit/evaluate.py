"""`python -m pgkit.evaluate run=runs/… episodes=100`: plays back what a run learnt."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from pgkit.app import run_app
from pgkit.errors import UsageError

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from pgkit.rl.lanes import Lanes


def rehearse(config: DictConfig, trusted: tuple[str, ...]) -> None:
    """Loads everything once, before anything is written.

    Raises: UsageError for a run that cannot be played back.
    """
    if config.episodes < 1 or config.num_envs < 1 or config.episodes % config.num_envs:
        raise UsageError(f"episodes: {config.episodes}, expected a multiple of num_envs={config.num_envs}")
    _load(config)[1].close()


def run(config: DictConfig, folder: Path) -> None:
    """Plays the policy deterministically and stochastically, writes `evaluation.json` and prints both.

    Raises: RunFault where an episode does not end.
    """
    from pgkit.playback import play_both
    from pgkit.run.closing import evaluation_line, shorten
    from pgkit.run.folder import write_json
    from pgkit.run.output import Output
    from pgkit.run.seeds import Streams

    policy, lanes = _load(config)
    try:
        results = play_both(policy, lanes, episodes=config.episodes, streams=Streams.from_seed(config.seed))
    finally:
        lanes.close()
    write_json(folder / "evaluation.json", {"run": config.run, "seed": config.seed, **results})
    lines = [evaluation_line(name, result) for name, result in results.items()]
    out = Output(sys.stdout)
    out.write("\n".join([*lines, f"written to {shorten(folder / 'evaluation.json')}\n"]))
    out.flush()


def _load(config: DictConfig) -> tuple[object, Lanes]:
    from pgkit.playback import lanes_of, restore
    from pgkit.run.checkpoint import load_policy_state

    folder, trusted = Path(config.run), list(config.trusted_packages)
    saved = load_policy_state(folder / "checkpoints" / "last")
    lanes = lanes_of(folder, num_envs=config.num_envs, trusted=trusted)
    saved.expect_spaces(lanes.observation_space, lanes.action_space)
    return restore(saved, trusted=trusted), lanes


def main() -> None:
    """The console script `pgkit-evaluate`."""
    run_app("evaluate", dry=rehearse, task=run)


if __name__ == "__main__":
    main()
