"""What an update is given, and what it is: objectives, and whatever moves parameters uphill on them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

from torch import Tensor

from pgkit.types import Metrics


@dataclass(frozen=True, kw_only=True)
class ObjectiveValue:
    """An objective evaluated on some rows: `value` is differentiable and to be maximised, `entropy` a mean in nats."""

    value: Tensor
    entropy: Tensor


class Objective(Protocol):
    """The objective of one batch as a function of the policy's parameters; `rows` are flat indices, None means all."""

    def __call__(self, rows: Tensor | None = None) -> ObjectiveValue:
        """Returns the objective on some rows, an unbiased estimate of the whole where they are drawn at random."""

    def parts(self) -> Iterator[ObjectiveValue]:
        """Yields pieces whose values, gradients and entropies add up to those of the whole."""


@runtime_checkable
class Update(Protocol):
    """Moves the policy's parameters uphill on an objective; the one place where the sign flips."""

    average: Literal["columns", "steps"]
    entropy_coefficient: float
    tags: Sequence[str]

    def step(self, objective: Objective, *, progress: float) -> Metrics:
        """Changes the parameters and returns what it did; `progress` in [0, 1] is the share of the run that is over."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: Mapping[str, Any], /) -> Any: ...
