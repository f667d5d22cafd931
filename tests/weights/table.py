"""Prints the exact biases and variances of docs/off_policy.md, in Markdown: `python -m tests.weights.table`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from tests.weights.test_exact import FORMS, TWO, pool_of, reference_of
from tests.weights.test_reused_batches import bias

ROWS = (
    "trajectory", "per_decision", "constant decay", "balance", "balance per_decision", "balance defensive", "power",
    "trajectory self_normalise", "balance self_normalise", "balance truncate", "balance power_mean",
)  # fmt: skip
POOLS = {(4, 5): "the policy itself and another", (5, 6): "two others"}


def cells(name: str) -> Iterator[str]:
    """Yields bias / |∇J| and tr Cov / |∇J|² of a weight, for both pools and two baselines."""
    make, form = FORMS[name]
    for seeds in POOLS:
        pool = pool_of("tree", seeds)
        gradient = pool.gradient().numpy()
        for baseline in ("value", "leave_one_out"):
            _, reference = reference_of(baseline, make())
            mean, square = np.zeros(()), 0.0
            for drawn, chance in pool.batches(TWO):
                found = pool.defined(drawn, TWO, form, reference)
                mean, square = mean + chance * found, square + chance * float(found @ found)
            length = np.linalg.norm(gradient)
            error = np.linalg.norm(mean - gradient) / length
            yield f"{0 if error < 1e-9 else round(float(error), 3)}, {(square - mean @ mean) / length**2:.1f}"


def references(seeds: tuple[int, ...]) -> Iterator[str]:
    """Yields tr Cov / |∇J|², or the bias, of balance weights under three ways to average the other columns."""
    pool, form = pool_of("tree", seeds), FORMS["balance"][1]
    gradient = pool.gradient().numpy()
    for average in (
        lambda w, signal: signal.mean(axis=0),
        lambda w, signal: (w * signal).mean(axis=0),
        lambda w, signal: (w * signal).sum(axis=0) / w.sum(axis=0),
    ):
        mean, square = np.zeros(()), 0.0
        for drawn, chance in pool.batches(TWO):
            weights = form(pool, drawn, TWO)

            def reference(signal: Any, values: Any, ids: Any, weights: Any = weights, average: Any = average) -> Any:
                groups = [[j for j in range(4) if j // 2 == k] for k in range(2)]
                others = [[[j for j in group if j != i] for group in groups] for i in range(4)]
                return np.array([sum(0.5 * average(weights[o], signal[o]) for o in each) for each in others])

            found = pool.defined(drawn, TWO, form, reference)
            mean, square = mean + chance * found, square + chance * float(found @ found)
        error = np.linalg.norm(mean - gradient) / np.linalg.norm(gradient)
        yield f"{0 if error < 1e-9 else round(float(error), 3)}, {(square - mean @ mean) / (gradient @ gradient):.1f}"


def main() -> None:
    """Prints the tables."""
    torch.set_default_dtype(torch.float64)
    titles = [f"{words}, `{baseline}`" for words in POOLS.values() for baseline in ("value", "leave_one_out")]
    print(f"| weights | {' | '.join(titles)} |\n|---|{'---|' * len(titles)}")
    for name in ROWS:
        print(f"| {name} | {' | '.join(cells(name))} |", flush=True)
    print("\n| data of | mean of the others | mean of w times them | self-normalised |\n|---|---|---|---|")
    for seeds, words in POOLS.items():
        print(f"| {words} | {' | '.join(references(seeds))} |", flush=True)
    print("\n| columns | weights | baseline | bias / gradient, step 0.01 | step 0.1 | bias / noise, step 0.1 |")
    print("|---|---|---|---|---|---|")
    for columns in (2, 4):
        for weights in ("balance", "trajectory"):
            for baseline in ("zero", "leave_one_out"):
                small, large = (bias(rate, weights, baseline, columns=columns) for rate in (0.01, 0.1))
                shares = (small[0] / small[1], large[0] / large[1], large[0] / large[2])
                numbers = " | ".join(f"{share:.3f}" for share in shares)
                print(f"| {columns} + {columns} | {weights} | {baseline} | {numbers} |", flush=True)


if __name__ == "__main__":
    main()
