"""Expectations and their gradients, whatever they are used for; `pgkit.types` is where everybody finds them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from math import prod
from typing import TYPE_CHECKING

from torch import Tensor
from torch.distributions import Distribution

if TYPE_CHECKING:
    from pgkit.types import Metrics

Parameters = Mapping[str, Tensor]
"""Named parameters θ of a sampling law or of a cost."""


@dataclass(frozen=True, kw_only=True)
class Expectation:
    """E_{x~p_θ}[f(x)], whose gradient in θ is wanted.

    `law` maps named parameters to a `torch.distributions.Distribution` without a batch shape: x is `[*event]`.
    `cost` maps samples `[N, *event]` to `[N]`; any callable will do, unless an estimator differentiates it.
    `direct_cost`, where the integrand moves with θ itself, is the same function of (samples, parameters): it adds
    E[∇_θ f_θ(x)] to every estimate, and `cost` must agree with it at the parameters given.
    """

    cost: Callable[[Tensor], Tensor]
    law: Callable[[Parameters], Distribution]
    direct_cost: Callable[[Tensor, Parameters], Tensor] | None = None


@dataclass(frozen=True, kw_only=True)
class GradientEstimate:
    """A gradient and what is known about its error.

    Shapes: mean, standard_error `[P]`; per_sample `[N, P]`. Those of single samples and the error that they show cost
    more than the mean: they are computed when first read, from the samples that the mean came from. `per_sample` is
    None where an estimator has none to give, `standard_error` None where no honest one is known. `independent` is
    False when a statistic of the batch couples the samples; `shapes` maps parameter names to shapes, in the order in
    which they lie in P. `metrics` is what the estimator counted on its way: costs that it clipped, the effective
    sample size of its weights.
    """

    mean: Tensor
    unbiased: bool
    independent: bool
    shapes: Mapping[str, tuple[int, ...]]
    metrics: Metrics = field(default_factory=dict)
    rows: Callable[[], Tensor | None] = field(repr=False, compare=False)
    error: Callable[[Tensor | None], Tensor | None] = field(repr=False, compare=False)

    @cached_property
    def per_sample(self) -> Tensor | None:
        """The gradient of every sample, `[N, P]`."""
        return self.rows()

    @cached_property
    def standard_error(self) -> Tensor | None:
        """The standard error of the mean, `[P]`."""
        return self.error(self.per_sample)

    def by_name(self) -> dict[str, Tensor]:
        """Returns the mean gradient of each parameter, in its own shape."""
        pieces = self.mean.split([prod(shape) for shape in self.shapes.values()])
        return {name: piece.reshape(shape) for (name, shape), piece in zip(self.shapes.items(), pieces, strict=True)}
