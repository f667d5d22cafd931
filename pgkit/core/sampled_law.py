"""A law that is given by what it does: a sampler, and a log-density."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, final

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints


@final
class SampledLaw(Distribution):
    """The law of `sampler(N) -> [N, *event]` with the log-density `log_prob(x [N, *event]) -> [N]`.

    The sampler draws on torch's global generator; the log-density is differentiable in whatever parameters it holds.
    A law of this kind can be scored and weighted. It has no arguments and no path to differentiate through, and says
    nothing of its support, so that a support which moves with the parameters goes unnoticed.
    """

    arg_constraints: dict[str, constraints.Constraint] = {}  # noqa: RUF012  as in every torch distribution

    def __init__(self, sampler: Callable[[int], Tensor], log_prob: Callable[[Tensor], Tensor]) -> None:
        super().__init__(validate_args=False)
        self._sampler, self._log_prob = sampler, log_prob

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008  torch's own signature
        """Returns N samples `[N, *event]` for a shape of one dimension, detached."""
        (count,) = sample_shape
        with torch.no_grad():
            return self._sampler(count)

    def log_prob(self, value: Tensor) -> Tensor:
        """Returns the log-density `[N]` of samples `[N, *event]`."""
        return self._log_prob(value)


def as_law(given: Distribution | tuple[Callable[[int], Tensor], Callable[[Tensor], Tensor]]) -> Distribution:
    """Returns the distribution itself, or the law of a pair: sampler of `[N, *event]`, log-density `[N]`."""
    return SampledLaw(*given) if isinstance(given, tuple) else given
