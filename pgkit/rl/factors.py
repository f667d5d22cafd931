"""Packs what is known about a batch of trajectories into factors: steps 2 to 4 of the walk."""

from __future__ import annotations

from pgkit.core.recursions import episode_time
from pgkit.protocols import Critic, Policy, Returns, Weights
from pgkit.types import Factors, Trajectories


def factors_of(
    trajectories: Trajectories, *, policy: Policy, critic: Critic, weights: Weights, returns: Returns
) -> Factors:
    """Returns the factors of a batch: values once, weights in log space, the signal that the return credits.

    Shapes: `[T, N]`, one factor a step.
    """
    values = critic.values(trajectories.obs)
    log_weight = weights.log_weight(policy, trajectories)
    signal, mask = returns.signal(trajectories, values, log_weight)
    time = episode_time(trajectories.starts) if trajectories.whole_episodes else None
    return Factors(signal=signal, log_weight=log_weight, mask=mask, values=values, time=time)
