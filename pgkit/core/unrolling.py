"""Asking any policy about rows of a batch: one with a memory reads the columns that they lie in."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pgkit.types import Observations, Rows, Trajectories, map_observations

Memory = tuple[Observations, Tensor | None, Tensor | None]
"""Observations `[T, n, …]`, starts `[T, n]`, state at row 0 `[n, S]`; None where every column is one whole episode."""


def is_recurrent(part: object) -> bool:
    """Returns whether a policy or critic has a memory: it reads columns `[T, N, …]`, and no rows by themselves."""
    return bool(getattr(part, "recurrent", False))


def columns_read(trajectories: Trajectories, columns: Tensor | slice, *, num_steps: int | None = None) -> Memory:
    """Returns what a policy with a memory reads of some columns, up to a row.

    A whole episode begins with an empty memory whoever acted in it; a slab goes on with the state of the one that did.
    Shapes: columns `[n]`.
    """
    last = trajectories.num_steps if num_steps is None else num_steps
    obs = map_observations(lambda x: x[:last, columns], trajectories.obs)
    if trajectories.whole_episodes:
        return obs, None, None
    state = trajectories.policy_state
    return obs, trajectories.starts[:last, columns], None if state is None else state[columns]


def values_of(critic: Any, trajectories: Trajectories) -> Tensor | None:
    """Returns a critic's values `[T+1, N]` of a batch, detached; one with a memory hears where episodes begin."""
    begins = (trajectories.starts,) if is_recurrent(critic) and not trajectories.whole_episodes else ()
    values: Tensor | None = critic.values(trajectories.obs, *begins)
    return values


def law_parameters(policy: Any, trajectories: Trajectories, rows: Rows) -> Tensor:
    """Returns the parameters `[M, K]` of a policy's law at M rows of a batch, differentiable.

    A memory is unrolled over the columns that the rows lie in, up to the last of them, whichever rows are missing.
    """
    if not is_recurrent(policy):
        result: Tensor = policy(rows.obs)
        return result
    num_columns = trajectories.num_columns
    time, column = rows.index // num_columns, rows.index % num_columns
    read, place = column.unique(return_inverse=True)
    chosen = slice(None) if len(read) == num_columns else read
    num_steps = int(time.max()) + 1
    parameters: Tensor = policy(*columns_read(trajectories, chosen, num_steps=num_steps))
    return parameters.flatten(0, 1)[time * len(read) + place]


def blocks_of_columns(trajectories: Trajectories, num_rows: int) -> list[slice]:
    """Returns neighbouring columns in blocks of about so many rows."""
    size = max(1, num_rows // trajectories.num_steps)
    return [slice(start, start + size) for start in range(0, trajectories.num_columns, size)]


def log_prob_of_columns(law: Any, trajectories: Trajectories, columns: slice) -> Tensor:
    """Returns log π(a|s) `[T, n]` of some columns under a policy with a memory, differentiable, padding included."""
    obs, *memory = columns_read(trajectories, columns)
    result: Tensor = law.log_prob(obs, trajectories.actions[:, columns], *memory)
    return result


def mean_divergence(before: Any, after: Any, trajectories: Trajectories, index: Tensor) -> float:
    """Returns the mean of KL(before || after) over rows `[M]` of a batch, in nats, without gradients."""
    rows = trajectories.rows(index)
    if not is_recurrent(before):
        return float(before.divergence(after, rows.obs).mean())
    with torch.no_grad():
        laws = [law_parameters(policy, trajectories, rows) for policy in (before, after)]
        return float(before.law.kl(*laws).mean())
