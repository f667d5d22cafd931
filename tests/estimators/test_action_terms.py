"""Control variates of a critic: exact in the mean whatever the critic, and without noise where it is right."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor

from pgkit.core.action_terms import RowTerms, cross_fitted_share, linear_control
from pgkit.core.persample import per_sample_by_vmap
from pgkit.core.processes import CHAIN
from pgkit.core.scores import Scores
from pgkit.critics.action_value import ActionValueCritic
from pgkit.critics.expansion import Expansion
from pgkit.errors import UsageError
from pgkit.estimators.all_action import AllAction
from pgkit.estimators.factorised import Factorised
from pgkit.estimators.q_prop import QProp
from pgkit.estimators.rows import RowEstimator
from pgkit.policies.mlp import MLPPolicy
from pgkit.returns.discounted import RewardToGo
from pgkit.rl.objective import PolicyObjective
from pgkit.types import Factors, Trajectories
from tests.problems import Enumeration, columns_of

pytestmark = [pytest.mark.exact, pytest.mark.usefixtures("float64")]

Quality = Callable[[Tensor, Tensor], Tensor]
"""Q of states `[M]` and encoded actions `[M, E]`."""


@dataclass(frozen=True)
class Choice:
    """One decision in each of two states: every action of a law, with its probability, and what it pays.

    Columns are the points of a rule that integrates over actions: all of them, or Gauss-Hermite nodes.
    """

    policy: MLPPolicy
    states: Tensor
    actions: Tensor
    chances: Tensor
    pays: Callable[[Tensor, Tensor], Tensor]

    @property
    def signal(self) -> Tensor:
        return self.pays(self.states, self.policy.law.encode(self.actions))

    def gradient(self) -> Tensor:
        """Returns ∇ of the expected pay: by E[pay · score] summed over all columns, each score by itself."""
        log_prob = self.policy.log_prob(self.states, self.actions)
        return flat_gradient(self.policy, (self.chances * self.signal * log_prob).sum())

    def factors(self, quality: Quality) -> Factors:
        """Returns one factor a column, V being Q at the mean action."""
        rows = self.signal[None]
        mean = self.policy.law.mean(self.policy(self.states)).detach()
        expansion = Expansion(
            self.policy, self.states[None], self.actions[None], quality=lambda e: quality(self.states[None], e)
        )
        value = quality(self.states, mean).detach()
        return Factors(
            signal=rows, log_weight=torch.zeros_like(rows), mask=torch.ones_like(rows, dtype=torch.bool),
            values=torch.stack([value, torch.zeros_like(value)]), contexts=self.states[None],
            samples=self.actions[None], expansion=expansion, time=torch.zeros_like(rows, dtype=torch.long),
        )  # fmt: skip

    def rows(self, estimator: RowEstimator, factors: Factors, baseline: float = 0.0) -> Tensor:
        """Returns the gradient of every column, `[N, P]`."""
        coefficients = estimator.coefficients(factors, torch.full_like(factors.signal, baseline))
        inputs = (factors.contexts, factors.samples, coefficients)
        return Scores(RowTerms(self.policy, estimator.terms), inputs, factors.mask).per_sample(factors.mask.double())


def flat_gradient(policy: MLPPolicy, value: Tensor) -> Tensor:
    return torch.cat([each.flatten() for each in torch.autograd.grad(value, list(policy.parameters()))])


def moved(policy: MLPPolicy, seed: int) -> MLPPolicy:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.copy_(0.6 * torch.randn(parameter.shape, generator=generator))
    return policy


def linear_pay(weights: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda states, encoded: 1.0 + 2.0 * states + (encoded * weights).sum(dim=-1) * (1.0 + states)


def crooked_pay(states: Tensor, encoded: Tensor) -> Tensor:
    """A cubic in the code of the action that knows no independent dimensions."""
    weights = torch.linspace(-1.0, 1.5, encoded.shape[-1])
    inner = (encoded * weights).sum(dim=-1)
    return 3.0 + states + inner + 0.7 * inner**2 - 0.2 * inner**3 * (1.0 + states)


def of_choices(space: spaces.Space[Any], pays: Callable[[Tensor, Tensor], Tensor], seed: int = 0) -> Choice:
    policy = moved(MLPPolicy(observation_space=spaces.Discrete(2), action_space=space, hidden_sizes=[3]), seed)
    counts = [range(count) for count in policy.law.dimensions]
    every = torch.tensor(list(itertools.product(*counts)))
    if isinstance(space, spaces.Discrete):
        every = every[:, 0]
    states = torch.arange(2).repeat_interleave(len(every))
    actions = torch.cat([every, every])
    start = torch.tensor([0.3, 0.7])
    chances = (start[states] * policy.log_prob(states, actions).exp()).detach()
    return Choice(policy, states, actions, chances, pays)


def of_numbers(pays: Callable[[Tensor, Tensor], Tensor], size: int = 2, seed: int = 0, nodes: int = 12) -> Choice:
    space = spaces.Box(-np.inf, np.inf, (size,))
    policy = moved(MLPPolicy(observation_space=spaces.Discrete(2), action_space=space, hidden_sizes=[3]), seed)
    points, weights = (torch.from_numpy(each) for each in np.polynomial.hermite_e.hermegauss(nodes))
    noise = torch.cartesian_prod(*[points] * size).reshape(-1, size)
    weight = torch.cartesian_prod(*[weights / weights.sum()] * size).reshape(-1, size).prod(dim=1)
    states = torch.arange(2).repeat_interleave(len(noise))
    with torch.no_grad():
        mean, log_std = policy(states).chunk(2, dim=-1)
    actions = mean + log_std.exp() * torch.cat([noise, noise])
    chances = torch.tensor([0.3, 0.7])[states] * torch.cat([weight, weight])
    return Choice(policy, states, actions, chances, pays)


def wrong_quality(seed: int) -> Quality:
    """A critic that knows nothing: a random network."""
    generator = torch.Generator().manual_seed(seed)
    weights: dict[int, tuple[Tensor, Tensor]] = {}

    def quality(states: Tensor, encoded: Tensor) -> Tensor:
        width = encoded.shape[-1] + 1
        if width not in weights:
            weights[width] = (
                torch.randn(width, 5, generator=generator), 4 * torch.randn(5, generator=generator)
            )  # fmt: skip
        first, second = weights[width]
        return torch.tanh(torch.cat([states[..., None].to(encoded.dtype), encoded], dim=-1) @ first) @ second

    return quality


PROBLEMS = {
    "discrete": lambda pays: of_choices(spaces.Discrete(4), pays),
    "several": lambda pays: of_choices(spaces.MultiDiscrete([2, 3, 2]), pays),
    "bits": lambda pays: of_choices(spaces.MultiBinary(3), pays),
    "numbers": of_numbers,
}
Q_PROP = QProp(gamma=0.9, eta="one", discount_states=True)
FACTORISED = Factorised(gamma=0.9, discount_states=True)


@pytest.mark.parametrize("name", PROBLEMS)
@pytest.mark.parametrize("seed", [0, 1])
def test_q_prop_is_unbiased_whatever_the_critic(name: str, seed: int) -> None:
    problem = PROBLEMS[name](crooked_pay)
    rows = problem.rows(Q_PROP, problem.factors(wrong_quality(seed)), baseline=0.4)
    torch.testing.assert_close(problem.chances @ rows, problem.gradient(), rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", ["several", "bits", "numbers"])
@pytest.mark.parametrize("seed", [0, 1])
def test_a_factorised_baseline_is_unbiased_whatever_the_critic(name: str, seed: int) -> None:
    problem = PROBLEMS[name](crooked_pay)
    rows = problem.rows(FACTORISED, problem.factors(wrong_quality(seed)), baseline=0.4)
    torch.testing.assert_close(problem.chances @ rows, problem.gradient(), rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", ["several", "numbers"])
def test_what_knew_the_own_dimension_would_be_biased(name: str) -> None:
    problem = PROBLEMS[name](crooked_pay)
    factors = problem.factors(wrong_quality(0))
    expansion = factors.expansion
    assert isinstance(expansion, Expansion)
    known = (expansion.slopes * expansion.deviations).sum(dim=-1)
    coefficients = (factors.signal - known)[..., None].expand_as(expansion.others)
    inputs = (factors.contexts, factors.samples, coefficients)
    rows = Scores(RowTerms(problem.policy, FACTORISED.terms), inputs, factors.mask).per_sample(factors.mask.double())
    assert float((problem.chances @ rows - problem.gradient()).norm()) > 1e-3


@pytest.mark.parametrize("name", ["several", "numbers"])
def test_with_a_linear_critic_that_is_right_q_prop_has_no_noise_of_the_actions(name: str) -> None:
    width = {"several": 7, "numbers": 2}[name]
    pays = linear_pay(torch.linspace(-1.0, 2.0, width))
    problem = PROBLEMS[name](pays)
    factors = problem.factors(pays)
    assert factors.values is not None
    coefficients = Q_PROP.coefficients(factors, factors.values[:-1])
    torch.testing.assert_close(coefficients[..., 0], torch.zeros_like(factors.signal), rtol=0, atol=1e-12)
    rows = problem.rows(Q_PROP, factors)
    for state in (0, 1):
        # The baseline 0 leaves V times the score; what is left without it is the same whatever was done.
        same = (
            rows[problem.states == state]
            - factors.values[0, state * len(rows) // 2]
            * problem.rows(
                Factorised(gamma=1.0),
                replace(factors, signal=torch.ones_like(factors.signal), expansion=Nothing(factors)),
            )[problem.states == state]
        )
        torch.testing.assert_close(same, same[:1].expand_as(same), rtol=0, atol=1e-10)


class Nothing:
    """An expansion that knows nothing."""

    def __init__(self, factors: Factors) -> None:
        assert factors.expansion is not None
        self.others = torch.zeros_like(factors.expansion.others)


def test_with_a_critic_that_is_right_the_other_dimensions_are_no_noise() -> None:
    pays = linear_pay(torch.tensor([1.0, 30.0]))
    problem = of_numbers(pays)
    factors = problem.factors(pays)
    assert factors.values is not None
    coefficients = FACTORISED.coefficients(factors, factors.values[:-1])[0]
    # What the first score is multiplied by moves with the first number alone.
    first = problem.actions[:, 0] - problem.policy.law.mean(problem.policy(problem.states))[:, 0].detach()
    expected = first * (1.0 + problem.states)
    torch.testing.assert_close(coefficients[:, 0], expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("estimator", [Q_PROP, FACTORISED, AllAction(gamma=1.0)], ids=lambda each: type(each).__name__)
def test_gradients_of_columns_are_those_of_the_objective_and_of_automatic_differentiation(
    estimator: RowEstimator,
) -> None:
    problem = PROBLEMS["discrete" if isinstance(estimator, AllAction) else "several"](crooked_pay)
    factors = problem.factors(wrong_quality(2))
    if isinstance(estimator, AllAction):
        probabilities = problem.policy.law.mean(problem.policy(problem.states)).detach()[None]
        values = torch.sin(torch.arange(probabilities.numel(), dtype=torch.float64)).reshape(probabilities.shape)
        factors = replace(factors, action_values=values, action_probabilities=probabilities)
    coefficients = estimator.coefficients(factors, torch.full_like(factors.signal, 0.4))
    rows = problem.rows(estimator, factors, baseline=0.4)
    module, inputs = RowTerms(problem.policy, estimator.terms), (factors.contexts, factors.samples, coefficients)
    slow = per_sample_by_vmap(module, inputs, factors.mask.double()[None])[0]
    torch.testing.assert_close(rows, slow, rtol=0, atol=1e-12)
    one = [flat_gradient(problem.policy, module(*(each[:, n] for each in inputs)).sum()) for n in range(len(rows))]
    torch.testing.assert_close(rows, torch.stack(one), rtol=0, atol=1e-12)
    objective = PolicyObjective(
        policy=problem.policy, trajectories=batch_of(problem), coefficients=coefficients, factors=factors,
        average="columns", entropy_coefficient=0.0, terms=estimator.terms,
    )  # fmt: skip
    torch.testing.assert_close(flat_gradient(problem.policy, objective().value), rows.mean(dim=0), rtol=0, atol=1e-12)


def batch_of(problem: Choice) -> Trajectories:
    row, lane = problem.signal[None], torch.zeros(len(problem.states), dtype=torch.long)
    yes, no = torch.ones_like(row, dtype=torch.bool), torch.zeros_like(row, dtype=torch.bool)
    return Trajectories(
        obs=torch.stack([problem.states, problem.states]), actions=problem.actions[None], rewards=row,
        behavior_log_prob=torch.zeros_like(row), behavior_id=lane, lane=lane, starts=yes, terminated=yes, truncated=no,
        mask=yes, whole_episodes=True,
    )  # fmt: skip


@dataclass(frozen=True)
class Columns:
    """The expansion of some columns."""

    slopes: Tensor
    deviations: Tensor
    others: Tensor


def wrong_chain(seed: int) -> tuple[Enumeration, Factors]:
    """Returns a problem of several steps, and its factors with a critic that is wrong about actions and states."""
    problem = Enumeration(CHAIN, seed=3)
    critic = problem.critic(0.9, error=0.5)
    factors = problem.factors(RewardToGo(gamma=0.9), critic, Q_PROP)
    table = torch.randn(2, 2, generator=torch.Generator().manual_seed(seed))
    states, policy = problem.trajectories.obs[:-1], problem.policy
    expansion = Expansion(
        policy, states, problem.trajectories.actions, quality=lambda e: (table[states] * e).sum(dim=-1)
    )
    return problem, replace(factors, expansion=expansion)


@pytest.mark.parametrize("eta", ["one", "adaptive", "conservative"])
def test_q_prop_is_unbiased_over_whole_trajectories_and_batches(eta: Any) -> None:
    problem, factors = wrong_chain(0)
    estimator = QProp(gamma=0.9, eta=eta, discount_states=True)
    whole = factors.expansion
    assert whole is not None
    total, seen = torch.zeros(()), set()
    for columns, probability in problem.batches(2):
        expansion = Columns(whole.slopes[:, columns], whole.deviations[:, columns], whole.others[:, columns])
        batch = replace(columns_of(factors, columns), expansion=expansion)
        coefficients = estimator.coefficients(batch, torch.full_like(batch.signal, 0.3))
        inputs = (batch.contexts, batch.samples, coefficients)
        rows = Scores(RowTerms(problem.policy, estimator.terms), inputs, batch.mask)
        total = total + probability * rows.per_sample(batch.mask.double()).mean(dim=0)
        share = coefficients[..., 1] / (expansion.slopes[..., 0] * estimator.scale(batch))
        seen |= set(share[batch.mask].detach().numpy().round(9).tolist())
    torch.testing.assert_close(total, problem.exact_gradient(0.9), rtol=0, atol=1e-10)
    assert {"one": seen == {1.0}, "adaptive": len(seen) > 9, "conservative": seen == {0.0, 1.0}}[eta]


def test_eta_from_the_own_column_would_be_biased() -> None:
    problem, factors = wrong_chain(0)
    expansion = factors.expansion
    assert expansion is not None and factors.values is not None
    linear = (expansion.slopes * expansion.deviations).sum(dim=-1)
    scale = Q_PROP.scale(factors)
    own = ((factors.signal - factors.values[:-1]) * linear * (scale != 0)).sum(dim=0) > 0
    coefficients = linear_control(factors.signal, expansion.slopes, expansion.deviations, scale, own.double())
    inputs = (factors.contexts, factors.samples, coefficients)
    rows = Scores(RowTerms(problem.policy, Q_PROP.terms), inputs, factors.mask).per_sample(factors.mask.double())
    bias = problem.probabilities().detach() @ rows - problem.exact_gradient(0.9)
    assert float(bias.norm()) > 1e-2


def test_the_share_is_the_regression_on_the_other_samples() -> None:
    generator = torch.Generator().manual_seed(0)
    linear, noise = (torch.randn(5, 4, generator=generator) for _ in range(2))
    scale = torch.rand(5, 4, generator=generator).round(decimals=1)
    advantage = torch.where(scale == 0, torch.inf, 0.25 * linear + noise)
    found = cross_fitted_share(advantage, linear, scale)
    for column in range(4):
        keep = (torch.arange(4) != column).expand(5, 4) & (scale != 0)
        x, y = (linear * scale)[keep], (advantage * scale)[keep]
        assert float(found[column]) == pytest.approx(float(x @ y / (x @ x)), abs=1e-12)
    exact = cross_fitted_share(0.25 * linear, linear, scale)
    torch.testing.assert_close(exact, torch.full((4,), 0.25), rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    "space", [spaces.Box(-2.0, 2.0, (2,)), spaces.MultiDiscrete([2, 3]), spaces.MultiBinary(2), spaces.Discrete(3)]
)
def test_a_critic_expands_its_own_values_about_the_mean_action(space: spaces.Space[Any]) -> None:
    torch.manual_seed(0)
    seen = spaces.Box(-1.0, 1.0, (2,))
    policy = moved(MLPPolicy(observation_space=seen, action_space=space, hidden_sizes=[]), 1)
    critic = ActionValueCritic(
        observation_space=seen, action_space=space, policy=policy, generator=torch.Generator().manual_seed(0), steps=60
    )  # fmt: skip
    law, obs = policy.law, torch.rand(4, 6, 2, generator=torch.Generator().manual_seed(1))
    parameters = policy(obs).detach().numpy()
    actions = torch.from_numpy(law.sample(parameters, law.noise(np.random.default_rng(0), (4, 6))))
    lane, yes = torch.zeros(6, dtype=torch.long), torch.ones(4, 6, dtype=torch.bool)
    targets = 10 + law.encode(actions)[..., 0] * 5
    batch = Trajectories(
        obs=torch.cat([obs, obs[:1]]), actions=actions, rewards=targets, behavior_log_prob=targets, behavior_id=lane,
        lane=lane, starts=yes, terminated=~yes, truncated=~yes, mask=yes, whole_episodes=False,
    )  # fmt: skip
    assert critic.update(batch, targets, yes)["critic/loss"] is not None

    def quality(encoded: Tensor) -> Tensor:
        features = critic.network.encoder(obs)
        if isinstance(space, spaces.Discrete):
            return (critic.network(obs) * encoded).sum(dim=-1).detach()
        return critic.network.of_inputs(torch.cat([features, encoded], dim=-1)).squeeze(-1).detach()

    mean, expansion = law.mean(policy(obs)).detach(), critic.expansion(obs, actions)
    torch.testing.assert_close(critic.values(obs), quality(mean), rtol=0, atol=1e-12)
    torch.testing.assert_close(expansion.deviations, law.encode(actions) - mean, rtol=0, atol=1e-12)
    for k in range(mean.shape[-1]):
        step = torch.zeros_like(mean)
        step[..., k] = 1e-5
        slope = (quality(mean + step) - quality(mean - step)) / 2e-5
        torch.testing.assert_close(expansion.slopes[..., k], slope, rtol=1e-6, atol=1e-8)
    ends = np.cumsum(law.dimensions).tolist()
    for i, (start, end) in enumerate(zip([0, *ends], ends, strict=False)):
        replaced = law.encode(actions)
        replaced[..., start:end] = mean[..., start:end]
        expected = quality(replaced) - quality(mean)
        torch.testing.assert_close(expansion.others[..., i], expected, rtol=0, atol=1e-12)
    assert expansion.others.shape[-1] == len(ends) and not expansion.slopes.requires_grad
    assert critic.features(obs).shape == (4, 6, critic.num_features)


def test_what_an_estimator_cannot_do_with_is_refused() -> None:
    for space in (spaces.Discrete(3), spaces.Box(-1.0, 1.0, (1,)), spaces.Box(-1.0, 1.0, ())):
        with pytest.raises(UsageError, match=r"^estimator: factorised with actions .*, expected several dimensions"):
            FACTORISED.accepts(space, 8)
    FACTORISED.accepts(spaces.MultiBinary(2), 1)
    with pytest.raises(UsageError, match=r"^estimator\.eta: adaptive with 1 column"):
        QProp(gamma=1.0).accepts(spaces.Discrete(2), 1)
    QProp(gamma=1.0, eta="one").accepts(spaces.Discrete(2), 1)
