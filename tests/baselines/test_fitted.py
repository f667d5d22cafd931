"""Baselines and control variates that are fitted: exact over every batch, and against regressions done one by one."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from gymnasium import spaces
from torch import Tensor

from pgkit.agreement import refuse_coupled_control
from pgkit.baselines.batch import LeaveOneOut, Mean
from pgkit.baselines.constant import Zero
from pgkit.baselines.gls import GLS
from pgkit.baselines.gls_network import GLSNetwork
from pgkit.baselines.linear import Linear
from pgkit.baselines.optimal import Optimal, OptimalParameter, OptimalTime
from pgkit.baselines.value import Value
from pgkit.core.optimal_baseline import cross_fitted_time
from pgkit.critics.value import ValueCritic
from pgkit.errors import UsageError
from pgkit.estimators.score_function import ScoreFunction
from pgkit.problems.tabular import BANDIT, CHAIN
from pgkit.protocols import Baseline, Estimator
from pgkit.returns.discounted import RewardToGo
from pgkit.rl.objective import PolicyObjective, correction_of
from pgkit.snapshot import Facts
from pgkit.types import Factors
from tests.problems import NO_CRITIC, Enumeration, columns_of

pytestmark = [pytest.mark.exact, pytest.mark.usefixtures("float64")]

GAMMA = 0.9
PAST = torch.tensor([0, 0, 1, 2, 1, 0, 2, 2, 1, 0, 1, 2]).repeat(6) + 3 * torch.arange(72)
FACTS = Facts(env="Toy", columns=12, whole_episodes=True, has_values=True, layout={})


def space(problem: Enumeration) -> spaces.Discrete:
    return spaces.Discrete(problem.process.num_states)


MAKERS: dict[str, Callable[[Enumeration], Baseline]] = {
    "optimal": lambda problem: Optimal(),
    "optimal in two folds": lambda problem: Optimal(folds=2),
    "optimal_time": lambda problem: OptimalTime(),
    "gls": lambda problem: GLS(facts=FACTS, observation_space=space(problem), critic=NO_CRITIC, pool=1),
    "gls, polynomial": lambda problem: GLS(
        facts=replace(FACTS, columns=1000),
        observation_space=space(problem),
        critic=NO_CRITIC,
        features="polynomial",
        pool=1,
    ),
    "gls, critic_features": lambda problem: GLS(
        facts=FACTS,
        observation_space=space(problem),
        features="critic_features",
        pool=1,
        critic=ValueCritic(observation_space=space(problem), generator=torch.Generator(), hidden_sizes=[2]),
    ),
    "gls_network": lambda problem: GLSNetwork(observation_space=space(problem), hidden_sizes=[4]),
    "linear": lambda problem: Linear(facts=FACTS, observation_space=space(problem)),
    "linear, cross-fitted": lambda problem: Linear(facts=FACTS, observation_space=space(problem), cross_fitted=True),
}
CONTROLS = {
    name: ScoreFunction(gamma=GAMMA, discount_states=True, control_variate=name)  # type: ignore[arg-type]  # their names
    for name in ("none", "optimal_parameter", "optimal_layer")
}


def factors_of(problem: Enumeration, estimator: Estimator) -> Factors:
    return problem.factors(RewardToGo(gamma=GAMMA), problem.critic(GAMMA, error=0.4), estimator)


def estimate(problem: Enumeration, batch: Factors, columns: Tensor, baseline: Baseline, estimator: Estimator) -> Tensor:
    """Returns the gradient that an update would take, `[P]`, by automatic differentiation of its objective."""
    coefficients = estimator.coefficients(batch, baseline.value(batch))
    objective = PolicyObjective(
        policy=problem.policy,
        trajectories=problem.trajectories.columns(columns),
        coefficients=coefficients,
        factors=batch,
        average="columns",
        entropy_coefficient=0.0,
        correction=correction_of(estimator, batch, coefficients),
    )
    return problem.gradient(objective().value)


def expected(problem: Enumeration, num_columns: int, baseline: Baseline, estimator: Estimator) -> tuple[Tensor, float]:
    """Returns the mean `[P]` of the estimate over all batches and the trace of its covariance."""
    factors = factors_of(problem, estimator)
    mean, second = torch.zeros(()), 0.0
    probabilities = problem.probabilities().tolist()
    # In every order, as folds are dealt by the place in the batch.
    for drawn in itertools.product(range(len(probabilities)), repeat=num_columns):
        columns, probability = torch.tensor(drawn), math.prod(probabilities[each] for each in drawn)
        found = estimate(problem, columns_of(factors, columns), columns, baseline, estimator)
        mean = mean + probability * found
        second += probability * float(found.square().sum())
    return mean, second - float(mean.square().sum())


def taught(name: str, problem: Enumeration, estimator: Estimator) -> Baseline:
    """Returns a baseline that has learnt from a batch of the past."""
    torch.manual_seed(0)
    baseline = MAKERS[name](problem)
    past = columns_of(factors_of(problem, estimator), PAST % len(problem.paths))
    baseline.value(past)
    baseline.update(past)
    return baseline


@pytest.mark.parametrize(("process", "num_columns"), [(BANDIT, 2), (BANDIT, 4), (CHAIN, 2)], ids=["2", "4", "chain"])
@pytest.mark.parametrize("name", MAKERS)
def test_every_fitted_baseline_is_unbiased_and_not_without_effect(name: str, process: object, num_columns: int) -> None:
    problem, estimator = Enumeration(process, seed=4), CONTROLS["none"]  # type: ignore[arg-type]  # a Process
    mean, variance = expected(problem, num_columns, taught(name, problem, estimator), estimator)
    torch.testing.assert_close(mean, problem.exact_gradient(GAMMA), rtol=0, atol=1e-10)
    assert variance != pytest.approx(expected(problem, num_columns, Zero(), estimator)[1], rel=1e-6)


@pytest.mark.parametrize(("process", "num_columns"), [(BANDIT, 2), (BANDIT, 4), (CHAIN, 2)], ids=["2", "4", "chain"])
@pytest.mark.parametrize("baseline", [Zero(), Value()], ids=["zero", "value"])
@pytest.mark.parametrize("control", ["optimal_parameter", "optimal_layer"])
def test_control_variates_on_score_sums_are_unbiased(
    control: str, baseline: Baseline, process: object, num_columns: int
) -> None:
    problem = Enumeration(process, seed=4)  # type: ignore[arg-type]  # a Process
    mean, variance = expected(problem, num_columns, baseline, CONTROLS[control])
    torch.testing.assert_close(mean, problem.exact_gradient(GAMMA), rtol=0, atol=1e-10)
    assert variance != pytest.approx(expected(problem, num_columns, baseline, CONTROLS["none"])[1], rel=1e-6)


@pytest.mark.parametrize("num_columns", [2, 4])
def test_after_leave_one_out_a_control_variate_would_stretch_the_gradient_and_is_refused(num_columns: int) -> None:
    """The others' gradients hold this sample's outcome in their baselines, so its own coefficient is fitted to it."""
    problem = Enumeration(BANDIT, seed=4)
    mean, _ = expected(problem, num_columns, LeaveOneOut(), CONTROLS["optimal_parameter"])
    stretched = 1 + 1 / (num_columns - 1)
    torch.testing.assert_close(mean, stretched * problem.exact_gradient(GAMMA), rtol=0, atol=1e-10)
    with pytest.raises(UsageError, match="expected a baseline that knows nothing of the other columns"):
        refuse_coupled_control(CONTROLS["optimal_parameter"], LeaveOneOut())


def test_the_batch_mean_is_the_biased_twin() -> None:
    problem = Enumeration(BANDIT, seed=4)
    mean, _ = expected(problem, 4, Mean(), CONTROLS["none"])
    torch.testing.assert_close(mean, 0.75 * problem.exact_gradient(GAMMA), rtol=0, atol=1e-10)


def least_squares(factors: Factors, features: Tensor) -> Tensor:
    """Returns φ·w at every factor, `[F, N]`, each column's w by least squares of the other columns' gradients."""
    assert factors.scores is not None and factors.scale is not None
    target = factors.scores.per_sample(factors.signal * factors.scale)
    columns = torch.stack([factors.scores.per_sample(phi * factors.scale) for phi in features])
    result = torch.zeros_like(factors.signal)
    for n in range(target.shape[0]):
        others = [m for m in range(target.shape[0]) if m != n]
        matrix = columns[:, others].flatten(1).T
        weights = torch.linalg.lstsq(matrix, target[others].flatten()[:, None]).solution[:, 0]
        result[:, n] = torch.einsum("kf,k->f", features[:, :, n], weights)
    return torch.where(factors.mask, result, 0.0)


def test_gls_is_a_least_squares_of_gradients_on_those_of_its_features() -> None:
    problem, estimator = Enumeration(CHAIN, seed=2), CONTROLS["none"]
    factors = columns_of(factors_of(problem, estimator), torch.arange(24))
    assert factors.values is not None
    found = GLS(facts=FACTS, observation_space=space(problem), critic=NO_CRITIC, pool=0, ridge=0.0).value(factors)
    features = torch.stack([torch.ones_like(factors.signal), factors.values[:-1]])
    expected = least_squares(factors, features)
    torch.testing.assert_close(torch.where(factors.mask, found, 0.0), expected, rtol=0, atol=1e-9)
    scalar = Optimal().value(factors)
    torch.testing.assert_close(
        torch.where(factors.mask, scalar, 0.0), least_squares(factors, features[:1]), rtol=0, atol=1e-9
    )


def test_of_all_affine_corrections_gls_has_the_least_trace_on_the_batch_it_was_fitted_to() -> None:
    problem, estimator = Enumeration(CHAIN, seed=2), CONTROLS["none"]
    factors = columns_of(factors_of(problem, estimator), torch.arange(24))
    assert factors.scores is not None and factors.scale is not None and factors.values is not None
    basis = torch.stack([torch.ones_like(factors.signal), factors.values[:-1], factors.signal]) * factors.scale
    one, value, target = factors.scores.stacked(basis)
    left = torch.stack([torch.stack([(a * b).sum() for a in (one, value)]) for b in (one, value)])
    best = torch.linalg.solve(left, torch.stack([(one * target).sum(), (value * target).sum()]))

    def energy(weights: Tensor) -> float:
        return float((target - weights[0] * one - weights[1] * value).square().sum())

    for nudge in itertools.product((-0.1, 0.1), repeat=2):
        assert energy(best) < energy(best + torch.tensor(nudge))


def test_equal_values_leave_the_correction_of_a_critic_defined() -> None:
    problem, estimator = Enumeration(CHAIN, seed=2), CONTROLS["none"]
    factors = columns_of(factors_of(problem, estimator), torch.arange(24))
    assert factors.values is not None
    flat = replace(factors, values=torch.full_like(factors.values, 3.0))
    found = GLS(facts=FACTS, observation_space=space(problem), critic=NO_CRITIC, pool=0).value(flat)
    torch.testing.assert_close(found[factors.mask], Optimal().value(factors)[factors.mask], rtol=1e-4, atol=1e-6)


def test_times_that_cannot_be_told_apart_share_one_number_and_others_get_their_own() -> None:
    generator = torch.Generator().manual_seed(3)
    squares = torch.rand(6, 400, generator=generator) + 0.5
    noise = torch.randn(6, 400, generator=generator)
    same = cross_fitted_time(2.0 * squares + noise, squares)
    assert float((same - 2.0).abs().max()) < 0.1 and float(same.std()) < 0.05
    slope = torch.arange(6.0)[:, None]
    apart = cross_fitted_time(slope * squares + 0.1 * noise, squares)
    torch.testing.assert_close(apart, slope.expand(6, 400), rtol=0, atol=0.05)
    assert torch.equal(cross_fitted_time(torch.zeros(3, 5), torch.zeros(3, 5)), torch.zeros(3, 5))


def test_a_pool_adds_past_batches_and_is_part_of_the_state() -> None:
    problem, estimator = Enumeration(CHAIN, seed=2), CONTROLS["none"]
    everything = factors_of(problem, estimator)
    first, second = (columns_of(everything, torch.arange(start, start + 12)) for start in (0, 12))
    one = GLS(facts=FACTS, observation_space=space(problem), critic=NO_CRITIC, pool=2)
    alone = one.value(first)
    one.update(first)
    again = one.value(first)  # with itself in the past, which no training run does
    assert not torch.equal(alone, again)
    other = GLS(facts=FACTS, observation_space=space(problem), critic=NO_CRITIC, pool=2)
    other.load_state_dict(one.state_dict())
    assert torch.equal(one.value(second), other.value(second))


def test_a_network_lowers_what_it_is_trained_on_and_goes_on_from_its_state() -> None:
    problem, estimator = Enumeration(CHAIN, seed=2), CONTROLS["none"]
    factors = columns_of(factors_of(problem, estimator), torch.arange(24))
    assert factors.scores is not None and factors.scale is not None
    torch.manual_seed(0)
    baseline = GLSNetwork(observation_space=space(problem), hidden_sizes=[8], steps=200, learning_rate=0.01)

    def energy(value: Tensor) -> float:
        assert factors.scores is not None and factors.scale is not None
        return float(factors.scores.per_sample((factors.signal - value) * factors.scale).square().sum())

    assert torch.equal(baseline.value(factors), torch.zeros_like(factors.signal))
    baseline.update(factors)
    optimal = Optimal().value(factors).mean()
    assert energy(baseline.value(factors)) < energy(torch.full_like(factors.signal, float(optimal)))
    other = GLSNetwork(observation_space=space(problem), hidden_sizes=[8], steps=200, learning_rate=0.01)
    other.load_state_dict(baseline.state_dict())
    for each in (baseline, other):
        each.update(factors)
    assert torch.equal(baseline.value(factors), other.value(factors))


def test_more_weights_than_a_fifth_of_the_trajectories_are_refused() -> None:
    problem = Enumeration(CHAIN)

    def made(columns: int, **keys: Any) -> GLS:
        return GLS(facts=replace(FACTS, columns=columns), observation_space=space(problem), critic=NO_CRITIC, **keys)

    with pytest.raises(UsageError, match=r"has 2 weights, .* with 8 a batch baseline\.pool of at least 1, not 0"):
        made(8, pool=0)
    with pytest.raises(UsageError, match=r"with 11 a batch baseline\.pool of at least 1, not 0"):
        made(11, pool=0, folds=2)
    assert made(8, pool=1).least_columns == 2 and made(10, pool=0).least_columns == 2
    assert made(18, pool=0, folds=9).least_columns == 9
    with pytest.raises(UsageError, match="without a critic"):
        GLS(facts=replace(FACTS, has_values=False), observation_space=space(problem), critic=NO_CRITIC)
    with pytest.raises(UsageError, match="critic_features of NoCritic, which has none; expected critic=value"):
        made(100, features="critic_features")


@pytest.mark.parametrize("baseline", [Optimal(), OptimalTime()])
def test_one_column_is_too_few(baseline: Baseline) -> None:
    problem, estimator = Enumeration(BANDIT), CONTROLS["none"]
    assert baseline.least_columns == 2
    with pytest.raises(ValueError, match="folds"):
        baseline.value(columns_of(factors_of(problem, estimator), torch.tensor([0])))


def test_one_number_a_parameter_is_no_baseline_of_factors() -> None:
    problem, estimator = Enumeration(BANDIT), CONTROLS["none"]
    with pytest.raises(UsageError, match=r"estimator\.control_variate=optimal_parameter"):
        OptimalParameter().value(factors_of(problem, estimator))


def test_a_control_variate_enters_rows_drawn_at_random_with_its_whole_and_parts_with_their_share() -> None:
    problem, estimator = Enumeration(CHAIN, seed=2), CONTROLS["optimal_parameter"]
    columns = torch.arange(10)
    batch = columns_of(factors_of(problem, estimator), columns)
    coefficients = estimator.coefficients(batch, torch.zeros_like(batch.signal))
    for average in ("columns", "steps"):
        objective = PolicyObjective(
            policy=problem.policy, trajectories=problem.trajectories.columns(columns), coefficients=coefficients,
            factors=batch, average=average, entropy_coefficient=0.0,
            correction=correction_of(estimator, batch, coefficients),
        )  # fmt: skip
        whole = problem.gradient(objective().value)
        parts = sum(problem.gradient(part.value) for part in objective.parts())
        torch.testing.assert_close(parts, whole, rtol=0, atol=1e-12)
        rows = objective.valid
        single = sum(problem.gradient(objective(rows[i : i + 1]).value) for i in range(len(rows))) / len(rows)
        torch.testing.assert_close(single, whole, rtol=0, atol=1e-12)
