"""The policy that learns, made bolder: by a temperature, or by a share of uniform actions."""

from __future__ import annotations

from functools import partial
from typing import Any, final

import torch

from pgkit.behaviors.base import ChangedPolicy, LaneBehavior
from pgkit.options import Count, Fraction, Positive


@final
class Temperature(LaneBehavior):
    """Acts by π^(1/τ): above 1 bolder than the policy that learns, below 1 more timid.

    Source: Sutton and Barto 2018, section 2.8, for the softmax's temperature.
    """

    def __init__(self, *, policy: Any, num_lanes: int, temperature: Positive = 1.5, lanes: Count | None = None) -> None:
        super().__init__(policy=policy, num_lanes=num_lanes, lanes=lanes)
        self._other = ChangedPolicy(policy, partial(policy.law.tempered, temperature=temperature))

    @property
    def other(self) -> ChangedPolicy:
        """The tempered policy."""
        return self._other


@final
class Epsilon(LaneBehavior):
    """Acts by (1 − ε) π + ε uniform, each dimension of the action on its own; for actions that can be counted.

    No ratio π/μ is above 1/(1 − ε) a dimension.
    Source: Sutton and Barto 2018, section 2.2.
    """

    def __init__(
        self,
        *,
        policy: Any,
        num_lanes: int,
        epsilon: Fraction = 0.1,
        lanes: Count | None = None,
    ) -> None:
        super().__init__(policy=policy, num_lanes=num_lanes, lanes=lanes)
        policy.law.with_uniform(torch.zeros(policy.law.num_parameters), epsilon)  # a law without one says so now
        self._other = ChangedPolicy(policy, partial(policy.law.with_uniform, share=epsilon))

    @property
    def other(self) -> ChangedPolicy:
        """The mixture."""
        return self._other
