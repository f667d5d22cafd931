"""Prints what a gradient of an expectation costs, as ratios to the obvious plain torch measured beside it.

    python experiments/throughput/expectations.py             # seven rounds
    python experiments/throughput/expectations.py --quick     # whether it works; no result

The contestants take turns, A B C … A B C …, so that a machine whose speed drifts slows all of them alike; a ratio is
that of one round. What is plain computes the mean gradient alone; pgkit's also holds every sample's, and its error.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from statistics import median
from time import perf_counter

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, Normal

from pgkit.core.expectation import scores
from pgkit.estimate import estimate_gradient
from pgkit.types import Expectation, Parameters

DIMENSIONS = (1, 10, 100)
TARGETS = {"per-sample scores": 3.0, "score": 1.3, "pathwise": 1.3}


def law(theta: Parameters) -> Distribution:
    """Returns a diagonal Gaussian."""
    return Independent(Normal(theta["mean"], theta["log_scale"].exp()), 1)


def cost(samples: Tensor) -> Tensor:
    """Returns |x|² and a ripple, `[N]`."""
    return (samples.square() + samples.cos()).sum(1)


def leaves(parameters: Parameters) -> dict[str, Tensor]:
    """Returns the parameters as leaves."""
    return {name: value.clone().requires_grad_() for name, value in parameters.items()}


def plain_backward(parameters: Parameters, samples: Tensor) -> None:
    """Takes one batched backward pass of the log density."""
    law(leaves(parameters)).log_prob(samples).sum().backward()


def plain_score(parameters: Parameters, num_samples: int) -> None:
    """Estimates the gradient by the score function, as one would write it."""
    at = law(leaves(parameters))
    samples = at.sample(torch.Size([num_samples]))
    (cost(samples) * at.log_prob(samples)).mean().backward()


def plain_pathwise(parameters: Parameters, num_samples: int) -> None:
    """Estimates the gradient through the samples, as one would write it."""
    cost(law(leaves(parameters)).rsample(torch.Size([num_samples]))).mean().backward()


def contestants(dimension: int, num_samples: int) -> dict[str, tuple[Callable[[], object], Callable[[], object]]]:
    """Returns pgkit's and the plain way of everything that is compared."""
    parameters = {"mean": torch.zeros(dimension), "log_scale": torch.zeros(dimension)}
    samples = law(parameters).sample(torch.Size([num_samples]))
    expectation = Expectation(cost=cost, law=law)

    def ours(estimator: str) -> Callable[[], object]:
        return lambda: estimate_gradient(cost, law, parameters, estimator=estimator, num_samples=num_samples)

    return {
        "per-sample scores": (
            lambda: scores(expectation, parameters, samples),
            lambda: plain_backward(parameters, samples),
        ),
        "score": (ours("score"), lambda: plain_score(parameters, num_samples)),
        "pathwise": (ours("pathwise"), lambda: plain_pathwise(parameters, num_samples)),
    }


def seconds(function: Callable[[], object], repetitions: int) -> float:
    """Returns the time of one call, the mean of several."""
    start = perf_counter()
    for _ in range(repetitions):
        function()
    return (perf_counter() - start) / repetitions


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description="The cost of gradients of expectations beside plain torch.")
    parser.add_argument("--rounds", type=int, default=7, help="times that everything is measured, in turn")
    parser.add_argument("--samples", type=int, default=10_000, help="samples of one estimate")
    parser.add_argument("--quick", action="store_true", help="one round, to see whether it works")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rounds, repetitions = (1, 1) if options.quick else (options.rounds, 5)
    print(f"{options.samples} samples of a diagonal Gaussian, one thread, {rounds} rounds; median [least, most]")
    for dimension in DIMENSIONS:
        everyone = contestants(dimension, options.samples)
        ratios: dict[str, list[float]] = {name: [] for name in everyone}
        for _ in range(rounds + 1):
            for name, (ours, plain) in everyone.items():
                ratios[name].append(seconds(ours, repetitions) / seconds(plain, repetitions))
        for name, values in ratios.items():
            kept = values[1:]  # the first round warms up
            spread = f"{median(kept):.2f} [{min(kept):.2f}, {max(kept):.2f}]"
            print(f"D={dimension:<4} {name:18} {spread:20} target {TARGETS[name]}")


if __name__ == "__main__":
    main()
