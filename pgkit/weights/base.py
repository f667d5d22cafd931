"""What weights of whole episodes share: the ratio of the one that acted, and what may be done to weights afterwards."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Literal

from torch import Tensor

from pgkit.core import importance, trajectory_weights
from pgkit.core.densities import target_log_prob
from pgkit.errors import UsageError
from pgkit.protocols import Policy
from pgkit.types import Trajectories, WeightKind

Reach = Literal["none", "own", "all"]


class EpisodeWeights(ABC):
    """Cumulative log weights of whole episodes, clamped at `trajectory_weights.LIMIT` nats.

    In this order: `power_mean` λ takes the harmonic mean w / ((1−λ) + λw) of w and 1, which is bounded by 1/λ;
    `truncate` c takes min(w, c); `self_normalise` divides by the mean weight of the columns, row by row, ended ones
    keeping their last.
    Bias: each of the three has one. Truncated and power-mean weights have a mean below 1, so that they shrink what they
    multiply; normalised ones are off by O(1/N).
    """

    kind: WeightKind = "prefix"
    needs_whole_episodes = True

    def __init__(self, *, self_normalise: bool, truncate: float | None = None, power_mean: float | None = None) -> None:
        self.self_normalise, self.truncate, self.power_mean = self_normalise, truncate, power_mean
        self.unbiased = not self_normalise and truncate is None and power_mean is None

    @abstractmethod
    def _raw(self, log_target: Tensor, trajectories: Trajectories) -> Tensor:
        """Returns the unbiased log weight, `[T, N]` or `[1, N]` for all rows, double, −inf where it is 0."""

    def log_weight(self, policy: Policy, trajectories: Trajectories) -> Tensor:
        """Returns the cumulative log weight of every row, `[T, N]`, detached.

        Raises: UsageError on slabs of steps; RunFault for actions that could not have been taken, and for
        log-probabilities that are no numbers.
        """
        if not trajectories.whole_episodes:
            raise UsageError("weights: of whole episodes on slabs of steps, expected collect=episodes")
        trajectory_weights.refuse_impossible(trajectories.behavior_log_prob, trajectories.mask)
        result = self._raw(target_log_prob(policy, trajectories), trajectories)
        if self.power_mean is not None:
            result = importance.power_mean(result, mixing=self.power_mean)
        if self.truncate is not None:
            result = importance.truncated(result, self.truncate)
        if self.self_normalise:
            result = trajectory_weights.self_normalised_columns(result)
        result = trajectory_weights.clamped(result).to(trajectories.behavior_log_prob.dtype)
        return result.expand(trajectories.mask.shape).contiguous()
