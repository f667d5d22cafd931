"""From a checked configuration to the parts of a run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from omegaconf import DictConfig

from pgkit.agreement import check_agreement, has_action_values, has_values, needs_simulator
from pgkit.config import build
from pgkit.core.persample import layout, num_parameters
from pgkit.errors import UsageError
from pgkit.experience import Behavior, Reuse, Weights
from pgkit.objectives import Objective, Update
from pgkit.playback import restore
from pgkit.protocols import Baseline, Critic, Estimator, Policy, Returns
from pgkit.rl.collect import Collector, EpisodesCollector, StepsCollector
from pgkit.rl.continuations import Continuations
from pgkit.rl.dividing import Divided
from pgkit.rl.gathering import Gathered, Moved
from pgkit.rl.lanes import Lanes
from pgkit.rl.objective import PolicyObjective
from pgkit.rl.simulated import simulator_of
from pgkit.run.checkpoint import load_policy_state
from pgkit.run.device import device_of, place
from pgkit.run.seeds import Streams, draw_seed
from pgkit.run.world import World
from pgkit.simulators.base import Simulator
from pgkit.snapshot import Diagnostic, Facts
from pgkit.types import Coupling


def alone(objective: PolicyObjective) -> Objective:
    """Returns an objective as a single process has it: as it is."""
    return objective


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
    simulator: Simulator | None = None
    shared: Callable[[PolicyObjective], Objective] = alone

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
    def groups_apart(self) -> bool:
        """Whether groups of columns that began alike are independent of each other: nothing is taken across them."""
        baseline, estimator = self.baseline, self.estimator
        own = not estimator.reads_baseline or getattr(baseline, "within", "") == "group"
        return (
            (own or baseline.coupling == "independent")
            and (estimator.coupling == "independent" or getattr(estimator, "within_groups", False))
            and self.weights.reach == "none"
            and self.reuse.batches == 1
        )

    @property
    def vectorization(self) -> str:
        """How the environments run: as the lanes do, unless the collector has a way of its own."""
        collector = self.collector.collector if isinstance(self.collector, Moved) else self.collector
        return str(getattr(collector, "vectorization", self.lanes.vectorization))

    @property
    def num_parameters(self) -> int:
        """Trainable parameters of the policy."""
        return num_parameters(self.policy)


def assemble(config: DictConfig, world: World | None = None) -> Parts:
    """Returns the parts of a run, new; no environment has been started and nothing has been written.

    Of the processes that share a run in a `world` each has its share of the lanes, and the first one the instruments.

    Raises: UsageError for whatever a part does not accept, and for parts that do not fit each other.
    """
    world = World({}) if world is None else world
    device = device_of(config.device, local_rank=world.local_rank)
    trusted = list(config.trusted_packages)
    streams = Streams.from_seed(config.seed)
    lanes = build(_shared(config["env"], "num_envs", world), expects=Lanes, trusted=trusted)
    num_lanes = world.size * lanes.num_lanes
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
    weights = build(config["weights"], expects=Weights, trusted=trusted)
    facts = Facts(
        env=config.env.id,
        columns=config.collect.get("episodes", num_lanes),
        whole_episodes="episodes" in config.collect,
        has_values=has_values(critic),
        has_action_values=has_action_values(critic, lanes.action_space),
        layout=layout(policy),
        # A plug-in that does not say so leaves the states as they come.
        controlled=estimator.controlled or estimator.needs_action_values or needs_simulator(estimator),
        discounted=any(getattr(part, "discount_states", False) for part in (returns, estimator)),
        dynamics=lanes.dynamics,
        batches=config.reuse.get("batches", 1),
        weights=None if weights.reach == "none" else weights.kind,
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
            num_lanes=num_lanes,
        )
    acted = {"policy": policy, "behavior": behavior}
    continuations = Continuations(lanes, np.random.default_rng(draw_seed(streams.diagnostics)))
    offers = {"facts": facts, "policy": policy, "continue_from": continuations}
    optimizer = build(
        config["optimizer"], expects=torch.optim.Optimizer, trusted=trusted, params=list(policy.parameters())
    )
    shuffling = torch.Generator().manual_seed(draw_seed(streams.minibatches))
    moving = {"policy": policy, "generator": shuffling}
    collector = build(
        _shared(config["collect"], "episodes", world),
        expects=Collector,
        trusted=trusted,
        offers={"policy": policy},
        lanes=lanes,
    )
    if world.size > 1:
        _check_shared(collector, behavior, world)
        learnt = [part for part in (policy, getattr(critic, "network", None)) if isinstance(part, torch.nn.Module)]
        collector = Gathered(
            collector, world, num_lanes=num_lanes, parameters=lambda: [p for part in learnt for p in part.parameters()]
        )
        if hasattr(critic, "divide"):
            critic.divide(world.division)
    parts = Parts(
        streams=streams,
        lanes=lanes,
        behavior=behavior,
        reuse=build(config["reuse"], expects=Reuse, trusted=trusted, offers=acted),
        collector=collector if device.type == "cpu" else Moved(collector, device),
        policy=policy,
        critic=critic,
        returns=returns,
        baseline=baseline,
        weights=weights,
        estimator=estimator,
        update=build(config["update"], expects=Update, trusted=trusted, offers=moving, optimizer=optimizer),
        diagnostics={
            name: build(node, expects=Diagnostic, trusted=trusted, offers=offers)
            for name, node in config.diagnostics.items()
            if name != "every" and world.leads
        },
        simulator=simulator_of(lanes) if needs_simulator(estimator) else None,
        shared=alone if world.size == 1 else partial(Divided, division=world.division),
    )
    if device.type != "cpu":
        place(policy, critic, returns, baseline, weights, estimator, behavior, parts.reuse, parts.update, device=device)
    check_agreement(parts, columns=facts.columns, whole_episodes=facts.whole_episodes)
    return parts


def _shared(node: DictConfig, key: str, world: World) -> DictConfig:
    """Returns a node with one process's share of a number that it may have.

    Raises: UsageError where that cannot be divided.
    """
    shared = node.copy()
    if key in shared:
        shared[key] = world.share(str(node._get_full_key(key)), shared[key])
    return shared


def _check_shared(collector: Any, behavior: Behavior, world: World) -> None:
    """Raises UsageError for what several processes cannot share."""
    if not isinstance(collector, EpisodesCollector | StepsCollector):
        raise UsageError(f"collect: {type(collector).__name__} in {world.size} processes, expected episodes or steps")
    if not behavior.on_policy:
        raise UsageError(f"behavior: {type(behavior).__name__} in {world.size} processes, expected behavior=current")


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
