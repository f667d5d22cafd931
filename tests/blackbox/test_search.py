"""Gaussian search: utilities, mirrored pairs, natural steps, and the functions that it is tried on."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from pgkit.baselines.constant import Zero
from pgkit.blackbox.functions import FUNCTIONS
from pgkit.blackbox.natural import SNES, XNES, full_step, separable_step
from pgkit.blackbox.ranked_score import RankedScore
from pgkit.blackbox.ranks import rank_utilities
from pgkit.core.families import as_multivariate, free_factor, full_rank, gaussian_kl, mean_field
from pgkit.core.gaussian import fisher_scale
from pgkit.errors import UsageError
from pgkit.problems.gym_policy import GymPolicy
from pgkit.problems.search import Benchmark
from pgkit.types import Expectation
from pgkit.vi.elbo import elbo

MINIMA = {"sphere": 0.0, "rosenbrock": 1.0, "rastrigin": 0.0, "step_function": 0.0}


def wide(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_function_is_zero_at_its_minimum_and_above_elsewhere(name: str) -> None:
    minimum = torch.full((1, 4), MINIMA[name]).double()
    assert float(FUNCTIONS[name](minimum)) == 0
    away = minimum + 3 * torch.randn(500, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert (FUNCTIONS[name](away) > 0).all()


@pytest.mark.parametrize(
    ("name", "value"), [("sphere", 5.0), ("rosenbrock", 100.0), ("rastrigin", 5.0), ("step_function", 5.0)]
)
def test_values_of_the_functions(name: str, value: float) -> None:
    assert float(FUNCTIONS[name](wide(1.0, 2.0))) == pytest.approx(value, abs=1e-12)


def test_utilities_of_four() -> None:
    raw = np.maximum(0, math.log(3) - np.log([1, 2, 3, 4]))
    wanted = raw / raw.sum() - 0.25
    assert rank_utilities(wide(7.0, -1.0, 3.0, 100.0))[[1, 2, 0, 3]] == pytest.approx(wanted, abs=1e-12)
    assert rank_utilities(wide(7.0, -1.0, 3.0, 100.0), best="highest")[[3, 0, 2, 1]] == pytest.approx(wanted)


def test_utilities_sum_to_nothing_and_know_the_order_alone() -> None:
    costs = torch.randn(50, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert float(rank_utilities(costs).sum()) == pytest.approx(0, abs=1e-12)
    assert torch.equal(rank_utilities(costs), rank_utilities(costs.exp()))


def test_equal_costs_get_equal_utilities() -> None:
    assert torch.equal(rank_utilities(torch.ones(6).double()), rank_utilities(torch.ones(6).double()).mean().expand(6))
    first, _, third = rank_utilities(wide(1.0, 2.0, 1.0)).tolist()
    assert first == third


def noise(count: int = 6, dimension: int = 3) -> Tensor:
    return torch.randn(count, dimension, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def test_separable_steps_are_those_of_the_paper_and_natural() -> None:
    s, utilities, scale = noise(), torch.linspace(-1, 1, 6).double(), wide(0.5, 1.0, 2.0)
    mean, log_scale = utilities @ s / scale, utilities @ (s**2 - 1)
    move, stretch = separable_step(mean, log_scale, scale)
    assert move == pytest.approx(scale * (utilities @ s), abs=1e-12)
    assert stretch == pytest.approx(utilities @ (s**2 - 1) / 2, abs=1e-12)
    assert stretch == pytest.approx(log_scale / (fisher_scale(scale) * scale**2), abs=1e-12)


def test_full_steps_are_those_of_the_paper() -> None:
    s, utilities = noise(), torch.linspace(-1, 1, 6).double()
    factor = torch.eye(3).double() + 0.3 * noise(3)
    law_of = {"mean": noise(1)[0], "factor": factor}
    leaves = {name: value.clone().requires_grad_() for name, value in law_of.items()}
    x = law_of["mean"] + s @ factor.T
    value = (utilities * free_factor(leaves).log_prob(x)).sum()
    mean, gradient = torch.autograd.grad(value, list(leaves.values()))
    move, stretch = full_step(mean, gradient, factor)
    assert move == pytest.approx(factor @ (utilities @ s), abs=1e-10)
    wanted = (torch.einsum("n,ni,nj->ij", utilities, s, s) - utilities.sum() * torch.eye(3)) / 2
    assert stretch == pytest.approx(wanted, abs=1e-10)


def test_a_full_step_never_only_rotates() -> None:
    # A rotation of the factor is the same law, so whatever the gradient, the step has no part in that direction.
    stretch = full_step(wide(0.0, 0.0, 0.0), noise(3), noise(3) + 3 * torch.eye(3))[1]
    assert stretch == pytest.approx(stretch.T, abs=1e-12) and stretch.abs().max() > 0.1


def test_optimizers_step_against_the_gradient_by_those_steps() -> None:
    mean, log_scale = torch.nn.Parameter(wide(1.0, 2.0)), torch.nn.Parameter(wide(0.0, math.log(2)))
    optimizer = SNES([("mean", mean), ("log_scale", log_scale)], lr=0.5, scale_rate=0.2)
    mean.grad, log_scale.grad = wide(1.0, 1.0), wide(1.0, -1.0)
    optimizer.step()
    assert mean.detach() == pytest.approx(wide(0.5, 0.0)) and log_scale.exp().detach() == pytest.approx(
        wide(math.exp(-0.05), 2 * math.exp(0.05))
    )
    mean, factor = torch.nn.Parameter(wide(0.0, 0.0)), torch.nn.Parameter(2 * torch.eye(2).double())
    exponential = XNES([("mean", mean), ("factor", factor)], lr=1.0, scale_rate=1.0)
    mean.grad, factor.grad = wide(1.0, 0.0), torch.tensor([[1.0, 0.0], [0.0, 0.0]]).double()
    exponential.step()
    assert mean.detach() == pytest.approx(wide(-4.0, 0.0))
    assert factor.detach().diagonal() == pytest.approx(wide(2 * math.exp(-1.0), 2.0))


@pytest.mark.parametrize(("kind", "other"), [(SNES, "factor"), (XNES, "log_scale")])
def test_an_optimizer_refuses_another_family(kind: type, other: str) -> None:
    leaves = [("mean", torch.nn.Parameter(torch.zeros(2))), (other, torch.nn.Parameter(torch.zeros(2)))]
    with pytest.raises(UsageError, match=rf"^optimizer: \w+ for parameters mean and {other}, expected mean and"):
        kind(leaves)


@pytest.mark.parametrize("family", [mean_field, full_rank, free_factor])
def test_families_are_gaussians_with_the_divergence_of_torch(family: object) -> None:
    spread = {"log_scale": wide(0.1, -0.3), "factor": wide(0.7, 0.2, -0.4, 0.9).view(2, 2)}
    law = as_multivariate(family({"mean": wide(0.5, -1.0), **spread}))  # type: ignore[operator]
    precision = torch.tensor([[2.0, 0.3], [0.3, 1.0]]).double()
    other = torch.distributions.MultivariateNormal(wide(0.0, 1.0), precision_matrix=precision)
    wanted = torch.distributions.kl_divergence(law, other)
    assert float(gaussian_kl(law, wide(0.0, 1.0), precision)) == pytest.approx(float(wanted), abs=1e-10)


def test_the_free_factor_keeps_its_covariance_where_it_is_tiny() -> None:
    factor = 1e-120 * torch.tensor([[1.0, 2.0], [-3.0, 1.0]]).double()
    law = free_factor({"mean": wide(0.0, 0.0), "factor": factor})
    scaled = law.scale_tril * 1e120
    assert scaled @ scaled.T == pytest.approx((factor * 1e120) @ (factor * 1e120).T, rel=1e-12)


def estimate(antithetic: bool = True, count: int = 20) -> Tensor:
    problem = Benchmark(function="sphere", dimension=3, start=2.0, scale=0.5, target=0.0)
    return (
        RankedScore(baseline=Zero(), antithetic=antithetic)
        .estimate(
            problem.expectation(), problem.parameters(), num_samples=count, generator=torch.Generator().manual_seed(0)
        )
        .mean
    )


@pytest.mark.parametrize("antithetic", [True, False])
def test_ranked_scores_ascend_the_cost_and_know_its_order_alone(antithetic: bool) -> None:
    problem = Benchmark(function="sphere", dimension=3, start=2.0, scale=0.5, target=0.0)
    assert (estimate(antithetic, 2000)[:3] > 0).all()
    bent = Expectation(cost=lambda x: problem.expectation().cost(x).exp(), law=problem.expectation().law)
    found = RankedScore(baseline=Zero(), antithetic=antithetic).estimate(
        bent, problem.parameters(), num_samples=20, generator=torch.Generator().manual_seed(0)
    )
    assert torch.equal(found.mean, estimate(antithetic)) and not found.unbiased


def test_of_the_highest_cost_the_best_is_the_highest() -> None:
    problem = Benchmark(function="sphere", dimension=3, start=2.0, scale=0.5, target=0.0)
    turned = Expectation(cost=lambda x: -problem.expectation().cost(x), law=problem.expectation().law)
    found = RankedScore(baseline=Zero(), best="highest").estimate(
        turned, problem.parameters(), num_samples=20, generator=torch.Generator().manual_seed(0)
    )
    assert found.mean == pytest.approx(-estimate())


def test_what_ranks_cannot_serve_is_refused() -> None:
    start = {"mean": wide(0.0), "log_scale": wide(0.0)}
    bound = elbo(lambda x, _: -x.square().sum(-1), mean_field, start, entropy="sampled")
    with pytest.raises(UsageError, match=r"^estimator: ranked_score for a cost that moves with the parameters"):
        RankedScore(baseline=Zero()).accepts(bound, start)
    law = torch.distributions.Independent(torch.distributions.Gamma(wide(1.0), wide(1.0)), 1)
    with pytest.raises(UsageError, match=r"^estimator.antithetic: true for Gamma, expected a Gaussian law"):
        RankedScore(baseline=Zero()).accepts(Expectation(cost=lambda x: x.sum(-1), law=lambda _: law), start)


def test_a_policy_of_zeros_earns_what_its_first_action_does() -> None:
    problem = GymPolicy(id="CartPole-v1", num_envs=2)
    try:
        expectation = problem.minibatch(problem.parameters(), torch.Generator().manual_seed(0))
        costs = expectation.cost(torch.zeros(3, 10, dtype=torch.float64))
        assert costs.shape == (3,) and (costs <= -8).all() and (costs >= -11).all()
        balanced = torch.zeros(1, 10, dtype=torch.float64)
        balanced[0, 5:9] = wide(0.0, 0.2, 1.0, 1.0)  # pushes to where the pole falls
        both = expectation.cost(torch.cat([balanced, torch.zeros_like(balanced)]))
        assert both[0] < -100 and both[1] >= -11, "an episode goes on after its end"
        cost = float(expectation.cost(balanced))
        assert cost < -100 and problem.objective({}) == cost
    finally:
        problem.close()


def test_a_policy_over_other_spaces_is_refused() -> None:
    with pytest.raises(UsageError, match=r"^problem.id: observations in Discrete"):
        GymPolicy(id="FrozenLake-v1")
