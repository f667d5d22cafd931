"""What the groups of a configuration can say against each other."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pgkit.schema.source import attribute

Tree = Mapping[str, Any]


def _target(config: Tree, group: str) -> str:
    return str(config.get(group, {}).get("_target_", ""))


def _option(config: Tree, group: str) -> str:
    """Returns the class that a group chose, spelt as options are: `LeaveOneOut` is leave_one_out."""
    return re.sub(
        r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", _target(config, group).rpartition(".")[2]
    ).lower()


def _on_slabs(config: Tree) -> bool:
    return _option(config, "collect") in ("steps_collector", "torch_steps_collector")


def _without_critic(config: Tree) -> bool:
    return _option(config, "critic") == "no_critic"


def _too_few_columns(config: Tree) -> str | None:
    least = attribute(_target(config, "baseline"), "least_columns", 1)
    key, name = ("env.num_envs", "num_envs") if _on_slabs(config) else ("collect.episodes", "episodes")
    columns = config.get(key.partition(".")[0], {}).get(name)
    if columns is None or columns >= least:
        return None
    return f"{key}: {columns}, expected at least {least} for baseline={_option(config, 'baseline')}"


def _too_few_samples(config: Tree) -> str | None:
    least = attribute(_target(config, "baseline"), "least_columns", 1)
    samples = config.get("num_samples")
    if samples is None or samples >= least:
        return None
    return f"num_samples: {samples}, expected at least {least} for baseline={_option(config, 'baseline')}"


def _uneven_quota(config: Tree) -> str | None:
    episodes, lanes = config.get("collect", {}).get("episodes"), config.get("env", {}).get("num_envs")
    if episodes is None or lanes is None or episodes % lanes == 0:
        return None
    return f"collect.episodes: {episodes}, expected a multiple of env.num_envs={lanes}"


def _uneven_evaluation(config: Tree) -> str | None:
    evaluation = config.get("evaluation", {})
    episodes, lanes = evaluation.get("episodes", 0), evaluation.get("num_envs", 1)
    if episodes % lanes == 0:
        return None
    return f"evaluation.episodes: {episodes}, expected a multiple of evaluation.num_envs={lanes}"


def _values_without_critic(config: Tree) -> str | None:
    for group in ("returns", "baseline"):
        if _without_critic(config) and attribute(_target(config, group), "needs_values", False):
            return f"critic: none, expected critic=value for {group}={_option(config, group)}"
    return None


def _slabs_of_cut_episodes(config: Tree) -> str | None:
    if not _on_slabs(config):
        return None
    if attribute(_target(config, "returns"), "needs_whole_episodes", False):
        return f"collect: steps, expected collect=episodes for returns={_option(config, 'returns')}"
    if attribute(_target(config, "weights"), "needs_whole_episodes", False):
        return f"collect: steps, expected collect=episodes for weights={_option(config, 'weights')}"
    if config.get("estimator", {}).get("discount_states"):
        return "collect: steps, expected collect=episodes for estimator.discount_states=true"
    if _without_critic(config) and config.get("returns", {}).get("cut") == "refuse":
        return "returns.cut: refuse, expected zero, drop or a critic with collect=steps, which cuts episodes"
    return None


def _uncorrected(config: Tree) -> str | None:
    # An update that takes ratios of its own, as a clipped one does, says so.
    corrected = attribute(_target(config, "update"), "corrects", False)
    if corrected or attribute(_target(config, "weights"), "reach", "none") != "none":
        return None
    for group, usual in (("behavior", "current"), ("reuse", "no_reuse")):
        if group in config and _option(config, group) != usual:
            return f"weights: on_policy, expected others, as weights=balance, for {group}={_option(config, group)}"
    return None


def _kind_of_another_return(config: Tree) -> str | None:
    weights = _target(config, "weights")
    kind, weighs = attribute(weights, "kind", "prefix"), attribute(_target(config, "returns"), "weighs", "prefix")
    if attribute(weights, "reach", "none") == "none" or kind == weighs:
        return None
    fitting = "one_step" if weighs == "step" else "trajectory, per_decision or balance"
    return f"weights: {_option(config, 'weights')}, expected {fitting} for returns={_option(config, 'returns')}"


def _critic_of_another_return(config: Tree) -> str | None:
    returns, of_actions = _target(config, "returns"), _option(config, "critic") == "action_value_critic"
    name = _option(config, "returns")
    if not of_actions and attribute(returns, "needs_action_values", False):
        return f"critic: {_option(config, 'critic')}, expected critic=action_value for returns={name}"
    if of_actions and attribute(returns, "fits_states_alone", False):
        return f"critic: action_value, expected critic=value for returns={name}"
    return None


def _corrected_twice(config: Tree) -> str | None:
    weights = _target(config, "weights")
    if not attribute(_target(config, "update"), "corrects", False) or attribute(weights, "reach", "none") == "none":
        return None
    if attribute(weights, "kind", "prefix") == "step":
        return None
    own = f"update={_option(config, 'update')}, which takes ratios of its own"
    return f"weights: {_option(config, 'weights')}, expected weights=on_policy for {own}"


def _terms_for_another_update(config: Tree) -> str | None:
    update, estimator = _target(config, "update"), config.get("estimator", {})
    if not attribute(update, "needs_single_terms", False):
        return None
    name = _option(config, "update")
    if estimator.get("control_variate", "none") != "none":
        return f"estimator.control_variate: {estimator['control_variate']}, expected none for update={name}"
    several = ("needs_action_values", "needs_simulator")
    if any(attribute(_target(config, "estimator"), name, False) for name in several):
        return f"estimator: {_option(config, 'estimator')}, expected score_function for update={name}"
    return None


def _reference_of_rewards(config: Tree) -> str | None:
    if not attribute(_target(config, "update"), "reads_rewards", False):
        return None
    name = _option(config, "update")
    if _on_slabs(config):
        return f"collect: steps, expected collect=episodes for update={name}"
    if _option(config, "baseline") != "zero":
        return f"baseline: {_option(config, 'baseline')}, expected zero for update={name}, which reads rewards alone"
    return None


def _minibatch_beyond_batch(config: Tree) -> str | None:
    slabs, update = _on_slabs(config), config.get("update", {})
    key = "collect.steps" if slabs else "collect.episodes"
    pieces, length = update.get("minibatches"), config.get("collect", {}).get(key.partition(".")[2])
    if pieces is None or length is None:
        return None
    lanes, unit = config.get("env", {}).get("num_envs", 1), "rows"
    of = update.get("minibatch_of")
    if of == "columns" or (of == "auto" and attribute(_target(config, "policy"), "recurrent", False)):
        size, unit = lanes if slabs else length, "columns"
    elif slabs:
        size = length * lanes
    else:
        return None  # how many rows episodes have is known once they are played
    size *= config.get("reuse", {}).get("batches", 1)
    if pieces <= size:
        return None
    return f"update.minibatches: {pieces}, expected at most the {size} {unit} of {key}={length}"


def _rows_of_a_memory(config: Tree) -> str | None:
    if config.get("update", {}).get("minibatch_of") != "steps":
        return None
    if not attribute(_target(config, "policy"), "recurrent", False):
        return None
    return f"update.minibatch_of: steps, expected auto or columns for policy={_option(config, 'policy')}"


def _discounted_twice(config: Tree) -> str | None:
    # The whole return already carries γ^t; a second factor would make it the gradient of nothing.
    if _option(config, "returns") != "total" or not config.get("estimator", {}).get("discount_states"):
        return None
    if config.get("gamma", 1) == 1:
        return None
    return "estimator.discount_states: true, expected false for returns=total, which discounts already"


def _nesterov_without_momentum(config: Tree) -> str | None:
    optimizer = config.get("optimizer", {})
    if not optimizer.get("nesterov") or optimizer.get("momentum"):
        return None
    return f"optimizer.momentum: {optimizer.get('momentum', 0)}, expected above 0 for optimizer.nesterov=true"


def _acting_by_another(config: Tree) -> str | None:
    if _option(config, "collect") != "torch_steps_collector" or _option(config, "behavior") in ("", "current"):
        return None
    return f"collect: torch_steps, expected collect=steps for behavior={_option(config, 'behavior')}"


def _mixture_without_densities(config: Tree) -> str | None:
    if config.get("reuse", {}).get("keep") != "log_probabilities":
        return None
    if attribute(_target(config, "weights"), "reach", "none") != "all":
        return None
    name = _option(config, "weights")
    return f"reuse.keep: log_probabilities, expected parameters for weights={name}, or weights=constant_mixture"


def _shrunk_prefixes(config: Tree) -> str | None:
    weights = config.get("weights", {})
    if not weights.get("per_decision"):
        return None
    for key in ("truncate", "power_mean"):
        if weights.get(key) is not None:
            return (
                f"weights.{key}: {weights[key]}, expected null with weights.per_decision=true: such prefixes shrink "
                "later rewards, which teaches a policy to end its episodes"
            )
    return None


CONTRADICTIONS: Sequence[Callable[[Tree], str | None]] = (
    _too_few_columns,
    _too_few_samples,
    _uneven_quota,
    _uneven_evaluation,
    _values_without_critic,
    _slabs_of_cut_episodes,
    _uncorrected,
    _kind_of_another_return,
    _critic_of_another_return,
    _corrected_twice,
    _terms_for_another_update,
    _reference_of_rewards,
    _minibatch_beyond_batch,
    _rows_of_a_memory,
    _discounted_twice,
    _nesterov_without_momentum,
    _acting_by_another,
    _mixture_without_densities,
    _shrunk_prefixes,
)
"""Each takes a checked configuration and returns a complaint that names both keys, or None."""
