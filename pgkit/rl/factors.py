"""Packs what is known about a batch of trajectories into factors: steps 2 to 4 of the walk."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, final

from torch import Tensor, nn

from pgkit.action_values import ActionCritic
from pgkit.core import score
from pgkit.core.column_scores import ColumnScores
from pgkit.core.recursions import episode_time
from pgkit.core.scores import Scores
from pgkit.core.unrolling import is_recurrent, values_of
from pgkit.experience import Weights
from pgkit.protocols import Critic, Estimator, Policy, Returns
from pgkit.rl.paths import Simulated
from pgkit.simulators.base import Simulator
from pgkit.types import Factors, Trajectories, map_observations


@final
class LogProbability(nn.Module):
    """log π(a|s) as a module of observations and actions, so that its scores can be taken."""

    def __init__(self, policy: Any) -> None:
        super().__init__()
        self.policy = policy

    def forward(self, obs: Any, actions: Tensor) -> Tensor:
        """Returns log π(a|s) `[...]`."""
        result: Tensor = self.policy.log_prob(obs, actions)
        return result


def factors_of(
    trajectories: Trajectories,
    *,
    policy: Policy,
    critic: Critic,
    weights: Weights,
    returns: Returns,
    estimator: Estimator,
    simulator: Simulator | None = None,
) -> Factors:
    """Returns the factors of a batch: values once, weights in log space, the signal that the return credits.

    Scores, expansion and path are lazy and belong to policy and critic as they are now: whoever wants them reads them
    before either moves. There is a path where there is a simulator.
    Shapes: `[T, N]`, one factor a step.
    """
    values = values_of(critic, trajectories)
    contexts = map_observations(lambda x: x[:-1], trajectories.obs)
    of_actions = critic if isinstance(critic, ActionCritic) else None
    log_weight = weights.log_weight(policy, trajectories)
    chosen = (
        of_actions.chosen_values(contexts, trajectories.actions) if of_actions and returns.needs_action_values else None
    )
    signal, mask = returns.signal(trajectories, values, log_weight, chosen)
    # Weighted by how a row came about, what followed it is an outcome of its state under the policy that learns.
    corrected = weights.reach != "none" and weights.kind == "prefix"
    factors = Factors(
        signal=signal,
        log_weight=log_weight,
        mask=mask,
        values=values,
        time=episode_time(trajectories.starts) if trajectories.whole_episodes else None,
        scores=scores_of(LogProbability(policy), trajectories, mask),
        rewards=returns.rewards(trajectories),
        contexts=contexts,
        samples=trajectories.actions,
        action_values=None if of_actions is None else of_actions.action_values(contexts),
        action_probabilities=None if of_actions is None else of_actions.probabilities(contexts),
        expansion=None if of_actions is None else of_actions.expansion(contexts, trajectories.actions),
        path=None if simulator is None else Simulated(simulator, policy, trajectories),
        group=trajectories.group,
        strata=trajectories.behavior_id if weights.reach == "all" else None,
        targets=returns.targets(trajectories, values, log_weight, signal, chosen),
        fit_weight=score.scale(log_weight, mask) if corrected else None,
    )
    return replace(factors, scale=estimator.scale(factors))


def scores_of(log_probability: LogProbability, trajectories: Trajectories, mask: Tensor) -> Scores | ColumnScores:
    """Returns the scores of a batch at the parameters that the policy will have when they are first read."""
    if is_recurrent(log_probability.policy):
        return ColumnScores(log_probability.policy, trajectories, mask)
    contexts = map_observations(lambda x: x[:-1], trajectories.obs)
    return Scores(log_probability, (contexts, trajectories.actions), mask)
