"""One call for the gradient of any expectation."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.distributions import Independent, Normal

import pgkit
from pgkit.errors import UsageError


def square(x: Tensor) -> Tensor:
    return x.square().sum(dim=-1)


def as_distribution(theta: Tensor) -> Independent:
    return Independent(Normal(theta, torch.ones_like(theta)), 1)


def as_pair(theta: Tensor):  # type: ignore[no-untyped-def]
    """The same normal law, as a sampler and a log-density that know nothing of torch's distributions."""

    def log_prob(x: Tensor) -> Tensor:
        return (-0.5 * (x - theta).square() - 0.5 * math.log(2 * math.pi)).sum(dim=-1)

    return lambda count: torch.normal(theta.detach().expand(count, -1), 1.0), log_prob


@pytest.mark.equivalence
@pytest.mark.parametrize("baseline", ["zero", "leave_one_out", "optimal", 2.0])
def test_a_pair_of_sampler_and_log_density_gives_what_its_distribution_gives(float64: None, baseline: str) -> None:
    theta = torch.tensor([1.0, -0.5])
    by_law, by_pair = (
        pgkit.estimate_gradient(square, law, theta, num_samples=64, baseline=baseline)
        for law in (as_distribution, as_pair)
    )
    assert torch.allclose(by_law.per_sample, by_pair.per_sample, atol=1e-10, rtol=0)
    assert torch.allclose(by_law.standard_error, by_pair.standard_error, atol=1e-10, rtol=0)


@pytest.mark.statistical
def test_a_pair_estimates_the_gradient_and_leaves_the_global_generator_alone(float64: None) -> None:
    """∇E|x|² = 2θ; each coordinate passes five standard errors with a chance of about 1e-6."""
    theta, before = torch.tensor([1.0, -0.5]), torch.get_rng_state()
    found = pgkit.estimate_gradient(square, as_pair, theta, num_samples=20_000, baseline="moving_average")
    z = (found.mean - 2 * theta) / found.standard_error
    assert z.abs().max() < 5
    # The twin: half the gradient is far outside.
    assert ((found.mean - theta) / found.standard_error).abs().max() > 5
    assert torch.equal(before, torch.get_rng_state())


def test_a_pair_has_no_path_to_differentiate_through() -> None:
    with pytest.raises(UsageError, match=r"^estimator: "):
        pgkit.estimate_gradient(square, as_pair, torch.ones(2), estimator="pathwise")


@pytest.mark.parametrize(("key", "name"), [("estimator", "pathwyse"), ("baseline", "leave_one")])
def test_unknown_names_are_answered_with_the_nearest(key: str, name: str) -> None:
    near = {"pathwyse": "pathwise", "leave_one": "leave_one_out"}[name]
    with pytest.raises(UsageError, match=rf"^{key}: {name}, expected one of .*did you mean {near}"):
        pgkit.estimate_gradient(square, as_distribution, torch.ones(2), **{key: name})
