"""The data that walks through pgkit, and the conventions that every room shares.

Conventions, written once, here:

* Objectives are maximised and every estimate is an ascent direction; the sign flips in `updates/` and nowhere else.
* Estimates and diagnostics sum over the F factors (time steps) and average over the N samples (columns).
* The gradient of one sample belongs to that sample's summed surrogate and is not divided by N.
* Logarithms are natural; weights stay in log space until the last multiplication.
* "Variance" names its vector: `per_sample_variance` is that of one sample's gradient, `variance_of_mean` that of the
  average of N of them; both are traces of a covariance.
* `unbiased` means unbiased for behaviour policies chosen independently of the batch.

Dimension names: T time steps, N columns (samples), F factors, P parameters, K parameters of one distribution.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor

from pgkit.expectation import Expectation as Expectation
from pgkit.expectation import GradientEstimate as GradientEstimate
from pgkit.expectation import Parameters as Parameters

if TYPE_CHECKING:
    from pgkit.action_values import ActionExpansion, Path
    from pgkit.scoring import Scores

Observations = Tensor | dict[str, Tensor]
"""Observations as the environment gave them; a Dict or Tuple space becomes a flat dict, keys joined by `/`."""

Metrics = dict[str, float | None]
"""What an instrument reports; None means that the batch could not answer, never NaN."""

Measured = Mapping[str, float | Tensor | None]
"""The same where numbers may still be on their device, as tensors of one: they are read together, once a batch."""

Coupling = Literal["independent", "pairwise", "cross_fitted", "batch"]
"""How a baseline ties the samples of a batch together, from not at all to in a way for which no variance is known.

