"""Prints what a gradient of an expectation costs, as ratios to the obvious plain torch measured beside it.

    python experiments/throughput/expectations.py             # seven rounds
    python experiments/throughput/expectations.py --quick     # whether it works; no result

The contestants take turns, A B C … A B C …, so that a machine whose speed drifts slows all of them alike; a ratio is
that of one round, of processor time. What is plain computes the mean gradient alone, also beside the gradients of
single samples: there one batched backward pass is the measure, and so is what writing as many numbers once takes.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from statistics import median
from time import process_time
from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, MultivariateNormal, Normal

from pgkit.core.expectation import scores
from pgkit.estimate import estimate_gradient
from pgkit.types import Expectation, Parameters

TARGETS = {"score": 1.3, "pathwise": 1.3, "per-sample scores": 3.0, "per-sample pathwise": 3.0}


class Family(NamedTuple):
    """A family of Gaussian laws, its parameters in D dimensions, and the dimensions to measure."""

    law: Callable[[Parameters], Distribution]
    parameters: Callable[[int], dict[str, Tensor]]
    dimensions: tuple[int, ...]


FAMILIES = {
    "diagonal": Family(
        lambda theta: Independent(Normal(theta["mean"], theta["log_scale"].exp()), 1),
        lambda size: {"mean": torch.zeros(size), "log_scale": torch.zeros(size)},
        (1, 10, 100),
    ),
    "full rank": Family(
        lambda theta: MultivariateNormal(theta["mean"], scale_tril=theta["factor"]),
        lambda size: {"mean": torch.zeros(size), "factor": torch.eye(size) + torch.ones(size, size).tril(-1) / size},
        (10, 30, 100),
    ),
}


def cost(samples: Tensor) -> Tensor:
    """Returns |x|² and a ripple, `[N]`."""
    return (samples.square() + samples.cos()).sum(1)


def leaves(parameters: Parameters) -> dict[str, Tensor]:
    """Returns the parameters as leaves."""
    return {name: value.clone().requires_grad_() for name, value in parameters.items()}


class Contest(NamedTuple):
    """What pgkit does, the plain way, and how many numbers `[N, P]` pgkit writes, 0 where it is but the mean."""

    ours: Callable[[], object]
    plain: Callable[[], object]
    written: tuple[int, int] = (0, 0)


def contests(family: Family, dimension: int, num_samples: int) -> dict[str, Contest]:
    """Returns everything that is compared, by name."""
    law, parameters = family.law, family.parameters(dimension)
    samples = law(parameters).sample(torch.Size([num_samples]))
    expectation = Expectation(cost=cost, law=law)
    written = (num_samples, sum(value.numel() for value in parameters.values()))

    def plain_backward() -> None:
        law(leaves(parameters)).log_prob(samples).sum().backward()

    def plain_score() -> None:
        at = law(leaves(parameters))
        drawn = at.sample(torch.Size([num_samples]))
        (cost(drawn) * at.log_prob(drawn)).mean().backward()

    def plain_pathwise() -> None:
        cost(law(leaves(parameters)).rsample(torch.Size([num_samples]))).mean().backward()

    def ours(estimator: str, *, rows: bool = False) -> object:
        estimate = estimate_gradient(cost, law, parameters, estimator=estimator, num_samples=num_samples)
        return estimate.per_sample if rows else estimate.mean

    return {
        "score": Contest(lambda: ours("score"), plain_score),
        "pathwise": Contest(lambda: ours("pathwise"), plain_pathwise),
        "per-sample scores": Contest(lambda: scores(expectation, parameters, samples), plain_backward, written),
        "per-sample pathwise": Contest(lambda: ours("pathwise", rows=True), plain_pathwise, written),
    }


def seconds(function: Callable[[], object], repetitions: int) -> float:
    """Returns the processor time of one call, the mean of several."""
    start = process_time()
    for _ in range(repetitions):
        function()
    return (process_time() - start) / repetitions


def shown(values: list[float]) -> str:
    """Returns the median with the least and the greatest."""
    return f"{median(values):.2f} [{min(values):.2f}, {max(values):.2f}]"


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description="The cost of gradients of expectations beside plain torch.")
    parser.add_argument("--rounds", type=int, default=7, help="times that everything is measured, in turn")
    parser.add_argument("--samples", type=int, default=10_000, help="samples of one estimate")
    parser.add_argument("--quick", action="store_true", help="one round, to see whether it works")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rounds, budget = (1, 0.0) if options.quick else (options.rounds, 0.1)
    print(f"{options.samples} samples, one thread, {rounds} rounds; median [least, most]\n")
    print("| law | D | what | / plain | target | writing it / plain |\n|---|---|---|---|---|---|")
    for name, family in FAMILIES.items():
        for dimension in family.dimensions:
            everyone = contests(family, dimension, options.samples)
            # The first call warms up, and tells how many take a tenth of a second.
            repetitions = {what: 1 + int(budget / (seconds(each.ours, 2) + 1e-9)) for what, each in everyone.items()}
            ratios: dict[str, list[float]] = {what: [] for what in everyone}
            floors: dict[str, list[float]] = {what: [] for what in everyone}
            for _ in range(rounds):
                for what, each in everyone.items():
                    plain = seconds(each.plain, 2 * repetitions[what])
                    ratios[what].append(seconds(each.ours, repetitions[what]) / plain)
                    written = each.written
                    floors[what].append(seconds(lambda shape=written: torch.ones(shape), repetitions[what]) / plain)
            for what, each in everyone.items():
                floor = shown(floors[what]) if each.written[1] else ""
                print(f"| {name} | {dimension} | {what} | {shown(ratios[what])} | {TARGETS[what]} | {floor} |")


if __name__ == "__main__":
    main()
