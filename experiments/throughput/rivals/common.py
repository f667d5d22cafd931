"""What all measurements share: the setting, and how a rate is taken."""

from __future__ import annotations

import time
from collections.abc import Callable

LANES, ROWS, EPOCHS, MINIBATCHES = 8, 128, 4, 4
BATCH = LANES * ROWS
WIDTHS = [64, 64]
LEARNING_RATE, GAMMA, LAMBDA, CLIP = 2.5e-4, 0.99, 0.95, 0.2
ENTROPY, VALUE, GRADIENT_NORM = 0.01, 0.5, 0.5
WARM_UP = 2
"""Batches before the clock starts."""

Rates = dict[str, float]


class Stopwatch:
    """Wall and processor seconds since it was made."""

    def __init__(self) -> None:
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def rates(self, steps: int) -> Rates:
        """Returns steps per second of both kinds."""
        return {
            "wall": steps / (time.perf_counter() - self._wall),
            "cpu": steps / (time.process_time() - self._cpu),
        }


def repeated(update: Callable[[], int], steps: int) -> Rates:
    """Returns the rate at which `update` makes transitions; it returns how many each call made."""
    for _ in range(WARM_UP):
        update()
    watch, made = Stopwatch(), 0
    while made < steps:
        made += update()
    return watch.rates(made)


def one_thread() -> None:
    """Keeps torch to one thread."""
    import torch

    torch.manual_seed(0)
    torch.set_num_threads(1)
