"""Playing a fixed policy, on lanes and random streams of its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np
import torch

from pgkit.rl.collect import Batch, EpisodesCollector
from pgkit.rl.lanes import Lanes
from pgkit.rl.recording import ActionLaw, Actor


@final
@dataclass(frozen=True)
class Deterministic:
    """A law that always takes the most probable action; the noise it is given is drawn and ignored."""

    law: ActionLaw

    def fault(self, parameters: np.ndarray, acted: np.ndarray) -> str | None:
        """Returns what the law itself finds wrong with parameters."""
        return self.law.fault(parameters, acted)

    def allowed(self, parameters: np.ndarray) -> np.ndarray | None:
        """Returns the choices that the law itself allowed."""
        return self.law.allowed(parameters)

    def noise(self, generator: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        """Returns the noise of the law itself."""
        return self.law.noise(generator, shape)

    def sample(self, parameters: np.ndarray, noise: np.ndarray) -> np.ndarray:
        """Returns the modes."""
        return self.law.mode(parameters)

    def mode(self, parameters: np.ndarray) -> np.ndarray:
        """Returns the modes."""
        return self.law.mode(parameters)

    def to_environment(self, actions: np.ndarray) -> np.ndarray:
        """Returns the actions as the environment takes them."""
        return self.law.to_environment(actions)

    def log_prob(self, parameters: torch.Tensor, actions: torch.Tensor) -> torch.Tensor:
        """Returns the log-probability of the modes under the law itself."""
        return self.law.log_prob(parameters, actions)


def play(
    lanes: Lanes, act: Actor, law: ActionLaw, *, episodes: int, seeds: list[int], generator: np.random.Generator
) -> Batch:
    """Returns `episodes` whole episodes, a multiple of the lanes, with their raw returns and lengths.

    Raises: RunFault where an episode does not end.
    """
    collector = EpisodesCollector(lanes=lanes, episodes=episodes)
    collector.start(seeds)
    return collector.collect(act, law, generator)
