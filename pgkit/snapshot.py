"""What an instrument sees of an update, and what it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from torch import Tensor

from pgkit.protocols import Estimator, Policy
from pgkit.scoring import Scores
from pgkit.types import Coupling, Factors, Metrics, Observations, Trajectories, WeightKind


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """Everything an instrument may look at after an update; frozen, and thrown away afterwards.

    `coefficients` multiply the gradients in `surrogate`: the scores, or `rows` where the estimator has several terms a
    row. `before` is the policy that the gradient was taken at, `policy` the one that the update left, `scores` those at
    `before`; `coefficients` are factors.scale times (signal − baseline), standardised or not. `preview` maps a mean
    gradient over columns `[P]` to the change of the parameters `[P]` that the update would have made of it; None
    unless an instrument that is due needs it and the update can tell. `reweighted` maps numbers `[n]` of columns to the
    log weights `[T, n]` that these have as a batch of their own, under the weights in use at `before`. `groups` numbers
    the groups of columns that are independent of each other, whatever ties those inside; None where columns are, or
    groups are not. `kept` is what one instrument found and another will want, by name.
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
    preview: Callable[[Tensor], Tensor] | None = None
    kept: dict[str, Tensor] = field(default_factory=dict, init=False, repr=False, compare=False)
    rows: Scores | None = None
    reweighted: Callable[[Tensor], Tensor] | None = None
    groups: Tensor | None = None

    @property
    def surrogate(self) -> Scores:
        """What the coefficients multiply: the scores, or the rows of an estimator with several terms a row."""
        return self.scores if self.rows is None else self.rows


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What is known of a run before its first batch; handed to every instrument whose constructor names `facts`.

    `layout` says where each parameter of the policy lies in P; `columns` is N; `controlled` is whether the estimator
    has a control variate beside its baseline. `env` is the name of the environment, `dynamics` what it knows about
    itself, if anything. `discounted` is whether states are weighted by γ^t. `batches` counts those that an estimate may
    be made of, the current one included; `weights` is the kind of importance weights that correct for other policies,
    None where nothing does. `has_action_values` is whether the critic values each of finitely many actions.
    """

    env: str
    columns: int
    whole_episodes: bool
    has_values: bool
    layout: Mapping[str, slice]
    discounted: bool = False
    controlled: bool = False
    dynamics: object = None
    batches: int = 1
    weights: WeightKind | None = None
    has_action_values: bool = False


@dataclass(frozen=True, kw_only=True)
class Continued:
    """What followed m actions at each of S states, k times each, in episodes of an instrument's own.

    Shapes: obs `[S, …]`, times `[S]` steps behind each state, actions as sampled `[S, m, *act]`, returns Σ γ^k r_k of
    raw rewards `[S, m, k]`. `env_steps` counts the transitions that this took; they are none of the run's.
    """

    obs: Observations
    times: Tensor
    actions: Tensor
    returns: Tensor
    env_steps: int


class Continuations(Protocol):
    """Plays on from copies of an environment; handed to every instrument whose constructor names `continue_from`."""

    def check(self) -> None:
        """Raises UsageError where the environment of the run cannot be copied in the middle of an episode."""

    def draw(
        self, policy: Policy, times: Sequence[int], *, num_actions: int, num_outcomes: int, gamma: float
    ) -> Continued:
        """Returns what followed, at each step of `times` that was reached, actions of the policy."""


@runtime_checkable
class Diagnostic(Protocol):
    """An instrument: reads a snapshot when due, changes nothing, draws nothing from the run's generators.

    One with an attribute `needs_preview` that is true finds `preview` in its snapshots.
    """

    tags: Sequence[str]
    every: int

    def measure(self, snapshot: Snapshot) -> Metrics:
        """Returns a value for every one of its tags, None where this batch cannot answer."""


@runtime_checkable
class Previewing(Protocol):
    """An update that can tell what it would do with another gradient."""

    def preview(self) -> Callable[[Tensor], Tensor]:
        """Returns the step from here as a function of the gradient of the update's objective, both `[P]`."""
