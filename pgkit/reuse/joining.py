"""Several batches as one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor

from pgkit.types import Observations, Trajectories

PLAIN = ("actions", "rewards", "behavior_log_prob", "terminated", "truncated", "starts", "mask")
"""Fields that hold a number of every row."""


def joined(batches: Sequence[Trajectories], *, rows: int) -> Trajectories:
    """Returns the columns of all batches side by side, the shorter ones padded to `rows` outside the mask.

    Batches that are longer must have padding alone behind those rows. What is optional is there where all batches have
    it; policies are numbered alike in all of them, and groups anew.
    """
    plain = {name: torch.cat([_fitted(getattr(batch, name), rows) for batch in batches], dim=1) for name in PLAIN}
    return Trajectories(
        **plain,
        whole_episodes=batches[0].whole_episodes,
        obs=_side_by_side([batch.obs for batch in batches], rows + 1),
        behavior_id=torch.cat([batch.behavior_id for batch in batches]),
        lane=torch.cat([batch.lane for batch in batches]),
        log_densities=_beside([batch.log_densities for batch in batches], rows, time=1),
        age=_behind([batch.age for batch in batches]),
        group=_numbered_on([batch.group for batch in batches]),
        action_mask=_beside([batch.action_mask for batch in batches], rows, time=0),
        policy_state=_behind([batch.policy_state for batch in batches]),
    )


def state_of(trajectories: Trajectories) -> dict[str, Any]:
    """Returns the fields of a batch by name."""
    return {field.name: getattr(trajectories, field.name) for field in fields(trajectories)}


def trajectories_of(state: Mapping[str, Any]) -> Trajectories:
    """Returns the batch that `state_of` took apart."""
    return Trajectories(**state)


def _fitted(values: Tensor, rows: int, time: int = 0) -> Tensor:
    """Returns the first `rows` of the values, with rows of zeros behind them where they are fewer."""
    missing = rows - values.shape[time]
    if missing <= 0:
        return values.narrow(time, 0, rows)
    shape = list(values.shape)
    shape[time] = missing
    return torch.cat([values, values.new_zeros(shape)], dim=time)


def _side_by_side(observations: Sequence[Observations], rows: int) -> Observations:
    first = observations[0]
    if isinstance(first, dict):
        return {key: _held([each[key] for each in observations], rows) for key in first}  # type: ignore[index]  # all alike
    return _held(observations, rows)  # type: ignore[arg-type]  # all alike


def _held(observations: Sequence[Tensor], rows: int) -> Tensor:
    """Returns observations side by side; those that end earlier stay where they are, so that any network takes them."""
    longer = [
        torch.cat([each, each[-1:].expand(rows - len(each), *each.shape[1:])]) if len(each) < rows else each[:rows]
        for each in observations
    ]
    return torch.cat(longer, dim=1)


def _beside(values: Sequence[Tensor | None], rows: int, *, time: int) -> Tensor | None:
    """Returns the values with their columns, which follow the time, side by side."""
    present = [_fitted(value, rows, time) for value in values if value is not None]
    return torch.cat(present, dim=time + 1) if len(present) == len(values) else None


def _behind(values: Sequence[Tensor | None]) -> Tensor | None:
    present = [value for value in values if value is not None]
    return torch.cat(present) if len(present) == len(values) else None


def _numbered_on(values: Sequence[Tensor | None]) -> Tensor | None:
    """Returns the numbers of each batch from 0 and behind those of the batches before."""
    found, start = [], 0
    for value in values:
        if value is None:
            return None
        numbers, place = value.unique(return_inverse=True)
        found.append(place + start)
        start += len(numbers)
    return torch.cat(found)
