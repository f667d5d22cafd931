"""One root seed, split into named streams that know nothing of each other."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, final

import numpy as np


@final
@dataclass(frozen=True, kw_only=True)
class Streams:
    """The random streams of a run: what one of them draws changes nothing in another.

    Each is keyed by its name and not by its place, so that a stream added tomorrow leaves today's runs as they were.
    """

    environments: np.random.Generator
    policy: np.random.Generator
    parameters: np.random.Generator
    minibatches: np.random.Generator
    evaluation: np.random.Generator
    diagnostics: np.random.Generator
    samples: np.random.Generator

    @classmethod
    def from_seed(cls, seed: int) -> Streams:
        """Returns the streams of a root seed, at least 0."""
        return cls(**{field.name: _stream(seed, field.name) for field in fields(cls)})

    def state_dict(self) -> dict[str, Any]:
        """Returns the state of every generator in plain ints and strings, some of 128 bits."""
        return {field.name: dict(getattr(self, field.name).bit_generator.state) for field in fields(self)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Puts every generator where it was."""
        for field in fields(self):
            getattr(self, field.name).bit_generator.state = state[field.name]


def draw_seed(generator: np.random.Generator) -> int:
    """Returns the next integer seed of a stream, below 2**31, which every library accepts."""
    return draw_seeds(generator, 1)[0]


def draw_seeds(generator: np.random.Generator, count: int) -> list[int]:
    """Returns `count` different integer seeds below 2**31."""
    return [int(seed) for seed in generator.choice(2**31, size=count, replace=False)]


def _stream(seed: int, name: str) -> np.random.Generator:
    sequence = np.random.SeedSequence(seed, spawn_key=(zlib.crc32(name.encode()),))
    return np.random.Generator(np.random.PCG64(sequence))