`pairwise` as leave-one-out does, so that the estimate is a U-statistic of order two; `cross_fitted` by a reference that
is fitted to the other samples: then the sample formula of the variance is right but for a share of order 1/N.
"""

WeightKind = Literal["prefix", "step"]
"""What a log weight belongs to: everything that led to a row, or the action of that row alone."""


def map_observations(function: Callable[[Tensor], Tensor], observations: Observations) -> Observations:
    """Returns the observations with `function` applied to every array in them."""
    if isinstance(observations, dict):
        return {key: function(value) for key, value in observations.items()}
    return function(observations)


def expect(dimensions: str, **tensors: Tensor | np.ndarray) -> dict[str, int]:
    """Returns the sizes bound to the names in `dimensions`, the same for every tensor given.

    `expect("T N", signal=a, mask=b)` reads the *leading* dimensions, so `actions [T, N, A]` may be checked too; a
    trailing `.` as in `"T N ."` forbids further ones.

    Raises: ValueError naming the culprit, as in `signal: T=3, but T=4 in log_prob`.
    """
    names = dimensions.split()
    exact = names[-1] == "."
    names = names[:-1] if exact else names
    sizes: dict[str, int] = {}
    origin: dict[str, str] = {}
    for label, tensor in tensors.items():
        shape = tuple(tensor.shape)
        if len(shape) < len(names) or (exact and len(shape) != len(names)):
            raise ValueError(f"{label}: shape {list(shape)}, expected [{', '.join(names)}{'' if exact else ', …'}]")
        for name, size in zip(names, shape, strict=False):
            if sizes.setdefault(name, size) != size:
                raise ValueError(f"{label}: {name}={size}, but {name}={sizes[name]} in {origin[name]}")
            origin.setdefault(name, label)
    return sizes


@dataclass(frozen=True, kw_only=True)
class Rows:
    """A flat view of M valid transitions of a batch; `index` says where each lies in `[T, N]`, as `t * N + n`."""

    obs: Observations
    actions: Tensor
    index: Tensor


@dataclass(frozen=True, kw_only=True)
class Trajectories:
    """One batch of experience, time-major, exactly as it happened.

    Shapes:
        obs: `[T+1, N, *obs]`; `obs[t]` is what action t was chosen from, `obs[t+1]` what it led to: at an end the
            true final observation, never that of the next episode.
        actions: `[T, N, *act]`, as sampled; clipping for the environment happens on a copy.
        rewards, behavior_log_prob: `[T, N]`; rewards as the environment gave them, log μ(a|s) at sampling time (nats).
        terminated, truncated, starts, mask: `[T, N]` bool; mask is False on padding and on reset rows. Terminated wins
            where both ends are set. The last row of a slab may be neither: the collector cut that episode.
        behavior_id, lane: `[N]`; which policy acted, and which environment a column came from.
        log_densities: optional `[K, T, N]`, log μ_k(a|s) of every policy that acted in this batch, numbered as in
            behavior_id; None where one policy acted, or where the others cannot be asked any more.
        group: optional `[N]`, numbers from 0; columns that share one began in the same state.
        target_log_prob: optional `[T, N]`, log π(a|s) of the policy that learns as it was when the batch was handed to
            it; None where nobody asked yet.
        age: optional `[N]`, updates since a column was collected; None where all are new.
        action_mask: optional `[T, N, K]`, which choices the law allowed, None where nothing is masked.
        policy_state: optional `[N, S]`, the state before row 0 of a policy with a memory, 0 where an episode begins.
    """

    obs: Observations
    actions: Tensor
    rewards: Tensor
    behavior_log_prob: Tensor
    behavior_id: Tensor
    terminated: Tensor
    truncated: Tensor
    starts: Tensor
    mask: Tensor
    lane: Tensor
    whole_episodes: bool
    action_mask: Tensor | None = None
    policy_state: Tensor | None = None
    log_densities: Tensor | None = None
    target_log_prob: Tensor | None = None
    age: Tensor | None = None
    group: Tensor | None = None

    def __post_init__(self) -> None:
        expect("T N", rewards=self.rewards, actions=self.actions, mask=self.mask, terminated=self.terminated)
        expect("T N", rewards=self.rewards, behavior_log_prob=self.behavior_log_prob, starts=self.starts)

    @property
    def num_steps(self) -> int:
        """T, padding included."""
        return self.rewards.shape[0]

    @property
    def num_columns(self) -> int:
        """N."""
        return self.rewards.shape[1]

    @cached_property
    def valid(self) -> Tensor:
        """Flat indices `[M]` (`t * N + n`) of the transitions that happened."""
        return self.mask.reshape(-1).nonzero().squeeze(-1)

    def rows(self, index: Tensor | None = None) -> Rows:
        """Returns the transitions at flat `index`, all the valid ones by default."""
        if index is None:
            return self._valid_rows
        # `index_select` reads whole rows, several times as fast as indexing.
        obs = map_observations(lambda x: x[:-1].flatten(0, 1).index_select(0, index), self.obs)
        return Rows(obs=obs, actions=self.actions.flatten(0, 1).index_select(0, index), index=index)

    @cached_property
    def _valid_rows(self) -> Rows:
        if len(self.valid) < self.mask.numel():
            return self.rows(self.valid)
        # The whole batch is valid: a view serves and nothing is copied.
        obs = map_observations(lambda x: x[:-1].flatten(0, 1), self.obs)
        return Rows(obs=obs, actions=self.actions.flatten(0, 1), index=self.valid)

    def to(self, device: torch.device) -> Trajectories:
        """Returns the batch on a device, with what is known of it: the host counts its rows without waiting."""
        if self.mask.device == device:
            return self
        result = self._changed(lambda _, x: x.to(device, non_blocking=True))
        vars(result)["valid"] = self.valid.to(device, non_blocking=True)
        return result

    def labelled(self, behavior_id: Tensor) -> Trajectories:
        """Returns the same batch with other numbers `[N]` of the policies that acted."""
        return replace(self, behavior_id=behavior_id)

    def columns(self, index: Tensor | slice) -> Trajectories:
        """Returns whole columns, in the order of `index` `[M]`; those of a slice are not copied."""
        return self._changed(lambda name, x: x[(slice(None),) * _AXIS.get(name, 1) + (index,)])

    def _changed(self, change: Callable[[str, Tensor], Tensor]) -> Trajectories:
        """Returns the batch with `change` of the name and the tensor, or of each of a dictionary, in place of it."""
        given = {field.name: getattr(self, field.name) for field in fields(self)}
        return replace(
            self,
            **{
                name: map_observations(partial(change, name), value)
                for name, value in given.items()
                if isinstance(value, Tensor | dict)
            },  # type: ignore[arg-type]  # each field keeps its kind
        )


_AXIS = dict.fromkeys(("behavior_id", "lane", "age", "group", "policy_state"), 0) | {"log_densities": 2}
"""Which axis of a field of `Trajectories` counts the columns, where it is not the second."""


@dataclass(frozen=True, kw_only=True)
class Factors:
    """What a score-function estimator sees, whatever was sampled: F factors of N samples.

    Shapes: signal, log_weight, mask, scale, rewards, targets, fit_weight `[F, N]`, all detached; values `[F+1, N]`
    from the critic; contexts, samples `[F, N, …]`; strata, group `[N]`.

    `signal` is the outcome credited to each factor, `log_weight` the cumulative log importance weight (0 where the
    sampling law is the current one), `mask` the factors that count; `time` is each factor's index inside its own
    episode, None where a batch does not hold whole episodes. What follows is None where nobody can give it: `scale`
    multiplies (signal − baseline), 0 outside the mask; `scores` are those of the sampling law, unscaled and lazy;
    `rewards` are in the unit of the signal; `contexts` is what each factor was conditioned on and `samples` what was
    drawn, in RL observations and actions. `action_values` and `action_probabilities` are those of every action that
    might have been drawn, `[F, N, A]`, `expansion` what a critic says of actions near those that were, and `path` what
    a simulator of the environment says of them, lazy likewise. `group` numbers the samples that began alike, `strata`
    the sampling law that each sample came from, where there are several. A critic is fitted to `targets`, the signal by
    default, each factor counting `fit_weight` times, once by default.
    """

    signal: Tensor
    log_weight: Tensor
    mask: Tensor
    values: Tensor | None = None
    time: Tensor | None = None
    scale: Tensor | None = None
    scores: Scores | None = None
    rewards: Tensor | None = None
    contexts: Observations | None = None
    samples: Tensor | None = None
    action_values: Tensor | None = None
    action_probabilities: Tensor | None = None
    expansion: ActionExpansion | None = None
    path: Path | None = None
    strata: Tensor | None = None
    group: Tensor | None = None
    targets: Tensor | None = None
    fit_weight: Tensor | None = None

    def __post_init__(self) -> None:
        expect("F N .", signal=self.signal, log_weight=self.log_weight, mask=self.mask)

    @property
    def goals(self) -> Tensor:
        """What a critic is fitted to, `[F, N]`."""
        return self.signal if self.targets is None else self.targets
