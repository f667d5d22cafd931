"""Weights to the policy that acted: of the trajectory, of each prefix, of each action."""

from __future__ import annotations

from typing import Annotated, final

from torch import Tensor

from pgkit.core import importance, trajectory_weights
from pgkit.core.densities import target_log_prob
from pgkit.options import Positive, Range
from pgkit.protocols import Policy
from pgkit.types import Trajectories, WeightKind
from pgkit.weights.base import EpisodeWeights, Reach

Mixing = Annotated[float, Range(above=0, below=1)]


@final
class Trajectory(EpisodeWeights):
    """w = Π_t π(a_t|s_t) / μ(a_t|s_t) over the whole episode, the same at each of its rows.

    Bias: none, but for the options of `EpisodeWeights`. Variance: grows exponentially with the horizon, by the factor
    E[w²] = exp of the Rényi divergence.
    Source: Kahn and Marshall 1953; Precup, Sutton and Singh 2000 (ICML).
    """

    reach: Reach = "own"

    def __init__(
        self, *, self_normalise: bool = False, truncate: Positive | None = None, power_mean: Mixing | None = None
    ) -> None:
        super().__init__(self_normalise=self_normalise, truncate=truncate, power_mean=power_mean)

    def _raw(self, log_target: Tensor, trajectories: Trajectories) -> Tensor:
        return _own(log_target, trajectories, per_decision=False)


@final
class PerDecision(EpisodeWeights):
    """w_t = Π_{u≤t} π(a_u|s_u) / μ(a_u|s_u): each reward counts by what led to it, and not by what came after.

    Bias: none; with `self_normalise` O(1/N). There is no truncation: min(w_t, c), as every concave function of w_t, has
    a mean that falls with t, so that later rewards shrink and a policy learns to end its episodes.
    Source: Precup, Sutton and Singh 2000 (ICML).
    """

    reach: Reach = "own"

    def __init__(self, *, self_normalise: bool = False) -> None:
        super().__init__(self_normalise=self_normalise)

    def _raw(self, log_target: Tensor, trajectories: Trajectories) -> Tensor:
        return _own(log_target, trajectories, per_decision=True)


@final
class OneStep:
    """π(a_t|s_t) / μ(a_t|s_t) of each action alone, for returns that have traces of their own, on any data.

    `truncate` c takes min(w, c), in what multiplies the gradient and before the return clips in its own way.
    Bias: the states stay those of the behaviour, whatever a return makes of the ratios.
    Source: Degris, White and Sutton 2012, arXiv:1205.4839.
    """

    unbiased = False
    kind: WeightKind = "step"
    reach: Reach = "own"
    needs_whole_episodes = False

    def __init__(self, *, truncate: Positive | None = None) -> None:
        self.truncate = truncate

    def log_weight(self, policy: Policy, trajectories: Trajectories) -> Tensor:
        """Returns the log ratio of every row, `[T, N]`, detached, clamped at `trajectory_weights.LIMIT` nats.

        Raises: RunFault for actions that could not have been taken, and for log-probabilities that are no numbers.
        """
        own, mask = trajectories.behavior_log_prob, trajectories.mask
        trajectory_weights.refuse_impossible(own, mask)
        ratio = trajectory_weights.action_log_ratio(target_log_prob(policy, trajectories), own, mask)
        if self.truncate is not None:
            ratio = importance.truncated(ratio, self.truncate)
        return trajectory_weights.clamped(ratio).to(own.dtype)


def _own(log_target: Tensor, trajectories: Trajectories, *, per_decision: bool) -> Tensor:
    ratio = trajectory_weights.action_log_ratio(log_target, trajectories.behavior_log_prob, trajectories.mask)
    return trajectory_weights.cumulated(ratio, per_decision=per_decision)
