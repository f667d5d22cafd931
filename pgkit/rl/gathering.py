"""Batches from lanes of several processes, and batches that are learnt from elsewhere than on the host."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import final

import numpy as np
import torch

from pgkit.rl.collect import Batch, Collector
from pgkit.rl.recording import ActionLaw, Actor


@final
class Moved:
    """A collector whose batches go to a device, each once and whole; what acts and steps stays on the host."""

    def __init__(self, collector: Collector, device: torch.device) -> None:
        self.collector, self.device = collector, device

    def start(self, seeds: Sequence[int]) -> None:
        """Seeds and resets every lane."""
        self.collector.start(seeds)

    def collect(self, act: Actor, law: ActionLaw, generator: np.random.Generator) -> Batch:
        """Returns the next batch, on the device."""
        batch = self.collector.collect(act, law, generator)
        return replace(batch, trajectories=batch.trajectories.to(self.device))
