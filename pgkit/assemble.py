"""From a checked configuration to the parts of a run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from gymnasium.spaces import Box, Space
from omegaconf import DictConfig

from pgkit.action_values import ActionCritic
from pgkit.config import build
from pgkit.core.persample import layout, num_parameters
from pgkit.critics.none import NoCritic
from pgkit.errors import UsageError
from pgkit.experience import Behavior, Reuse, Weights
from pgkit.objectives import Update
from pgkit.playback import restore
from pgkit.protocols import Baseline, Critic, Estimator, Policy, Returns
from pgkit.rl.collect import Collector
from pgkit.rl.continuations import Continuations
from pgkit.rl.lanes import Lanes
from pgkit.run.checkpoint import load_policy_state
from pgkit.run.seeds import Streams, draw_seed
from pgkit.snapshot import Diagnostic, Facts
from pgkit.types import Coupling


@dataclass(frozen=True, kw_only=True)
class Parts:
    """Everything that a run is made of; each part knows the others only through the protocols of `types.py`."""

    streams: Streams
    lanes: Lanes
    behavior: Behavior
    reuse: Reuse
    collector: Collector
    policy: Any
    critic: Critic
    returns: Returns
    baseline: Baseline
    weights: Weights
    estimator: Estimator
    update: Update
    diagnostics: Mapping[str, Diagnostic]

    @property
    def coupling(self) -> Coupling:
        """How the estimate ties the columns of a batch together."""
        reference: Coupling = self.baseline.coupling if self.estimator.reads_baseline else "independent"
        if reference == "pairwise" and (self.estimator.needs_action_values or self.weights.reach == "all"):
            # The U-statistic knows nothing of what such an estimator adds to the rows, nor of several laws.
            reference = "cross_fitted"
        # Given the policies that acted the columns are independent, but reused ones steered the policy that learns.
        reused: Coupling = "cross_fitted" if self.reuse.batches > 1 else "independent"
        strengths = get_args(Coupling)
        return max(reference, self.estimator.coupling, reused, key=strengths.index)

    @property
    def num_parameters(self) -> int:
        """Trainable parameters of the policy."""
        return num_parameters(self.policy)


def assemble(config: DictConfig) -> Parts:
    """Returns the parts of a run, new; no environment has been started and nothing has been written.

    Raises: UsageError for whatever a part does not accept, and for parts that do not fit each other.
    """
    trusted = list(config.trusted_packages)
    streams = Streams.from_seed(config.seed)
    lanes = build(config["env"], expects=Lanes, trusted=trusted)
    spaces = {"observation_space": lanes.observation_space}
    with forked_torch_generator(draw_seed(streams.parameters)):
        policy = build(config["policy"], expects=Policy, trusted=trusted, action_space=lanes.action_space, **spaces)
        minibatches = torch.Generator().manual_seed(draw_seed(streams.minibatches))
        offered = {"action_space": lanes.action_space, "policy": policy}
        critic = build(
            config["critic"], expects=Critic, trusted=trusted, offers=offered, generator=minibatches, **spaces
        )
    returns = build(config["returns"], expects=Returns, trusted=trusted)
    estimator = build(config["estimator"], expects=Estimator, trusted=trusted)
    facts = Facts(
        env=config.env.id,
        columns=config.collect.get("episodes", lanes.num_lanes),
        whole_episodes="episodes" in config.collect,
        has_values=has_values(critic),
        layout=layout(policy),
        # A plug-in that does not say so leaves the states as they come.
        controlled=estimator.controlled or estimator.needs_action_values,
        discounted=any(getattr(part, "discount_states", False) for part in (returns, estimator)),
        dynamics=lanes.dynamics,
    )
    with forked_torch_generator(draw_seed(streams.parameters)):
        known = {"facts": facts, "critic": critic, **spaces}
        baseline = build(config["baseline"], expects=Baseline, trusted=trusted, offers=known)
        loading = {"load_policy": partial(_load_policy, lanes=lanes, trusted=trusted)}
        behavior = build(
            config["behavior"],
            expects=Behavior,
            trusted=trusted,
            offers=loading,
            policy=policy,
            num_lanes=lanes.num_lanes,
        )
    acted = {"policy": policy, "behavior": behavior}
    continuations = Continuations(lanes, np.random.default_rng(draw_seed(streams.diagnostics)))
    offers = {"facts": facts, "policy": policy, "continue_from": continuations}
    optimizer = build(
        config["optimizer"], expects=torch.optim.Optimizer, trusted=trusted, params=list(policy.parameters())
    )
    shuffling = torch.Generator().manual_seed(draw_seed(streams.minibatches))
    moving = {"policy": policy, "generator": shuffling}
    parts = Parts(
        streams=streams,
        lanes=lanes,
        behavior=behavior,
        reuse=build(config["reuse"], expects=Reuse, trusted=trusted, offers=acted),
        collector=build(config["collect"], expects=Collector, trusted=trusted, lanes=lanes),
        policy=policy,
        critic=critic,
        returns=returns,
        baseline=baseline,
        weights=build(config["weights"], expects=Weights, trusted=trusted),
        estimator=estimator,
        update=build(config["update"], expects=Update, trusted=trusted, offers=moving, optimizer=optimizer),
        diagnostics={
            name: build(node, expects=Diagnostic, trusted=trusted, offers=offers)
            for name, node in config.diagnostics.items()
            if name != "every"
        },
    )
    _check_fit(parts, config)
    return parts


@contextmanager
def forked_torch_generator(seed: int) -> Iterator[None]:
    """Seeds torch's global generator inside the block and leaves it as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def _load_policy(folder: str, *, lanes: Lanes, trusted: Sequence[str]) -> Any:
    """Returns the policy of a finished run, for the environment of this one.

    Raises: UsageError for a folder without one, or with other spaces.
    """
    saved = load_policy_state(Path(folder) / "checkpoints" / "last")
    saved.expect_spaces(lanes.observation_space, lanes.action_space)
    return restore(saved, trusted=trusted)


def has_values(critic: object) -> bool:
    """Returns whether a critic has values to give."""
    return not isinstance(critic, NoCritic)


def _check_fit(parts: Parts, config: DictConfig) -> None:
    """Holds every part, plug-ins too, to what it says of itself."""
    columns = config.collect.get("episodes", parts.lanes.num_lanes)
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
    if getattr(parts.update, "needs_single_terms", False) and (
        parts.estimator.needs_action_values or parts.estimator.controlled
    ):
        raise UsageError(f"estimator: {_name(parts.estimator)}, expected plain terms for update {_name(parts.update)}")
    parts.estimator.accepts(parts.lanes.action_space, columns)
    refuse_coupled_control(parts.estimator, parts.baseline)
    if parts.estimator.controlled and columns < 2:
        raise UsageError("estimator.control_variate: with 1 column a batch, expected 2 at least (collect.episodes)")
    if not has_values(parts.critic):
        needy: Sequence[Any] = (parts.returns, parts.baseline)
        for group, part in zip(("returns", "baseline"), needy, strict=True):
            if part.needs_values:
                raise UsageError(f"{group}: {_name(part)} without a critic, expected critic=value")
    for group, whole in (("returns", parts.returns), ("weights", parts.weights)):
        if whole.needs_whole_episodes and "episodes" not in config.collect:
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
