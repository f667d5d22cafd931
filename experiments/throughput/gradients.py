"""Prints what gradient statistics of a batch cost, as ratios to one ordinary backward pass over the same batch.

    python experiments/throughput/gradients.py

In one process on one thread: every quantity is computed in turn, many times, and each round's times are divided by
the ordinary pass of that round.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from time import process_time

import numpy as np
import torch
from gymnasium import spaces
from threadpoolctl import threadpool_limits
from torch import Tensor, nn

from pgkit.core.moments import pair_moments
from pgkit.core.persample import per_sample_by_vmap
from pgkit.core.scores import Scores
from pgkit.policies.mlp import MLPPolicy
from pgkit.rl.factors import LogProbability

SHAPES = ((128, 8), (128, 16), (500, 8), (64, 256))
VECTORS = 10
TITLES = (
    "per-trajectory gradients",
    f"{VECTORS} vectors of them",
    "by vmap, one vector",
    "pairwise variance",
)


class Batch:
    """Random observations, actions and coefficients for a 2 x 64 tanh policy, `[T, N]`."""

    def __init__(self, num_rows: int, num_columns: int) -> None:
        torch.manual_seed(0)
        observations = spaces.Box(-np.inf, np.inf, (4,), np.float32)
        self.policy = MLPPolicy(observation_space=observations, action_space=spaces.Discrete(2))
        self.module: nn.Module = LogProbability(self.policy)
        self.inputs = (torch.randn(num_rows, num_columns, 4), torch.randint(2, (num_rows, num_columns)))
        self.mask = torch.ones(num_rows, num_columns, dtype=torch.bool)
        self.coefficients = torch.randn(VECTORS, num_rows, num_columns)

    def ordinary(self) -> None:
        """One forward and one backward pass, as an update makes them."""
        self.module.zero_grad()
        (self.module(*self.inputs) * self.coefficients[0]).sum().backward()

    def per_sample(self, vectors: int) -> None:
        """Every column's gradient under several coefficient vectors, reduced to sums of squares."""
        scores = Scores(self.module, self.inputs, self.mask)
        for _, gradients in scores.gradients(self.coefficients[:vectors]):
            gradients.square().sum()

    def vmapped(self) -> None:
        """The same for one vector, by the general path."""
        per_sample_by_vmap(self.module, self.inputs, self.coefficients[:1]).square().sum()

    def pairwise(self) -> None:
        """The variance of a leave-one-out mean from the cross gradients of the first 16 columns."""
        columns = slice(0, min(16, self.mask.shape[1]))
        scores = Scores(self.module, self.inputs, self.mask)
        outcomes: Tensor = self.coefficients[0][:, columns]
        cross = scores.gradients_of(columns, outcomes.T[:, :, None].expand(-1, -1, outcomes.shape[1]))
        pair_moments(cross)


def seconds(action: Callable[[], None]) -> float:
    """Returns the processor time that an action takes, on which other programs weigh less than on the wall clock."""
    start = process_time()
    action()
    return process_time() - start


def row(batch: Batch, rounds: int) -> str:
    """Returns the medians and quartiles of the ratios for one batch, as a row of the table."""
    actions = (
        lambda: batch.per_sample(1),
        lambda: batch.per_sample(VECTORS),
        batch.vmapped,
        batch.pairwise,
    )
    for action in (batch.ordinary, *actions):
        action()
    times = np.array([[seconds(action) for action in (batch.ordinary, *actions)] for _ in range(rounds)])
    low, middle, high = np.quantile(times[:, 1:] / times[:, :1], (0.25, 0.5, 0.75), axis=0)
    return " | ".join(
        f"{median:.1f} [{least:.1f}, {most:.1f}]" for least, median, most in zip(low, middle, high, strict=True)
    )


def main() -> None:
    """Measures and prints a table in Markdown."""
    parser = argparse.ArgumentParser(description="The cost of gradient statistics over one ordinary backward pass.")
    parser.add_argument("--rounds", type=int, default=30, help="times that everything is computed, in turn")
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    print(f"| T x N | {' | '.join(TITLES)} |\n|---{'|---' * len(TITLES)}|")
    with threadpool_limits(limits=1):
        for num_rows, num_columns in SHAPES:
            print(f"| {num_rows} x {num_columns} | {row(Batch(num_rows, num_columns), rounds)} |", flush=True)


if __name__ == "__main__":
    main()
