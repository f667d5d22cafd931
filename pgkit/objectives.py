"""What an update is given, and what it is: objectives, and whatever moves parameters uphill on them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

from torch import Tensor

from pgkit.types import Factors, Metrics, Trajectories


@dataclass(frozen=True, kw_only=True)
class ObjectiveValue:
    """An objective evaluated on some rows: `value` is differentiable and to be maximised, `entropy` a mean in nats."""

    value: Tensor
    entropy: Tensor


@dataclass(frozen=True, kw_only=True)
class Ascent:
    """The gradient `[P]` of a whole objective, in the order of the parameters, its value, and the mean entropy.

    Both are tensors of one number where they are on a device, so that nobody waits for either before they are told.
    """

    gradient: Tensor
    value: float | Tensor
    entropy: float | Tensor


@dataclass(frozen=True, kw_only=True)
class RowTerms:
    """What an objective is made of, row by row, for updates that evaluate it more than once.

    Shapes: all `[M]`; `log_prob` log π(a|s) and `entropy` of the policy as it is, differentiable; `behavior_log_prob`
    log μ(a|s) at sampling time; `coefficients` those of the rows' scores; `index` where each row lies, t * N + n.
    `parameters` `[M, K]` are those of the action laws, differentiable. Sums over rows are divided by `num_samples`, so
    that a random subset estimates the whole without bias.
    """

    log_prob: Tensor
    behavior_log_prob: Tensor
    coefficients: Tensor
    entropy: Tensor
    index: Tensor
    parameters: Tensor
    num_samples: float


@dataclass(frozen=True, kw_only=True)
class ScoredRows:
    """What single rows say of the policy as it is, and the gradient of any weighted sum of their scores.

    All an update needs whose ascent direction is a rule for coefficients; `gradient(coefficients [M], entropy)` returns
    Σ_i c_i ∇ log π_i + entropy Σ_i ∇H_i, `[P]`. The other fields are as in `RowTerms`, but nothing is differentiable.
    """

    log_prob: Tensor
    behavior_log_prob: Tensor
    entropy: Tensor
    index: Tensor
    num_samples: float
    gradient: Callable[[Tensor, float], Tensor]


class Objective(Protocol):
    """The objective of one batch as a function of the policy's parameters; `rows` are flat indices, None means all.

    `coefficients` are those of the scores of all rows `[T * N]`, or `[T * N, C]`; `valid` lists the rows that count.
    It `reads_columns` where rows take the whole columns that they lie in, as with a policy that has a memory.
    """

    trajectories: Trajectories
    factors: Factors
    coefficients: Tensor
    valid: Tensor
    reads_columns: bool

    def __call__(self, rows: Tensor | None = None) -> ObjectiveValue:
        """Returns the objective on some rows, an unbiased estimate of the whole where they are drawn at random."""

    def ascent(self) -> Ascent:
        """Returns the gradient of the whole, by hand-written derivatives where there are some."""

    def terms(self, rows: Tensor | None = None) -> RowTerms:
        """Returns the rows of the objective one by one, at the policy as it is now."""

    def scored(self, rows: Tensor) -> ScoredRows:
        """Returns flat rows as the policy sees them now, by hand-written derivatives where there are some."""

    def laws(self) -> Tensor:
        """Returns the parameters of the action law `[M, K]` at every valid row, detached, as the policy is now."""

    def divergence(self, before: Tensor) -> Tensor:
        """Returns Σ_t KL(π_before ‖ π) `[N]` over the rows of each column, in nats; `before` are laws of earlier."""

    def divergences(self, before: Tensor, parameters: Tensor) -> Tensor:
        """Returns KL(π_before ‖ π) `[M]` of single rows, differentiable, both given by the parameters of their laws."""

    def curvature(self, rows: Tensor | None = None) -> Callable[[Tensor], Tensor]:
        """Returns v → F v `[P]`, F the policy's Fisher matrix now, a mean over rows (all valid ones by default)."""


@runtime_checkable
class Update(Protocol):
    """Moves the policy's parameters uphill on an objective; the one place where the sign flips.

    One that takes ratios to the behaviour by itself has `corrects = True`, one that knows a single term a row and no
    control variate `needs_single_terms = True`, one that reads no coefficients but rewards `reads_rewards = True`.
    """

    average: Literal["columns", "steps"]
    entropy_coefficient: float
    tags: Sequence[str]

    def step(self, objective: Objective, *, progress: float) -> Metrics:
        """Changes the parameters and returns what it did; `progress` in [0, 1] is the share of the run that is over."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: Mapping[str, Any], /) -> Any: ...
