"""What an instrument sees of an update, and what it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from torch import Tensor

from pgkit.protocols import Estimator, Policy, Scores
from pgkit.types import Coupling, Factors, Metrics, Trajectories


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """Everything an instrument may look at after an update; frozen, and thrown away afterwards.

    `before` is the policy that the gradient was taken at, `policy` the one that the update left, `scores` those at
    `before`; `coefficients` are factors.scale times (signal − baseline), standardised or not.
    """

    trajectories: Trajectories
    factors: Factors
    baseline: Tensor
    coefficients: Tensor
    estimator: Estimator
    coupling: Coupling
    before: Policy
    policy: Policy
    scores: Scores


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What is known of a run before its first batch; handed to every instrument whose constructor names `facts`.

    `layout` says where each parameter of the policy lies in P; `columns` is N. `env` is the name of the environment,
    `dynamics` what it knows about itself, if anything. `discounted` is whether states are weighted by γ^t.
    """

    env: str
    columns: int
    whole_episodes: bool
    has_values: bool
    layout: Mapping[str, slice]
    discounted: bool = False
    dynamics: object = None


@runtime_checkable
class Diagnostic(Protocol):
    """An instrument: reads a snapshot when due, changes nothing, draws nothing from the run's generators."""

    tags: Sequence[str]
    every: int

    def measure(self, snapshot: Snapshot) -> Metrics:
        """Returns a value for every one of its tags, None where this batch cannot answer."""
