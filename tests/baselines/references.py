"""Every baseline once more, by its definition: numpy, loops over samples and times, scores in closed form.

A trajectory is what the policy's table and the process say of it; nothing here is pgkit's but the process.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pgkit.core.processes import Process

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Step:
    """One step: where, when, what multiplies its score, what it is credited with, V there, and its score `[P]`."""

    state: int
    time: int
    scale: float
    signal: float
    value: float
    score: Array


Sample = Sequence[Step]
Reference = Callable[[Sequence[Sample], int, Step], float]
"""What is subtracted at a step of the i-th sample of a batch."""


def samples(process: Process, table: Array, values: Array, *, gamma: float, behaviour: Array) -> list[list[Step]]:
    """Returns every trajectory under π(a|s) `[S, A]`, drawn by another policy `[S, A]`, with V `[T+1, S]`.

    P is the weight `[A, S]` of the logits and their bias `[A]`.
    """
    found = []
    for _, path in process.trajectories:
        ratios = [table[state, action] / behaviour[state, action] for state, action, *_ in path]
        steps = []
        for t, (state, action, _, _) in enumerate(path):
            signal = sum(gamma ** (k - t) * path[k][2] * math.prod(ratios[t + 1 : k + 1]) for k in range(t, len(path)))
            slope = np.eye(process.num_actions)[action] - table[state]
            score = np.concatenate([np.outer(slope, np.eye(process.num_states)[state]).ravel(), slope])
            scale = gamma**t * math.prod(ratios[: t + 1])
            steps.append(Step(state, t, scale, signal, values[t, state], score))
        found.append(steps)
    return found


def estimate(batch: Sequence[Sample], reference: Reference) -> Array:
    """Returns the gradient estimate `[P]`."""
    terms = [
        step.scale * (step.signal - reference(batch, i, step)) * step.score
        for i, sample in enumerate(batch)
        for step in sample
    ]
    return np.sum(terms, axis=0) / len(batch)


def rest(batch: Sequence[Sample], i: int, folds: int | None = None) -> list[Sample]:
    """Returns the samples of the other folds, dealt in turn."""
    count = folds or len(batch)
    return [sample for j, sample in enumerate(batch) if j % count != i % count]


def constant(number: float) -> Reference:
    return lambda batch, i, step: number


def value(batch: Sequence[Sample], i: int, step: Step) -> float:
    return step.value


def tabulated(table: Sequence[float]) -> Reference:
    """A function of the state."""
    return lambda batch, i, step: table[step.state]


def mean(batch: Sequence[Sample], i: int, step: Step) -> float:
    return sum(sample[step.time].signal for sample in batch if len(sample) > step.time) / len(batch)


def leave_one_out(batch: Sequence[Sample], i: int, step: Step) -> float:
    signals = [sample[step.time].signal for sample in rest(batch, i) if len(sample) > step.time]
    return sum(signals) / (len(batch) - 1)


def survivors(batch: Sequence[Sample], i: int, step: Step) -> float:
    signals = [sample[step.time].signal for sample in rest(batch, i) if len(sample) > step.time]
    return sum(signals) / len(signals) if signals else 0.0


def gradient(sample: Sample) -> Array:
    return np.sum([step.scale * step.signal * step.score for step in sample], axis=0)


def score_sum(sample: Sample) -> Array:
    return np.sum([step.scale * step.score for step in sample], axis=0)


def divided(above: float, below: float) -> float:
    return above / below if below > 0 else 0.0


def optimal(folds: int | None = None) -> Reference:
    def at(batch: Sequence[Sample], i: int, step: Step) -> float:
        others = rest(batch, i, folds)
        above = sum(float(gradient(each) @ score_sum(each)) for each in others)
        return divided(above, sum(float(score_sum(each) @ score_sum(each)) for each in others))

    return at


def optimal_time(batch: Sequence[Sample], i: int, step: Step) -> float:
    """The ratio of each time, trusted by τ² / (τ² + v), τ² after DerSimonian and Laird."""
    others = rest(batch, i)
    last = max(map(len, batch))
    pairs = [
        [
            (float(own.scale * own.score @ gradient(each)), float(own.scale**2 * own.score @ own.score))
            for each in others
            if len(each) > t
            for own in [each[t]]
        ]
        for t in range(last)
    ]
    above, below = [sum(n for n, _ in time) for time in pairs], [sum(d for _, d in time) for time in pairs]
    common = divided(sum(above), sum(below))
    single = [divided(n, d) for n, d in zip(above, below, strict=True)]
    noise = [
        divided(sum((n - common * d) ** 2 for n, d in time), total**2) for time, total in zip(pairs, below, strict=True)
    ]
    known = [t for t in range(last) if noise[t] > 0]
    weights = {t: 1 / noise[t] for t in known}
    total = sum(weights.values())
    middle = divided(sum(weights[t] * single[t] for t in known), total)
    spread = sum(weights[t] * (single[t] - middle) ** 2 for t in known)
    freedom = total - divided(sum(w**2 for w in weights.values()), total)
    between = divided(max(0.0, spread - (len(known) - 1)), freedom)
    trust = divided(between, between + noise[step.time])
    return common + trust * (single[step.time] - common)


Features = Callable[[Step], Array]


def affine(step: Step) -> Array:
    return np.array([1.0, step.value])


def polynomial(num_states: int) -> Features:
    def at(step: Step) -> Array:
        x, time = np.eye(num_states)[step.state], step.time / 100
        crossed = [x[a] * x[b] for a in range(num_states) for b in range(a + 1, num_states)]
        return np.concatenate([[1.0], x, x**2, crossed, [time, time**2, time**3]])

    return at


def contributions(features: Features, sample: Sample) -> tuple[Array, Array]:
    """Returns what each feature alone would contribute to the gradient `[P, K]`, and the gradient `[P]`."""
    return np.sum([step.scale * np.outer(step.score, features(step)) for step in sample], axis=0), gradient(sample)


def outcomes(features: Features, sample: Sample) -> tuple[Array, Array]:
    """Returns the features `[T, K]` and the signals `[T]`."""
    return np.stack([features(step) for step in sample]), np.array([step.signal for step in sample])


Equations = Callable[[Features, Sample], tuple[Array, Array]]


def fitted(equations: Equations, features: Features, fit_to: Sequence[Sample], ridge: float) -> Array:
    """Returns the weights `[K]` of least squares over all rows, with a ridge that is a share of each column's size."""
    rows, goals = zip(*(equations(features, sample) for sample in fit_to), strict=True)
    matrix = np.concatenate(rows)
    size = np.square(matrix).sum(axis=0)
    # A column that is nothing but zeros has the weight 0, by a row of its own.
    prior = np.diag(np.sqrt(np.where(size > 0, ridge * size, 1.0)))
    goal = np.concatenate([*goals, np.zeros(len(size))])
    result: Array = np.linalg.lstsq(np.concatenate([matrix, prior]), goal, rcond=None)[0]
    return result


