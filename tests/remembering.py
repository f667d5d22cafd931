"""Policies with a memory that is far from empty, and batches that they collected."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from gymnasium import spaces

from pgkit.policies.recurrent import GRUPolicy, LSTMPolicy, RecurrentPolicy
from pgkit.rl.collect import EpisodesCollector, StepsCollector
from pgkit.rl.lanes import Lanes
from pgkit.types import Trajectories

Collect = Literal["steps", "episodes"]
KINDS: dict[str, type[RecurrentPolicy]] = {"gru": GRUPolicy, "lstm": LSTMPolicy}
SEEN, ACTIONS = spaces.Box(-9, 9, (4,)), spaces.Discrete(2)


def policy_of(
    kind: str, observations: spaces.Space[Any] = SEEN, actions: spaces.Space[Any] = ACTIONS, **options: Any
) -> RecurrentPolicy:
    """Returns a small policy whose parameters are all of the order of 1, so that what it remembers matters."""
    policy = KINDS[kind](
        observation_space=observations,
        action_space=actions,
        **{"hidden_sizes": [5], "memory_size": 3, "init": "default", **options},
    )
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.copy_(0.8 * torch.randn(parameter.shape, generator=generator))
    return policy


def collected(
    actor: Any,
    law: Any,
    *,
    collect: Collect,
    batches: int = 1,
    num_lanes: int = 3,
    steps: int = 40,
) -> list[Trajectories]:
    """Returns batches of CartPole, one after the other."""
    lanes = Lanes(id="CartPole-v1", num_envs=num_lanes, vectorization="sync")
    collector = (
        StepsCollector(lanes=lanes, steps=steps)
        if collect == "steps"
        else EpisodesCollector(lanes=lanes, episodes=2 * num_lanes)
    )
    generator = np.random.default_rng(0)
    collector.start(list(range(num_lanes)))
    try:
        return [collector.collect(actor, law, generator).trajectories for _ in range(batches)]
    finally:
        lanes.close()
