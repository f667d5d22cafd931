"""The part of Minari that pgkit calls, over data sets in memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import gymnasium as gym
import numpy as np


@dataclass
class Episode:
    """What `iterate_episodes` yields."""

    observations: Any
    actions: np.ndarray
    rewards: np.ndarray
    terminations: np.ndarray
    truncations: np.ndarray
    infos: dict[str, np.ndarray] = field(default_factory=dict)


@dataclass
class DataSet:
    """What `load_dataset` returns."""

    observation_space: gym.Space[Any]
    action_space: gym.Space[Any]
    episodes: list[Episode]

    def iterate_episodes(self) -> Iterator[Episode]:
        yield from self.episodes


def module(**datasets: DataSet) -> ModuleType:
    """Returns a module `minari` that holds these data sets."""
    made = ModuleType("minari")

    def load_dataset(name: str) -> DataSet:
        if name not in datasets:
            raise FileNotFoundError(f"Dataset {name} not found locally.")
        return datasets[name]

    made.load_dataset = load_dataset  # type: ignore[attr-defined]  # a module made here
    return made
