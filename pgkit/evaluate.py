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
    from pgkit.types import Trajectories


def rehearse(config: DictConfig, trusted: tuple[str, ...]) -> None:
    """Loads everything once, before anything is written.

    Raises: UsageError for a run that cannot be played back.
    """
    if config.episodes < 1 or config.num_envs < 1 or config.episodes % config.num_envs:
        raise UsageError(f"episodes: {config.episodes}, expected a multiple of num_envs={config.num_envs}")
    if config.trajectories is not None:
        from pgkit.run.trajectory_files import writable_path

        writable_path(config.trajectories)
    _load(config)[1].close()


def run(config: DictConfig, folder: Path) -> None:
    """Plays the policy deterministically and stochastically, writes `evaluation.json` and prints both.

    `trajectories=path.safetensors` keeps the episodes of the stochastic policy, as data for `pgkit.evaluate_offline`.
    Raises: RunFault where an episode does not end.
    """
    from pgkit.playback import play_both
    from pgkit.run.closing import evaluation_line, shorten
    from pgkit.run.folder import write_json
    from pgkit.run.output import Output
    from pgkit.run.seeds import Streams
    from pgkit.run.trajectory_files import SavedTrajectories, save_trajectories

    policy, lanes = _load(config)
    kept: list[Trajectories] = []
    try:
        streams = Streams.from_seed(config.seed)
        results = play_both(policy, lanes, episodes=config.episodes, streams=streams, keep=kept.append)
    finally:
        lanes.close()
    write_json(folder / "evaluation.json", {"run": config.run, "seed": config.seed, **results})
    lines = [evaluation_line(name, result) for name, result in results.items()]
    if config.trajectories is not None:
        saved = SavedTrajectories(
            trajectories=kept[0],
            observation_space=lanes.observation_space,
            action_space=lanes.action_space,
            source=config.run,
        )
        lines.append(f"trajectories in {shorten(save_trajectories(config.trajectories, saved))}")
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
