"""What is regressed on: numbers that describe a state, and a state with an action."""

from __future__ import annotations

import torch
from torch import Tensor

from pgkit.core.recursions import episode_time
from pgkit.snapshot import Snapshot
from pgkit.types import Observations, Trajectories

MOST = 128
"""Features in one fit."""
ALWAYS = 3
"""Features of every state: 1, the time, the critic's value."""


def state_features(snapshot: Snapshot, *, most: int) -> Tensor:
    """Returns features `[T+1, N, D]` in double: 1, the time, the critic's value, and the observation; standardised.

    Whole numbers that take few values become one-hot, others come with their squares and products. Where there would be
    more than `most`, the products are left out, and then the observations.
    """
    trajectories, values = snapshot.trajectories, snapshot.factors.values
    assert values is not None
    time = steps_behind(trajectories)
    parts = [torch.ones_like(time)[..., None], time[..., None], values.double()[..., None]]
    named = trajectories.obs if isinstance(trajectories.obs, dict) else {"": trajectories.obs}
    seen = _standardised(torch.cat([_encoded(each) for each in named.values()], dim=2), trajectories.mask)
    room, width = min(most, MOST) - len(parts), seen.shape[2]
    if width <= room:
        parts.append(seen)
    if width * (width + 3) // 2 <= room and any(each.dtype.is_floating_point for each in named.values()):
        first, second = torch.triu_indices(width, width, device=seen.device)
        parts.append(seen[..., first] * seen[..., second])
    features = _standardised(torch.cat(parts, dim=2), trajectories.mask)
    features[..., 0] = 1.0
    return features


def described_actions(actions: Tensor) -> Tensor:
    """Returns numbers `[T, N, A]` that describe actions: choices are one-hot, another one 1, itself and its square."""
    if not actions.dtype.is_floating_point:
        return _encoded(actions)
    flat = actions.flatten(2).double() if actions.dim() > 2 else actions.double()[..., None]
    return torch.cat([torch.ones_like(flat[..., :1]), flat, flat.square()], dim=2)


def products(features: Tensor, described: Tensor) -> Tensor:
    """Returns all products `[T, N, D A]` of what describes states and actions."""
    return (described[..., :, None] * features[..., None, :]).flatten(2)


def steps_behind(trajectories: Trajectories) -> Tensor:
    """Returns the number of steps since the episode began, `[T+1, N]` in double."""
    time = episode_time(trajectories.starts).double()
    return torch.cat([time, time[-1:] + 1])


def flattened(obs: Observations) -> Tensor:
    """Returns observations `[M, *obs]` as numbers `[M, …]` in double, those of a dictionary side by side."""
    named = obs if isinstance(obs, dict) else {"": obs}
    return torch.cat([each.reshape(len(each), -1).double() for each in named.values()], dim=1)


def unit_of_rewards(snapshot: Snapshot) -> float | None:
    """Returns by what the return multiplies every reward, None where it does anything else with them."""
    raw, seen = snapshot.trajectories.rewards, snapshot.factors.rewards
    assert seen is not None
    mask = snapshot.trajectories.mask
    raw, seen = raw[mask].double(), seen[mask].double()
    length = float(raw @ raw)
    unit = float(raw @ seen) / length if length > 0 else 1.0
    return unit if torch.allclose(seen, unit * raw, rtol=1e-4, atol=1e-6) else None


def _standardised(features: Tensor, mask: Tensor) -> Tensor:
    """Returns features `[T+1, N, D]` with mean 0 and deviation 1 over the valid rows, those that do not vary as 0."""
    valid = features[:-1][mask]
    mean, deviation = valid.mean(dim=0), valid.std(dim=0, correction=0)
    return (features - mean) / torch.where(deviation > 1e-9, deviation, torch.inf)


def _encoded(obs: Tensor) -> Tensor:
    """Returns numbers `[T+1, N, …]` of one array of observations."""
    flat = obs.flatten(2) if obs.dim() > 2 else obs[..., None]
    if obs.dtype.is_floating_point or flat.shape[2] > MOST:
        return flat.double()
    return torch.cat([_one_hot(each) for each in flat.unbind(dim=2)], dim=2)


def _one_hot(numbers: Tensor) -> Tensor:
    values, index = torch.unique(numbers, return_inverse=True)
    if len(values) > MOST:
        return numbers.double()[..., None]
    return torch.eye(len(values), dtype=torch.float64, device=index.device)[index]
