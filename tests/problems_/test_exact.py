"""Every exact gradient is reached in two ways that share nothing, and every exact variance is a golden number's."""

from __future__ import annotations

import math
from typing import get_args

import pytest
import torch
from torch import Tensor

from pgkit.config import build, config_dir
from pgkit.problems.base import Problem
from pgkit.problems.continuous import BetaCost, GammaCost, VonMisesCost
from pgkit.problems.discrete import BernoulliChain, BernoulliToy, CategoricalCost, PoissonCost, SoftmaxBandit
from pgkit.problems.gaussian import Cost, GaussianProjection, GaussianSum, hermite
from pgkit.problems.horizon import InfiniteHorizon, ShortCorridor
from pgkit.problems.known import IntegratedProblem, KnownProblem, as_leaves, flat_gradient, scores
from pgkit.problems.lqr import LQR
from pgkit.problems.tabular import SmallProcess
from pgkit.verifying.pairs import options

COSTS = get_args(Cost)


def gaussian(cost: Cost = "quadratic", *, dimension: int = 1, scale: float = 1.0, **changed: float) -> GaussianSum:
    return GaussianSum(cost=cost, dimension=dimension, scale=scale, learn_scale=True, **changed)  # type: ignore[arg-type]


def close(found: Tensor, expected: Tensor, tolerance: float = 1e-10) -> bool:
    return bool(((found - expected).abs() <= tolerance * (1 + expected.abs())).all())


def by_sum(problem: IntegratedProblem) -> Tensor:
    """Returns E[f s] by the problem's own rule, whatever its closed form is."""
    return IntegratedProblem.exact_gradient(problem, problem.parameters())


INTEGRATED = [
    *(GaussianProjection(cost=cost, dimension=dimension) for cost in COSTS for dimension in (1, 2, 3)),
    BernoulliToy(dimension=5),
    BernoulliChain(dimension=5),
    PoissonCost(),
    SmallProcess(process="chain"),
    SmallProcess(process="gamble"),
]


@pytest.mark.parametrize("problem", INTEGRATED, ids=lambda problem: type(problem).__name__)
def test_the_closed_form_is_the_sum_or_the_quadrature(problem: IntegratedProblem) -> None:
    assert close(problem.exact_gradient(problem.parameters()), by_sum(problem))


def test_gamma_and_beta_scores_integrate_to_the_gradient_of_the_moment() -> None:
    problem: KnownProblem = GammaCost()
    leaves = as_leaves(problem.parameters())
    a, b = leaves.values()
    assert close(problem.exact_gradient(leaves), flat_gradient(a * (a + 1) / b**2, leaves))
    problem = BetaCost()
    leaves = as_leaves(problem.parameters())
    a, b = leaves.values()
    assert close(problem.exact_gradient(leaves), flat_gradient(a * (a + 1) / ((a + b) * (a + b + 1)), leaves))


def test_the_von_mises_rule_integrates_the_score_written_out() -> None:
    problem = VonMisesCost()
    parameters = problem.parameters()
    loc, concentration = parameters.values()
    angles, weights = problem.nodes(parameters)
    resultant = torch.special.i1e(concentration) / torch.special.i0e(concentration)
    score = torch.stack([concentration * (angles - loc).sin(), (angles - loc).cos() - resultant], dim=1)
    assert close(problem.exact_gradient(parameters), (weights * angles.cos()) @ score)
    # Torch's own density is good to 1e-7, which is what sampled estimates inherit.
    assert close(scores(problem, parameters, angles), score, 1e-7)


@pytest.mark.parametrize("cost", COSTS)
def test_gaussian_sums_agree_with_quadrature_and_with_their_projection_in_one_dimension(cost: Cost) -> None:
    problem = gaussian(cost, scale=0.7, frequency=2.0, mean=0.5)
    parameters = problem.parameters()
    mean, scale = (float(value) for value in parameters.values())
    noise, weights = hermite()
    x = mean + scale * noise
    value = problem.expectation().cost(x[:, None])
    score = torch.stack([noise / scale, (noise**2 - 1) / scale], dim=1)
    gradient = (weights * value) @ score
    assert close(problem.exact_gradient(parameters), gradient)
    second = (weights * value**2) @ score**2
    assert close(problem.exact_variance("score", parameters), second - gradient**2)


@pytest.mark.parametrize(("dimension", "expected"), [(1, 30.0), (10, 552.0), (100, 41412.0)])
def test_golden_score_variances_of_a_mean(dimension: int, expected: float) -> None:
    problem = gaussian(dimension=dimension)
    assert problem.exact_variance("score", problem.parameters())[0] == pytest.approx(expected, abs=1e-8)


def test_golden_variances_in_one_dimension() -> None:
    problem = gaussian()
    parameters = problem.parameters()
    # 136 in the scale: E[x⁴ (ε² − 1)²] − 4 = 140 − 4, where simulation gave 137.
    assert close(problem.exact_variance("score", parameters), torch.tensor([30.0, 136.0], dtype=torch.float64))
    assert close(problem.exact_variance("pathwise", parameters), torch.tensor([4.0, 12.0], dtype=torch.float64))
    coupled = torch.tensor([16 / math.pi - 4, 8.0], dtype=torch.float64)
    assert close(problem.exact_variance("measure_valued", parameters), coupled)


