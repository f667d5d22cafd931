"""The expectation over every possible batch is the gradient, where an estimator says so, and what else where not."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pgkit.baselines.batch import LeaveOneOut, Mean
from pgkit.baselines.constant import MovingAverage, Zero
from pgkit.baselines.value import Value
from pgkit.core.processes import BANDIT, CHAIN, Process
from pgkit.core.scores import Scores
from pgkit.estimators.score_function import ScoreFunction
from pgkit.protocols import Baseline, Returns
from pgkit.returns.bootstrapped import LambdaReturn, NStep
from pgkit.returns.discounted import RewardToGo, Total
from pgkit.rl.factors import LogProbability
from tests.problems import Enumeration, columns_of

pytestmark = [pytest.mark.exact, pytest.mark.usefixtures("float64")]

GAMMA = 0.7
UNBIASED = {
    "zero": Zero,
    "moving_average": MovingAverage,
    "leave_one_out zero": lambda: LeaveOneOut(ended="zero"),
    "leave_one_out exclude": lambda: LeaveOneOut(ended="exclude"),
    "value": Value,
}


def discounted(returns: str, gamma: float) -> tuple[Returns, ScoreFunction]:
    """Returns a return and the estimator that makes it estimate the discounted objective."""
    if returns == "total":
        return Total(gamma=gamma), ScoreFunction(gamma=gamma)
    made = {"reward_to_go": RewardToGo(gamma=gamma), "lambda_return": LambdaReturn(gamma=gamma, lam=0.6)}
    made |= {"n_step": NStep(gamma=gamma, n=2)}
    return made[returns], ScoreFunction(gamma=gamma, discount_states=True)


def relative_error(found: Tensor, expected: Tensor) -> float:
    """Returns |found − expected| / |expected|."""
    return float((found - expected).norm() / expected.norm())


def rescaled(found: Tensor, exact: Tensor) -> Tensor:
    """Returns the multiple of `found` that is nearest to `exact`: what is left of the error is direction."""
    return found * (found @ exact) / (found @ found)


def ready(name: str, baseline: Baseline, problem: Enumeration, gamma: float) -> Baseline:
    """Gives a moving average a past: an earlier batch."""
    if name == "moving_average":
        baseline.update(columns_of(problem.factors(RewardToGo(gamma=gamma)), torch.tensor([1, 2])))
    return baseline


@pytest.mark.parametrize("process", [BANDIT, CHAIN], ids=["bandit", "chain"])
@pytest.mark.parametrize("gamma", [1.0, GAMMA])
def test_differentiating_all_trajectories_is_the_policy_gradient_theorem(process: Process, gamma: float) -> None:
    problem = Enumeration(process)
    assert float(problem.probabilities().detach().sum()) == pytest.approx(1, abs=1e-12)
    exact = problem.exact_gradient(gamma)
    torch.testing.assert_close(problem.policy_gradient_theorem(gamma), exact, rtol=0, atol=1e-10)
    value, _ = problem.values(gamma)
    objective = problem.probabilities().detach() @ problem.returns(gamma)
    assert float(value[0] @ torch.tensor(process.start)) == pytest.approx(float(objective), abs=1e-12)


def test_the_dynamics_drop_out_of_the_score_of_a_trajectory() -> None:
    problem = Enumeration(CHAIN)
    batch = problem.trajectories
    ours = Scores(LogProbability(problem.policy), (batch.obs[:-1], batch.actions), batch.mask)
    per_trajectory = ours.per_sample(torch.ones_like(batch.rewards))
    for column, probability in enumerate(problem.probabilities()):
        # log p(τ) with start, successor and reward probabilities in it.
        torch.testing.assert_close(per_trajectory[column], problem.gradient(probability.log()), rtol=0, atol=1e-10)
    dynamics = torch.tensor([chance for chance, _ in problem.paths]).log()
    with torch.no_grad():
        log_prob = torch.where(batch.mask, problem.policy.log_prob(batch.obs[:-1], batch.actions), 0.0).sum(dim=0)
    torch.testing.assert_close(log_prob + dynamics, problem.probabilities().log().detach(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("gamma", [1.0, GAMMA])
@pytest.mark.parametrize("returns", ["total", "reward_to_go", "lambda_return", "n_step"])
@pytest.mark.parametrize("name", UNBIASED)
def test_every_return_with_every_unbiased_baseline_has_the_gradient_as_expectation(
    name: str, returns: str, gamma: float
) -> None:
    problem = Enumeration(CHAIN)
    rule, estimator = discounted(returns, gamma)
    # A return that bootstraps is unbiased where V is right; a baseline may be as wrong as it likes.
    factors = problem.factors(rule, problem.critic(gamma, error=0.0 if rule.needs_values else 0.5))
    baseline = ready(name, UNBIASED[name](), problem, gamma)
    assert baseline.unbiased and estimator.unbiased
    found = problem.expected_estimate(2, factors, baseline, estimator)
    torch.testing.assert_close(found, problem.exact_gradient(gamma), rtol=0, atol=1e-10)


@pytest.mark.parametrize("returns", ["total", "reward_to_go"])
@pytest.mark.parametrize("name", UNBIASED)
@pytest.mark.parametrize("num_columns", [3, 4])
def test_nothing_changes_with_more_columns(name: str, returns: str, num_columns: int) -> None:
    problem = Enumeration(BANDIT)
    rule, estimator = discounted(returns, 1.0)
    factors = problem.factors(rule, problem.critic(1.0, error=0.5))
    found = problem.expected_estimate(num_columns, factors, ready(name, UNBIASED[name](), problem, 1.0), estimator)
    torch.testing.assert_close(found, problem.exact_gradient(1.0), rtol=0, atol=1e-10)


@pytest.mark.parametrize("returns", ["reward_to_go", "lambda_return", "n_step"])
def test_leaving_out_the_discount_of_states_gives_another_vector(returns: str) -> None:
    problem = Enumeration(CHAIN)
    rule, _ = discounted(returns, GAMMA)
    factors = problem.factors(rule, problem.critic(GAMMA))
    found = problem.expected_estimate(1, factors, Zero(), ScoreFunction(gamma=GAMMA, discount_states=False))
    expected = problem.policy_gradient_theorem(GAMMA, discount_states=False)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)
    # 46 % of the gradient here, and not a matter of length alone.
    exact = problem.exact_gradient(GAMMA)
    assert relative_error(found, exact) > 0.4
    assert relative_error(rescaled(found, exact), exact) > 0.04


def test_the_whole_return_carries_its_discount_already() -> None:
    problem = Enumeration(CHAIN)
    factors = problem.factors(Total(gamma=GAMMA))
    twice = problem.expected_estimate(1, factors, Zero(), ScoreFunction(gamma=GAMMA, discount_states=True))
    assert relative_error(twice, problem.exact_gradient(GAMMA)) > 0.05


@pytest.mark.parametrize("returns", ["lambda_return", "n_step"])
def test_a_wrong_critic_shows_where_it_is_bootstrapped_from(returns: str) -> None:
    problem = Enumeration(CHAIN)
    rule, estimator = discounted(returns, GAMMA)
    factors = problem.factors(rule, problem.critic(GAMMA, error=0.5))
    found = problem.expected_estimate(1, factors, Zero(), estimator)
    assert relative_error(found, problem.exact_gradient(GAMMA)) > 0.01
    assert not rule.unbiased


@pytest.mark.parametrize(("process", "num_columns"), [(BANDIT, 2), (BANDIT, 4), (CHAIN, 2)])
def test_a_mean_that_contains_the_sample_shrinks_the_gradient_by_one_in_n(process: Process, num_columns: int) -> None:
    problem = Enumeration(process)
    rule, estimator = discounted("reward_to_go", GAMMA)
    assert not Mean().unbiased
    found = problem.expected_estimate(num_columns, problem.factors(rule), Mean(), estimator)
    shrunk = problem.exact_gradient(GAMMA) * (num_columns - 1) / num_columns
    torch.testing.assert_close(found, shrunk, rtol=0, atol=1e-10)


@pytest.mark.parametrize(("process", "num_columns"), [(BANDIT, 4), (CHAIN, 2)])
def test_standardised_advantages_are_biased_and_not_only_in_length(process: Process, num_columns: int) -> None:
    problem = Enumeration(process)
    estimator = ScoreFunction(gamma=1.0, standardise=True)
    assert not estimator.unbiased and estimator.coupling == "batch"
    found = problem.expected_estimate(num_columns, problem.factors(RewardToGo(gamma=1.0)), LeaveOneOut(), estimator)
    exact = problem.exact_gradient(1.0)
    assert relative_error(found, exact) > 0.05
    assert relative_error(rescaled(found, exact), exact) > 0.05
