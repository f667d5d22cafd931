"""Expectations small enough that every batch, or every node of a quadrature rule, can be handed to an estimator."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Categorical, Normal

from pgkit.core import expectation as core
from pgkit.protocols import GradientEstimator
from pgkit.types import Expectation, GradientEstimate, Parameters

REWARDS = (0.0, 1.0, 5.0)


def bandit() -> tuple[Expectation, Parameters]:
    """Returns three arms under a softmax."""
    rewards = torch.tensor(REWARDS)
    law = Expectation(cost=lambda x: rewards[x], law=lambda p: Categorical(logits=p["logits"]))
    return law, {"logits": torch.tensor([0.3, -0.2, 0.1])}


def square() -> tuple[Expectation, Parameters]:
    """Returns x² of x ~ N(1, 1), the golden example."""
    law = Expectation(cost=torch.square, law=lambda p: Normal(p["mean"], p["scale"]))
    return law, {"mean": torch.tensor(1.0), "scale": torch.tensor(1.0)}


def probabilities(expectation: Expectation, parameters: Parameters) -> Tensor:
    """Returns the probability of every value of an enumerable law."""
    law = expectation.law(parameters)
    return law.log_prob(law.enumerate_support()).exp()


def exact_gradient(expectation: Expectation, parameters: Parameters) -> Tensor:
    """Returns ∇E[f] `[P]` by differentiating the sum over an enumerable law's values."""
    leaves = {name: value.clone().requires_grad_() for name, value in parameters.items()}
    support = expectation.law(leaves).enumerate_support()
    value = (probabilities(expectation, leaves) * expectation.cost(support)).sum()
    return torch.cat([g.reshape(-1) for g in torch.autograd.grad(value, list(leaves.values()))])


def given(
    estimator: GradientEstimator, expectation: Expectation, parameters: Parameters, samples: Tensor
) -> GradientEstimate:
    """Returns the estimate from samples of our choosing in place of random ones."""
    with patch.object(core, "draw", return_value=samples):
        return estimator.estimate(
            expectation, parameters, num_samples=len(samples), generator=torch.Generator().manual_seed(0)
        )


def batches(expectation: Expectation, parameters: Parameters, num_samples: int) -> Iterator[tuple[Tensor, float]]:
    """Yields every batch `[N]` of an enumerable law with its probability, order included."""
    chances = probabilities(expectation, parameters)
    support = expectation.law(parameters).enumerate_support()
    for index in itertools.product(range(len(support)), repeat=num_samples):
        yield support[list(index)], float(chances[list(index)].prod())


def hermite(order: int = 60) -> tuple[Tensor, Tensor]:
    """Returns nodes and weights `[order]` with Σ w f(z) = E[f(Z)] for Z ~ N(0, 1)."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(order)
    return torch.from_numpy(nodes), torch.from_numpy(weights / weights.sum())
