"""Measures pairs, on several processor cores, each pair with random numbers of its own."""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace
from multiprocessing import get_context

import torch

from pgkit.errors import UsageError
from pgkit.problems.base import Problem
from pgkit.problems.measurement import measure
from pgkit.verifying.pairs import Pair
from pgkit.verifying.rows import Row, measured


def results(pairs: Sequence[Pair], *, num_samples: int, repeats: int, seed: int, workers: int) -> Iterator[Row]:
    """Yields the row of every pair, as they get done.

    A pair's random numbers follow from the seed and its names alone, whatever else is measured, and wherever.
    """
    if workers == 1 or len(pairs) == 1:
        for pair in pairs:
            yield _result(pair, num_samples, repeats, seed)
        return
    pool = ProcessPoolExecutor(min(workers, len(pairs)), mp_context=get_context("spawn"))
    try:
        futures = [pool.submit(_result, pair, num_samples, repeats, seed) for pair in pairs]
        for future in as_completed(futures):
            yield future.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _result(pair: Pair, num_samples: int, repeats: int, seed: int) -> Row:
    torch.set_num_threads(1)
    row = Row(problem=pair.problem.name, estimator=pair.estimator.name, baseline=pair.baseline.name)
    try:
        problem, estimator = pair.build()
        estimator.accepts(problem.expectation(), problem.parameters())
        if (particles := getattr(estimator, "particles", 1)) > 1:
            raise UsageError(f"estimator.particles: {particles}, a tighter bound with another gradient, expected 1")
        known = getattr(problem, "exact_gradient", None)
        found = measure(
            problem,
            estimator,
            num_samples=num_samples,
            repeats=repeats,
            generator=torch.Generator().manual_seed(
                seed + zlib.crc32(f"{row.problem}/{row.estimator}/{row.baseline}".encode())
            ),
            exact=None if known is None else known(problem.parameters()),
        )
        if not math.isfinite(found.variance) or not math.isfinite(found.z or 0.0):
            return replace(row, verdict="FAILED", reason="estimates that are not finite, expected numbers")
        plain = pair.baseline.name == "zero" and not pair.estimator.changed
        own = _exact_variance(problem, pair.estimator.name) if plain else None
        return measured(row, found, exact=own, score=_exact_variance(problem, "score"))
    except UsageError as error:
        return replace(row, verdict="refused", reason=str(error))
    except Exception as error:  # the other pairs go on; the table says what happened to this one
        return replace(row, verdict="FAILED", reason=" ".join(f"{type(error).__name__}: {error}".split()))


def _exact_variance(problem: Problem, estimator: str) -> float | None:
    known = getattr(problem, "exact_variance", None)
    variance = None if known is None else known(estimator, problem.parameters())
    return None if variance is None else float(variance.sum())
