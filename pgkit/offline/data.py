"""Where logged episodes come from: a file, the folder of a run, or Minari; and whether they can be used."""

from __future__ import annotations

from pathlib import Path

import torch

from pgkit.errors import UsageError
from pgkit.offline.minari_data import PREFIX, load_minari
from pgkit.run.checkpoint import SavedPolicy
from pgkit.run.trajectory_files import SavedTrajectories, find_trajectories, joined, load_trajectories

HOW = "python -m pgkit.evaluate run=… trajectories=NAME.safetensors makes one"


def load_data(data: str, policy: SavedPolicy) -> SavedTrajectories:
    """Returns the whole episodes that `data` stands for, in the spaces of the policy.

    Raises: UsageError where there are none, or none that could be valued.
    """
    if data.startswith(PREFIX):
        saved = load_minari(data.removeprefix(PREFIX), policy.observation_space, policy.action_space)
    else:
        saved = _from_disk(Path(data))
        saved.expect_spaces(policy.observation_space, policy.action_space, of=f"the policy in {policy.path}")
    batch = saved.trajectories
    if not batch.mask.any():
        raise UsageError(f"data: {data} holds no step, expected at least one episode")
    if not batch.whole_episodes:
        raise UsageError(f"data: {data} holds episodes that a slab of steps cut, expected whole ones")
    if not torch.isfinite(batch.rewards[batch.mask]).all():
        raise UsageError(f"data: {data} holds rewards that are nan or inf, expected finite ones")
    return saved


def _from_disk(path: Path) -> SavedTrajectories:
    if not path.exists():
        raise UsageError(f"data: {path} is not there, expected a file of trajectories or a run that has some; {HOW}")
    if path.is_file():
        return load_trajectories(path)
    found = find_trajectories(path)
    if not found:
        raise UsageError(f"data: {path} holds no file of trajectories, expected at least one; {HOW}")
    return joined([load_trajectories(file) for file in found])
