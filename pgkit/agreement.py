"""What the parts of a run must agree on, before anything is started."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from gymnasium.spaces import Box, Discrete, Space

from pgkit.action_values import ActionCritic, ReparameterisedLaw
from pgkit.core.unrolling import is_recurrent
from pgkit.critics.none import NoCritic
from pgkit.errors import UsageError
from pgkit.estimators.svg import Pathwise
from pgkit.protocols import Baseline, Critic, Estimator, Returns
from pgkit.rl.simulated import SERVED

if TYPE_CHECKING:
    from pgkit.assemble import Parts


def has_values(critic: object) -> bool:
    """Returns whether a critic has values to give."""
    return not isinstance(critic, NoCritic)


def has_action_values(critic: object, action_space: Space[Any]) -> bool:
    """Returns whether a critic values each of finitely many actions."""
    return isinstance(critic, ActionCritic) and isinstance(action_space, Discrete)


def needs_simulator(estimator: Estimator) -> bool:
    """Returns whether an estimator reads paths, of which a simulator of the environment knows; a plug-in may say so."""
    return bool(getattr(estimator, "needs_simulator", False))


def check_agreement(parts: Parts, *, columns: int, whole_episodes: bool) -> None:
    """Holds every part, plug-ins too, to what it says of itself, with N columns a batch.

    Raises: UsageError for parts that do not go together.
    """
    if parts.baseline.least_columns > columns:
        raise UsageError(
            f"baseline: {_name(parts.baseline)} with {columns} columns a batch, "
            f"expected at least {parts.baseline.least_columns} (collect.episodes or env.num_envs)"
        )
    if parts.estimator.needs_action_values and not isinstance(parts.critic, ActionCritic):
        raise UsageError(
            f"critic: {_name(parts.critic)}, expected critic=action_value for estimator {_name(parts.estimator)}"
        )
    if parts.weights.reach == "none":
        refuse_uncorrected(parts)
    else:
        refuse_other_weights(parts)
    refuse_other_critics(parts.returns, parts.critic, parts.lanes.action_space)
    refuse_without_memory(parts, whole_episodes=whole_episodes)
    if getattr(parts.update, "needs_single_terms", False) and (
        parts.estimator.needs_action_values or parts.estimator.controlled or needs_simulator(parts.estimator)
    ):
        raise UsageError(f"estimator: {_name(parts.estimator)}, expected plain terms for update {_name(parts.update)}")
    parts.estimator.accepts(parts.lanes.action_space, columns)
    refuse_other_paths(parts)
    refuse_coupled_control(parts.estimator, parts.baseline)
    if parts.estimator.controlled and columns < 2:
        raise UsageError("estimator.control_variate: with 1 column a batch, expected 2 at least (collect.episodes)")
    if not has_values(parts.critic):
        needy: Sequence[Any] = (parts.returns, parts.baseline)
        for group, part in zip(("returns", "baseline"), needy, strict=True):
            if part.needs_values:
                raise UsageError(f"{group}: {_name(part)} without a critic, expected critic=value")
    for group, whole in (("returns", parts.returns), ("weights", parts.weights)):
        if whole.needs_whole_episodes and not whole_episodes:
            raise UsageError(f"{group}: {_name(whole)} on slabs of steps, expected collect=episodes")


def refuse_uncorrected(parts: Parts) -> None:
    """Raises UsageError for data of other policies that nothing corrects for."""
    # An update that takes ratios of its own, as a clipped one does, says so.
    if getattr(parts.update, "corrects", False):
        return
    foreign = {"behavior": not parts.behavior.on_policy, "reuse": parts.reuse.batches > 1}
    for group in (group for group, is_foreign in foreign.items() if is_foreign):
        name = _name(getattr(parts, group))
        raise UsageError(f"weights: on_policy, expected others for {group} {name}, as weights=balance")


def refuse_other_weights(parts: Parts) -> None:
    """Raises UsageError for weights that the return cannot read, or that the update takes anew."""
    kind, weighs = parts.weights.kind, parts.returns.weighs
    if kind != weighs:
        raise UsageError(
            f"weights: {_name(parts.weights)} of kind {kind}, expected {weighs} for {_name(parts.returns)}"
        )
    cut = getattr(parts.weights, "truncate", None)
    if cut is not None and getattr(parts.returns, "needs_whole_ratios", False):
        raise UsageError(f"weights.truncate: {cut} with {_name(parts.returns)}, expected null")
    if parts.weights.reach == "all" and parts.estimator.controlled:
        # It is fitted to the other columns, and which policies drew them differs from column to column.
        raise UsageError(f"estimator.control_variate: with {_name(parts.weights)}, expected none or weights=trajectory")
    if kind == "prefix" and getattr(parts.update, "corrects", False):
        raise UsageError(f"weights: {_name(parts.weights)}, expected on_policy for update {_name(parts.update)}")


def refuse_other_critics(returns: Returns, critic: Critic, action_space: Space[Any]) -> None:
    """Raises UsageError for a critic of what the return does not say, and for actions that it cannot do with."""
    of_actions = isinstance(critic, ActionCritic)
    if returns.needs_action_values and not of_actions:
        raise UsageError(f"critic: {_name(critic)}, expected critic=action_value for returns {_name(returns)}")
    if of_actions and getattr(returns, "fits_states_alone", False):
        raise UsageError(f"critic: {_name(critic)}, expected critic=value for returns {_name(returns)}")
    if isinstance(action_space, Box) and getattr(returns, "needs_finite_actions", False):
        raise UsageError(f"returns: {_name(returns)} with continuous actions, expected retrace or q_lambda")


def refuse_other_paths(parts: Parts) -> None:
    """Raises UsageError where actions or what follows them do not move smoothly with the policy."""
    estimator, law, lanes = parts.estimator, parts.policy.law, parts.lanes
    if isinstance(estimator, Pathwise) and not isinstance(law, ReparameterisedLaw):
        raise UsageError(
            f"policy.law: {_name(law)} with estimator {_name(estimator)}, expected gaussian, clipped_gaussian or "
            "squashed_gaussian, whose actions are smooth functions of noise"
        )
    if not needs_simulator(estimator):
        return
    if lanes.altered:
        raise UsageError(f"env.wrappers: with estimator {_name(estimator)}, expected [] and env.reward_clip=null")
    if parts.simulator is None or not parts.simulator.differentiable:
        raise UsageError(
            f"env.id: {lanes.id} with estimator {_name(estimator)}, expected an environment with a differentiable "
            f"simulator: {SERVED}; svg0 needs none"
        )
    if parts.weights.reach != "none":
        raise UsageError(f"weights: {_name(parts.weights)} with estimator {_name(estimator)}, expected on_policy")
    if getattr(getattr(parts.returns, "scaler", None), "active", False):
        raise UsageError(
            f"returns.scale_rewards: true with estimator {_name(estimator)}, which reads no returns, expected false"
        )


def refuse_without_memory(parts: Parts, *, whole_episodes: bool) -> None:
    """Raises UsageError for what asks a policy about rows by themselves, or about states that another one left."""
    if is_recurrent(parts.policy):
        name = f"policy {_name(parts.policy)}, which has a memory"
        if isinstance(parts.critic, ActionCritic):
            raise UsageError(f"critic: {_name(parts.critic)} with {name}, expected recurrent_value, value or none")
        if getattr(parts.estimator, "needs_simulator", False):
            raise UsageError(f"estimator: {_name(parts.estimator)} with {name}, expected score_function")
        for key, diagnostic in parts.diagnostics.items():
            if getattr(diagnostic, "continuations", 0):
                raise UsageError(f"diagnostics.{key}.continuations: with {name}, expected 0")
    if is_recurrent(parts.critic) and parts.reuse.batches > 1 and not whole_episodes:
        raise UsageError(
            f"critic: {_name(parts.critic)}, which has a memory, with slabs of the past in reuse {_name(parts.reuse)}, "
            "expected critic=value, or collect=episodes, which begin with an empty memory"
        )
    others = not parts.behavior.on_policy or parts.reuse.batches > 1
    if others and not whole_episodes and any(map(is_recurrent, (parts.policy, *parts.behavior.acting().policies))):
        group = "reuse" if parts.behavior.on_policy else "behavior"
        raise UsageError(
            f"{group}: {_name(getattr(parts, group))} on slabs of steps with a policy that has a memory, expected "
            "collect=episodes, which begin with an empty one"
        )


def refuse_coupled_control(estimator: Estimator, baseline: Baseline) -> None:
    """Raises UsageError for a control variate after a baseline made of the other columns.

    Their gradients then hold a column's own outcome, and what is fitted to them is off by 1/(N−1) of the gradient.
    """
    if estimator.controlled and baseline.coupling != "independent":
        raise UsageError(
            f"estimator.control_variate: after baseline {_name(baseline)}, expected a baseline that knows nothing of "
            "the other columns: zero, value, moving_average, constant or linear"
        )


def _name(part: object) -> str:
    return type(part).__name__
