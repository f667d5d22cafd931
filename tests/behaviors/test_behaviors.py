"""Behaviours act by the law that they say they act by."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces

from pgkit.behaviors.active import Active
from pgkit.behaviors.changed import Epsilon, Temperature
from pgkit.behaviors.checkpoint import Checkpoint
from pgkit.behaviors.current import Current
from pgkit.core.processes import Process
from pgkit.errors import UsageError
from pgkit.estimators.score_function import ScoreFunction
from pgkit.policies.mlp import MLPPolicy
from pgkit.returns.discounted import RewardToGo
from tests.problems import Enumeration

pytestmark = [pytest.mark.exact, pytest.mark.usefixtures("float64")]

LANES = 6
ACTIONS = {
    "discrete": spaces.Discrete(3, start=-1),
    "several": spaces.MultiDiscrete([2, 3]),
    "bits": spaces.MultiBinary(2),
    "box": spaces.Box(-1, 1, (2,)),
}


def policy_of(actions: spaces.Space[Any], seed: int = 0) -> MLPPolicy:
    torch.manual_seed(seed)
    policy = MLPPolicy(observation_space=spaces.Box(-9, 9, (3,)), action_space=actions, hidden_sizes=[5])
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.copy_(torch.randn(parameter.shape))
    return policy


def every_action(space: spaces.Space[Any]) -> torch.Tensor:
    if isinstance(space, spaces.Discrete):
        return torch.arange(int(space.n))
    sizes = space.nvec if isinstance(space, spaces.MultiDiscrete) else [2] * int(np.prod(space.shape))
    return torch.cartesian_prod(*(torch.arange(int(size)) for size in sizes))


def said(behavior: Any, obs: torch.Tensor, actions: torch.Tensor, of: int = 0) -> torch.Tensor:
    with torch.no_grad():
        result: torch.Tensor = behavior.acting().policies[of].log_prob(obs, actions)
    return result


@pytest.mark.parametrize("name", ["discrete", "several", "bits"])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_a_temperature_raises_every_probability_to_a_power(name: str, temperature: float) -> None:
    policy, actions = policy_of(ACTIONS[name]), every_action(ACTIONS[name])
    obs = torch.randn(3).expand(len(actions), 3)
    found = said(Temperature(policy=policy, num_lanes=LANES, temperature=temperature), obs, actions)
    powers = policy.log_prob(obs, actions).detach() / temperature
    assert torch.allclose(found, powers.log_softmax(dim=0), atol=1e-12)


def test_a_temperature_widens_a_gaussian_likewise() -> None:
    policy = policy_of(ACTIONS["box"])
    obs, actions = torch.randn(3).expand(50, 3), torch.randn(50, 2)
    found = said(Temperature(policy=policy, num_lanes=LANES, temperature=4.0), obs, actions)
    gap = found - policy.log_prob(obs, actions).detach() / 4
    assert torch.allclose(gap, gap[0].expand(50), atol=1e-12)  # but for the normaliser
    wide = torch.distributions.Normal(*(part for part in _normal(policy, obs[0], 2.0)))
    assert torch.allclose(found, wide.log_prob(actions).sum(-1), atol=1e-12)


def _normal(policy: MLPPolicy, obs: torch.Tensor, factor: float) -> tuple[torch.Tensor, torch.Tensor]:
    parameters = policy(obs).detach()
    return parameters[:2], factor * parameters[2:].exp()


@pytest.mark.parametrize("name", ["discrete", "several", "bits"])
@pytest.mark.parametrize("epsilon", [0.0, 0.3, 1.0])
def test_epsilon_mixes_every_dimension_with_uniform_choices(name: str, epsilon: float) -> None:
    space = ACTIONS[name]
    policy, actions = policy_of(space), every_action(space)
    obs = torch.randn(3).expand(len(actions), 3)
    own = policy.law.log_prob_of_dimensions(policy(obs), actions).exp().detach()
    sizes = torch.tensor(policy.law.dimensions)
    expected = ((1 - epsilon) * own + epsilon / sizes).prod(dim=-1)
    found = said(Epsilon(policy=policy, num_lanes=LANES, epsilon=epsilon), obs, actions).exp()
    assert torch.allclose(found, expected, atol=1e-12) and float(found.sum()) == pytest.approx(1, abs=1e-12)


def test_epsilon_refuses_a_gaussian() -> None:
    with pytest.raises(UsageError, match="expected behavior=temperature"):
        Epsilon(policy=policy_of(ACTIONS["box"]), num_lanes=LANES)


def made(name: str, policy: MLPPolicy, **options: Any) -> Any:
    makers: dict[str, Any] = {
        "current": lambda: Current(policy=policy, num_lanes=LANES),
        "temperature": lambda: Temperature(policy=policy, num_lanes=LANES, temperature=2.0, **options),
        "epsilon": lambda: Epsilon(policy=policy, num_lanes=LANES, epsilon=0.4, **options),
        "checkpoint": lambda: Checkpoint(
            policy=policy,
            num_lanes=LANES,
            run="a run",
            load_policy=lambda _: policy_of(ACTIONS["discrete"], 9),
            **options,
        ),
        "active": lambda: Active(policy=policy, num_lanes=LANES, **{"lanes": 2, **options}),
    }
    return makers[name]()


@pytest.mark.parametrize("lanes", [None, 2])
@pytest.mark.parametrize("name", ["current", "temperature", "epsilon", "checkpoint", "active"])
def test_each_lane_is_acted_on_by_who_is_said_to_act(name: str, lanes: int | None) -> None:
    """The actor's parameters give, under the policy's law, the log-probabilities of the policy named for that lane."""
    policy = policy_of(ACTIONS["discrete"])
    behavior = made(name, policy, **({} if lanes is None or name == "current" else {"lanes": lanes}))
    act, obs = behavior.actor(), torch.randn(LANES, 3)
    for _ in range(2):
        parameters = torch.from_numpy(np.array(act(obs.numpy())))
        acting = behavior.acting()
        for lane in range(LANES):
            for action in range(3):
                expected = acting.policies[int(acting.lanes[lane])].log_prob(obs[lane], torch.tensor(action))
                found = policy.law.log_prob(parameters[lane], torch.tensor(action))
                assert float(found) == pytest.approx(float(expected.detach()), abs=1e-6), (lane, action)
        with torch.no_grad():  # the actor follows the policy
            for parameter in policy.parameters():
                parameter.add_(0.1)
    assert behavior.on_policy == (name == "current")
    if lanes is not None and name != "current":
        assert acting.policies[0] is policy and acting.lanes.tolist() == [1, 1, 0, 0, 0, 0]


def test_a_copy_of_who_acts_stands_still() -> None:
    policy = policy_of(ACTIONS["discrete"])
    behavior = Temperature(policy=policy, num_lanes=LANES)
    kept = copy.deepcopy(behavior.acting().policies)[0]
    obs, action = torch.randn(3), torch.tensor(1)
    before = float(kept.log_prob(obs, action))
    with torch.no_grad():
        next(iter(policy.parameters())).add_(1.0)
    assert float(kept.log_prob(obs, action)) == before != float(said(behavior, obs, action))


@pytest.mark.parametrize("name", ["temperature", "epsilon", "checkpoint", "active"])
def test_more_lanes_than_there_are_are_refused(name: str) -> None:
    with pytest.raises(UsageError, match=r"behavior.lanes: 7, expected at most env.num_envs=6"):
        made(name, policy_of(ACTIONS["discrete"]), lanes=7)


@pytest.mark.parametrize("lanes", [None, LANES])
def test_active_behaviour_leaves_lanes_to_the_policy(lanes: int | None) -> None:
    with pytest.raises(UsageError, match=r"behavior.lanes: .*, expected fewer than env.num_envs=6"):
        made("active", policy_of(ACTIONS["discrete"]), lanes=lanes)


def test_a_checkpoint_asks_for_its_run() -> None:
    with pytest.raises(UsageError, match=r"behavior.run: null, expected the folder of a finished run"):
        Checkpoint(policy=None, num_lanes=2, load_policy=lambda _: None)


BANDIT = Process(
    start=[1.0], outcomes={(0, 0): [(1.0, 5.0, None)], (0, 1): [(1.0, 1.0, None)], (0, 2): [(1.0, 0.0, None)]},
    num_actions=3, horizon=1,
)  # fmt: skip


def test_active_behaviour_finds_the_density_of_least_variance() -> None:
    """From a batch with every arm in proportion it goes towards p |g| / E|g|, where the variance is least."""
    problem = Enumeration(BANDIT, seed=3)
    p = problem.probabilities().detach()
    factors = problem.factors(RewardToGo(gamma=1.0))
    # Columns stand for arms in proportion: each counts p times the number of arms.
    coefficients = ScoreFunction(gamma=1.0).coefficients(factors, torch.zeros_like(factors.signal)) * p * len(p)
    behavior = Active(policy=problem.policy, num_lanes=2, lanes=1, steps=1, learning_rate=1e-2)
    lengths = (problem.scores[0] * factors.signal[0][:, None]).norm(dim=1)
    best = p * lengths / (p * lengths).sum()

    def variance(q: torch.Tensor) -> float:
        return float((p.square() * lengths.square() / q)[p * lengths > 0].sum())

    found = behavior.learn(problem.trajectories, factors, coefficients)
    with torch.no_grad():
        q = behavior.other.law.log_probabilities(behavior.other(torch.zeros(1, dtype=torch.long)))[0].exp()
    assert found["behavior/cross_entropy_gain"] > 0 and found["behavior/divergence"] > 0
    assert (best * (q / p).log())[best > 0].sum() > 0  # nearer to the best law than the policy is
    assert variance(best) <= variance(q) < variance(p)


def test_equal_gradients_leave_the_policy_as_it_is() -> None:
    problem = Enumeration(BANDIT, seed=3)
    factors = problem.factors(RewardToGo(gamma=1.0))
    nothing = replace(factors, signal=torch.zeros_like(factors.signal))
    coefficients = ScoreFunction(gamma=1.0).coefficients(nothing, torch.zeros_like(factors.signal))
    behavior = Active(policy=problem.policy, num_lanes=2, lanes=1)
    assert set(behavior.learn(problem.trajectories, factors, coefficients).values()) == {None}
    for mine, its in zip(behavior.other.parameters(), problem.policy.parameters(), strict=True):
        assert torch.equal(mine, its)


def test_active_behaviour_refuses_rows_of_several_terms() -> None:
    problem = Enumeration(BANDIT, seed=3)
    factors = problem.factors(RewardToGo(gamma=1.0))
    with pytest.raises(UsageError, match="expected estimator=score_function"):
        Active(policy=problem.policy, num_lanes=2, lanes=1).learn(problem.trajectories, factors, torch.zeros(1, 3, 3))