def test_the_variance_of_a_sum_counts_the_other_terms() -> None:
    problem = GaussianSum(cost="cosine", dimension=2, scale=0.8, learn_scale=True, frequency=1.5)
    parameters = problem.parameters()
    line, weight = hermite(60)
    noise, weights = torch.cartesian_prod(line, line), torch.cartesian_prod(weight, weight).prod(1)
    value = problem.expectation().cost(1.0 + 0.8 * noise)[:, None]
    score = torch.cat([noise / 0.8, (noise**2 - 1) / 0.8], dim=1)
    second = weights @ (value * score) ** 2
    variance = second - (weights @ (value * score)) ** 2
    assert close(problem.exact_variance("score", parameters), variance)


@pytest.mark.parametrize("problem", [SoftmaxBandit(), CategoricalCost(), BernoulliToy(dimension=4)])
def test_enumeration_equals_automatic_differentiation(problem: IntegratedProblem) -> None:
    leaves = as_leaves(problem.parameters())
    points, _ = problem.nodes(leaves)
    log_prob = problem.expectation().law(leaves).log_prob(points)
    value = (log_prob.exp() * problem.expectation().cost(points)).sum()
    assert close(problem.exact_gradient(leaves), flat_gradient(value, leaves))


@pytest.mark.parametrize("name", ["bandit", "chain", "gamble"])
def test_dynamic_programming_equals_the_derivative_of_the_sum_over_trajectories(name: str) -> None:
    problem = SmallProcess(process=name)  # type: ignore[arg-type]
    leaves = as_leaves(problem.parameters())
    total = (problem.process.probabilities(leaves["logits"].softmax(1)) * problem.process.returns(0.9)).sum()
    assert close(problem.exact_gradient(leaves), flat_gradient(total, leaves))


@pytest.mark.parametrize("problem", [InfiniteHorizon(), LQR()], ids=["tabular", "lqr"])
def test_the_policy_gradient_equals_the_derivative_of_the_solved_equations(problem: InfiniteHorizon | LQR) -> None:
    leaves = as_leaves(problem.parameters())
    assert close(problem.exact_gradient(leaves), flat_gradient(problem.value(leaves), leaves))


def test_what_a_sampled_trajectory_leaves_out_is_nothing_to_see() -> None:
    # The reward of a step is below 1 and the gradient of a tail is of the order of its discount.
    problem = InfiniteHorizon()
    assert problem.gamma**problem.horizon < 1e-6
    assert LQR().gamma ** LQR().horizon < 2e-6


def test_the_riccati_gain_has_no_gradient() -> None:
    problem = LQR()
    assert problem.exact_gradient({"gain": problem.best_gain()}).norm() < 1e-10
    assert problem.distance({"gain": problem.best_gain()}) == 0
    assert problem.distance(problem.parameters()) > 0.1


def test_the_short_corridor_is_that_of_the_book() -> None:
    problem = ShortCorridor()
    best = {"preference": torch.tensor(2 - 2**0.5, dtype=torch.float64).logit()}
    assert problem.exact_gradient(best).abs() < 1e-10 and problem.distance(best) < 1e-12
    assert problem.objective(best) == pytest.approx(-11.66, abs=0.005)
    # The same by its four linear equations: V = −1 + P V.
    law = problem.expectation().law(problem.parameters())
    moves = torch.einsum("sa,sat->st", law.logits.softmax(1), law._transition)[:3, :3]
    values = torch.linalg.solve(torch.eye(3).double() - moves, -torch.ones(3).double())
    assert float(values[0]) == pytest.approx(problem.objective(problem.parameters()), abs=1e-10)


@pytest.mark.parametrize("name", sorted(file.stem for file in (config_dir() / "problem").glob("*.yaml")))
def test_a_known_problem_says_what_is_so(name: str) -> None:
    option = options("problem").get(name)
    if option is None or "???" in str(option.node):
        return
    problem = build(option.node, expects=Problem)
    if not hasattr(problem, "exact_gradient"):
        return
    parameters, expectation = problem.parameters(), problem.expectation()
    law = expectation.law(parameters)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        samples = law.sample(torch.Size([3]))
    gradient = problem.exact_gradient(parameters)
    assert gradient.shape == (sum(value.numel() for value in parameters.values()),) and gradient.dtype == torch.float64
    assert expectation.cost(samples).shape == (3,)
    if isinstance(problem, KnownProblem):
        facts = problem.facts()
        assert facts.dimension == samples[0].numel()
        assert facts.reparameterisable == (law.has_rsample or type(law).__name__ == "VonMises")


def test_leaves_are_copies() -> None:
    parameters = SoftmaxBandit().parameters()
    as_leaves(parameters)["logits"].detach().zero_()
    assert parameters["logits"].abs().sum() > 0
