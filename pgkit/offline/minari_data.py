"""Episodes of a Minari data set, which is asked for by its name and is an extra of its own."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces

from pgkit.core.spaces import leaves
from pgkit.errors import UsageError
from pgkit.run.trajectory_files import SavedTrajectories
from pgkit.types import Observations, Trajectories

PREFIX = "minari:"


def load_minari(
    name: str, observation_space: gym.Space[Any], action_space: gym.Space[Any], *, log_prob_key: str = "log_prob"
) -> SavedTrajectories:
    """Returns every episode of a local Minari data set; `infos[log_prob_key]` is log μ where the data set has it.

    Nothing is downloaded: `minari download NAME` does that. Actions are those that the environment was given.
    Raises: UsageError where Minari or the data set is missing, or has other spaces.
    """
    try:
        minari = importlib.import_module("minari")
    except ImportError:
        raise UsageError("data: minari is not installed, expected the extra: pip install 'pgkit[minari]'") from None
    try:
        dataset = minari.load_dataset(name)
    except (OSError, ValueError, KeyError, gym.error.Error) as error:
        said = " ".join(str(error).split()).rstrip(".")
        raise UsageError(f"data: {PREFIX}{name}: {said}, expected a data set that `minari list local` names") from None
    found = {
        "observation": (dataset.observation_space, observation_space),
        "action": (dataset.action_space, action_space),
    }
    for kind, (here, expected) in found.items():
        if here != expected:
            raise UsageError(f"data: {PREFIX}{name}: {kind} space {here}, expected that of the policy, {expected}")
    episodes = list(dataset.iterate_episodes())
    if not episodes:
        raise UsageError(f"data: {PREFIX}{name} holds no episode, expected at least one")
    return SavedTrajectories(
        trajectories=_batch(episodes, observation_space, action_space, log_prob_key),
        observation_space=observation_space,
        action_space=action_space,
        source=f"{PREFIX}{name}",
    )


def _batch(
    episodes: Sequence[Any], observation_space: gym.Space[Any], action_space: gym.Space[Any], log_prob_key: str
) -> Trajectories:
    lengths = np.array([len(episode.rewards) for episode in episodes])
    time = np.arange(lengths.max())[:, None]
    mask = torch.from_numpy(time < lengths)
    last = torch.from_numpy(time == lengths - 1)
    terminated = _columns([np.asarray(episode.terminations, bool) for episode in episodes]) & mask
    actions = _columns([np.asarray(episode.actions) for episode in episodes])
    if isinstance(action_space, spaces.Discrete):
        actions = actions.long() - int(action_space.start)  # policies count from 0
    logged = [(episode.infos or {}).get(log_prob_key) for episode in episodes]
    complete = all(each is not None for each in logged)
    # Infos have an entry for the reset too: that of the action taken at row t came with its step, at t + 1.
    log_prob = (
        _columns([np.asarray(each, float)[-length:] for each, length in zip(logged, lengths, strict=True)])
        if complete
        else torch.full(mask.shape, torch.nan, dtype=torch.float64)
    )
    return Trajectories(
        obs=_observations(episodes, observation_space),
        actions=actions,
        rewards=_columns([np.asarray(episode.rewards, float) for episode in episodes]),
        behavior_log_prob=log_prob,
        behavior_id=torch.zeros(len(episodes), dtype=torch.long),
        terminated=terminated & last,
        truncated=last & ~terminated,
        starts=torch.from_numpy(np.broadcast_to(time == 0, mask.shape).copy()),
        mask=mask,
        lane=torch.zeros(len(episodes), dtype=torch.long),
        whole_episodes=True,
    )


def _observations(episodes: Sequence[Any], space: gym.Space[Any]) -> Observations:
    names = leaves(space)
    if list(names) == [""]:
        return _columns([np.asarray(episode.observations) for episode in episodes])
    return {name: _columns([_part(episode.observations, name) for episode in episodes]) for name in names}


def _part(observations: Any, name: str) -> np.ndarray:
    """Returns one leaf of the observations of an episode, as `leaves` names it."""
    for key in name.split("/"):
        observations = observations[int(key)] if isinstance(observations, tuple) else observations[key]
    return np.asarray(observations)


def _columns(arrays: Sequence[np.ndarray]) -> torch.Tensor:
    """Returns arrays of several lengths side by side, each padded with its last row."""
    length = max(len(array) for array in arrays)
    rows = [np.minimum(np.arange(length), len(array) - 1) for array in arrays]
    return torch.from_numpy(np.stack([array[row] for array, row in zip(arrays, rows, strict=True)], axis=1))
