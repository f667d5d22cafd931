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


def joined(
    batches: Sequence[Trajectories],
    *,
    said: Sequence[Mapping[int, Tensor]],
    own: Sequence[range],
    ages: Sequence[int],
    complete: bool,
) -> Trajectories:
    """Returns the columns of all batches side by side, shorter ones padded outside the mask.

    `said[b][k]` is log μ_k(a|s) `[T, N]` of batch b under policy k, `own[b]` the policies that acted in it; where all
    is known (`complete`) the result has every policy's log-probabilities.
    """
    rows = max(batch.num_steps for batch in batches)
    numbers = [number for each in own for number in each]
    place = {number: index for index, number in enumerate(numbers)}
    ids = [
        torch.tensor([place[number] for number in each], device=batch.lane.device)[batch.behavior_id]
        for batch, each in zip(batches, own, strict=True)
    ]
    columns = [
        torch.full((batch.num_columns,), age, device=batch.lane.device)
        for batch, age in zip(batches, ages, strict=True)
    ]
    densities = None
    if complete:
        known = [torch.stack([each[number] for number in numbers]) for each in said]
        densities = torch.cat([_padded(each, rows, dim=1) for each in known], dim=2)
    plain = {name: torch.cat([_padded(getattr(batch, name), rows) for batch in batches], dim=1) for name in PLAIN}
    return Trajectories(
        **plain,
        whole_episodes=batches[0].whole_episodes,
        obs=_side_by_side([batch.obs for batch in batches], rows + 1),
        behavior_id=torch.cat(ids),
        lane=torch.cat([batch.lane for batch in batches]),
        log_densities=densities,
        age=torch.cat(columns),
        group=_numbered_on([batch.group for batch in batches]),
        action_mask=_maybe([batch.action_mask for batch in batches], rows),
        policy_state=_states([batch.policy_state for batch in batches]),
    )


def state_of(trajectories: Trajectories) -> dict[str, Any]:
    """Returns the fields of a batch by name."""
    return {field.name: getattr(trajectories, field.name) for field in fields(trajectories)}


def trajectories_of(state: Mapping[str, Any]) -> Trajectories:
    """Returns the batch that `state_of` took apart."""
    return Trajectories(**state)


def _padded(values: Tensor, rows: int, dim: int = 0) -> Tensor:
    """Returns the values with rows of zeros behind them."""
    missing = rows - values.shape[dim]
    if not missing:
        return values
    shape = list(values.shape)
    shape[dim] = missing
    return torch.cat([values, values.new_zeros(shape)], dim=dim)


def _side_by_side(observations: Sequence[Observations], rows: int) -> Observations:
    first = observations[0]
    if isinstance(first, dict):
        return {key: _held([each[key] for each in observations], rows) for key in first}  # type: ignore[index]  # all alike
    return _held(observations, rows)  # type: ignore[arg-type]  # all alike


def _held(observations: Sequence[Tensor], rows: int) -> Tensor:
    """Returns observations side by side; those that end earlier stay where they are, so that any network takes them."""
    longer = [torch.cat([each, each[-1:].expand(rows - len(each), *each.shape[1:])]) for each in observations]
    return torch.cat(longer, dim=1)


def _maybe(values: Sequence[Tensor | None], rows: int) -> Tensor | None:
    present = [_padded(value, rows) for value in values if value is not None]
    return torch.cat(present, dim=1) if present else None


def _numbered_on(values: Sequence[Tensor | None]) -> Tensor | None:
    """Returns the numbers of each batch behind those of the batches before."""
    found, start = [], 0
    for value in values:
        if value is None:
            return None
        found.append(value + start)
        start += int(value.max()) + 1
    return torch.cat(found)


def _states(values: Sequence[Tensor | None]) -> Tensor | None:
    present = [value for value in values if value is not None]
    return torch.cat(present) if present else None