def regression(equations: Equations, features: Features, past: Sequence[Sample], ridge: float) -> Reference:
    """Fitted to the others in the batch and to the past."""

    def at(batch: Sequence[Sample], i: int, step: Step) -> float:
        return float(features(step) @ fitted(equations, features, [*rest(batch, i), *past], ridge))

    return at


def from_the_past(equations: Equations, features: Features, past: Sequence[Sample], ridge: float) -> Reference:
    """Fitted to the past alone."""
    weights = fitted(equations, features, past, ridge)
    return lambda batch, i, step: float(features(step) @ weights)


def controlled(batch: Sequence[Sample], layers: Sequence[Sequence[int]], reference: Reference) -> Array:
    """Returns the mean gradient less, in each group of parameters, the others' best multiple of the score sum."""
    own = [estimate([sample], lambda _, __, step, i=i: reference(batch, i, step)) for i, sample in enumerate(batch)]
    sums = [score_sum(sample) for sample in batch]
    result = np.zeros_like(own[0])
    for i in range(len(batch)):
        for layer in layers:
            others = [j for j in range(len(batch)) if j != i]
            above = sum(own[j][p] * sums[j][p] for j in others for p in layer)
            multiple = divided(above, sum(sums[j][p] ** 2 for j in others for p in layer))
            for p in layer:
                result[p] += (own[i][p] - multiple * sums[i][p]) / len(batch)
    return result
