"""The all-action estimator: exact with the true action values, and no noise of the actions."""

from __future__ import annotations

import pytest
import torch
from gymnasium import spaces
from torch import Tensor

from pgkit.core.action_terms import RowTerms
from pgkit.core.scores import Scores
from pgkit.critics.action_value import ActionValueCritic
from pgkit.errors import UsageError
from pgkit.estimators.all_action import AllAction
from pgkit.problems.tabular import CHAIN
from pgkit.returns.discounted import RewardToGo
from pgkit.rl.objective import PolicyObjective
from pgkit.types import Factors
from tests.exact_critics import ExactActionCritic
from tests.problems import Enumeration, columns_of

pytestmark = [pytest.mark.exact, pytest.mark.usefixtures("float64")]

GAMMA = 0.9
ESTIMATOR = AllAction(gamma=GAMMA, discount_states=True)


def estimate(problem: Enumeration, batch: Factors, columns: Tensor) -> Tensor:
    coefficients = ESTIMATOR.coefficients(batch, torch.zeros_like(batch.signal))
    objective = PolicyObjective(
        policy=problem.policy, trajectories=problem.trajectories.columns(columns), coefficients=coefficients,
        factors=batch, average="columns", entropy_coefficient=0.0, terms=ESTIMATOR.terms,
    )  # fmt: skip
    return problem.gradient(objective().value)


def mean_and_rows(error: float) -> tuple[Enumeration, Tensor, dict[int, Tensor]]:
    problem = Enumeration(CHAIN, seed=3)
    factors = problem.factors(RewardToGo(gamma=GAMMA), ExactActionCritic(problem, GAMMA, error), ESTIMATOR)
    rows = {}
    mean = torch.zeros(())
    for column, probability in enumerate(problem.probabilities().tolist()):
        index = torch.tensor([column])
        rows[column] = estimate(problem, columns_of(factors, index), index)
        mean = mean + probability * rows[column]
    return problem, mean, rows


def test_with_the_true_action_values_its_mean_is_the_exact_gradient() -> None:
    problem, mean, _ = mean_and_rows(0.0)
    torch.testing.assert_close(mean, problem.exact_gradient(GAMMA), rtol=0, atol=1e-10)


def test_with_wrong_ones_it_is_not() -> None:
    problem, mean, _ = mean_and_rows(0.3)
    assert float((mean - problem.exact_gradient(GAMMA)).norm()) > 1e-4


def test_trajectories_that_visit_the_same_states_have_the_same_gradient_whatever_was_done_there() -> None:
    problem, _, rows = mean_and_rows(0.0)
    states: dict[tuple[int, ...], list[int]] = {}
    for column, (_, steps) in enumerate(problem.paths):
        states.setdefault(tuple(state for state, *_ in steps), []).append(column)
    same = [group for group in states.values() if len(group) > 1]
    assert same
    for group in same:
        for column in group[1:]:
            torch.testing.assert_close(rows[column], rows[group[0]], rtol=0, atol=1e-12)


def test_gradients_of_columns_for_instruments_are_those_of_the_objective() -> None:
    problem, _, rows = mean_and_rows(0.0)
    factors = problem.factors(RewardToGo(gamma=GAMMA), ExactActionCritic(problem, GAMMA), ESTIMATOR)
    coefficients = ESTIMATOR.coefficients(factors, torch.zeros_like(factors.signal))
    module = RowTerms(problem.policy, ESTIMATOR.terms)
    inputs = (factors.contexts, factors.samples, coefficients)
    found = Scores(module, inputs, factors.mask).per_sample(factors.mask.double())
    torch.testing.assert_close(found, torch.stack([rows[column] for column in range(len(rows))]), rtol=0, atol=1e-12)


def test_an_action_value_critic_averages_to_its_value_and_learns_the_actions_that_were_taken() -> None:
    problem = Enumeration(CHAIN, seed=3)
    torch.manual_seed(0)
    critic = ActionValueCritic(
        observation_space=spaces.Discrete(problem.process.num_states), generator=torch.Generator().manual_seed(0),
        action_space=spaces.Discrete(problem.process.num_actions), policy=problem.policy, steps=300, learning_rate=0.01,
    )  # fmt: skip
    batch = problem.trajectories
    targets = torch.where(batch.actions == 1, 2.0, -1.0).double()
    critic.update(batch, targets, batch.mask)
    found = critic.action_values(batch.obs)[:-1][batch.mask]
    torch.testing.assert_close(found[:, 1], torch.full_like(found[:, 1], 2.0), rtol=0, atol=0.05)
    torch.testing.assert_close(found[:, 0], torch.full_like(found[:, 0], -1.0), rtol=0, atol=0.05)
    mean = (critic.probabilities(batch.obs) * critic.action_values(batch.obs)).sum(dim=-1)
    torch.testing.assert_close(critic.values(batch.obs), mean, rtol=0, atol=1e-12)


def test_actions_that_cannot_be_summed_over_are_refused() -> None:
    with pytest.raises(UsageError, match=r"^estimator: all_action with actions Box, expected Discrete ones"):
        ESTIMATOR.accepts(spaces.Box(-1.0, 1.0), 8)
    ESTIMATOR.accepts(spaces.Discrete(2), 1)
