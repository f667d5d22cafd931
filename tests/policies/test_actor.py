"""Acting in numpy is acting by the policy: the same numbers, now and after every update."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st

from pgkit.errors import UsageError
from pgkit.policies.mlp import MLPPolicy
from pgkit.types import Rows, Trajectories

pytestmark = pytest.mark.equivalence

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-12}
ACTIONS: dict[str, spaces.Space] = {"discrete": spaces.Discrete(4), "box": spaces.Box(-1, 1, (2,))}


@pytest.fixture(params=TOLERANCE, ids=str)
def dtype(request: pytest.FixtureRequest, float64: None) -> torch.dtype:
    torch.set_default_dtype(request.param)
    return request.param


def policy_for(observations: spaces.Space, actions: str = "box", **options: object) -> MLPPolicy:
    """Returns a policy whose parameters are all away from 0."""
    policy = MLPPolicy(
        observation_space=observations, action_space=ACTIONS[actions], hidden_sizes=[16, 8], init="default", **options
    )
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape))
    return policy


@pytest.fixture(autouse=True)
def _seeded() -> object:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


@pytest.mark.parametrize("normalise", [False, True])
@pytest.mark.parametrize("actions", ACTIONS)
@pytest.mark.parametrize("activation", ["tanh", "relu", "silu"])
def test_the_numpy_actor_is_the_forward_pass(
    dtype: torch.dtype, activation: str, actions: str, normalise: bool
) -> None:
    policy = policy_for(
        spaces.Box(-np.inf, np.inf, (3, 2)), actions, activation=activation, normalise_observations=normalise
    )
    optimizer = torch.optim.Adam(policy.parameters(), lr=0.05)
    act, generator = policy.actor(), np.random.default_rng(0)
    assert act.__qualname__.startswith("numpy_actor")
    for rows in (5, 1, 5):
        obs = generator.normal(3.0, 20.0, size=(rows, 3, 2))
        tensor = torch.from_numpy(obs)
        with torch.no_grad():
            expected = policy(tensor).numpy()
        found = act(obs)
        assert found.dtype == expected.dtype
        np.testing.assert_allclose(found, expected, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])
        # It reads the parameters' own memory: an optimizer step and new moments are seen at once.
        policy(tensor).square().sum().backward()
        optimizer.step()
        policy.update(Rows(obs=tensor, actions=torch.zeros(0), index=torch.arange(rows)))
        assert np.abs(act(obs) - expected).max() > 1e-3


@pytest.mark.parametrize("state_dependent", [False, True])
@pytest.mark.parametrize("law", ["gaussian", "clipped_gaussian", "squashed_gaussian", "beta", "mixture"])
def test_every_law_acts_in_numpy(dtype: torch.dtype, law: str, state_dependent: bool) -> None:
    if law == "beta" and state_dependent:
        with pytest.raises(UsageError, match=r"^policy\.state_dependent_std: true for Beta, expected false$"):
            policy_for(spaces.Box(-1, 1, (3,)), law=law, state_dependent_std=True)
        return
    policy = policy_for(spaces.Box(-1, 1, (3,)), law=law, state_dependent_std=state_dependent, initial_log_std=-0.5)
    act = policy.actor()
    assert act.__qualname__.startswith("numpy_actor")
    obs = np.random.default_rng(0).normal(size=(7, 3)).astype(np.float32)
    with torch.no_grad():
        expected = policy(torch.from_numpy(obs)).numpy()
    np.testing.assert_allclose(act(obs), expected, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])
    scales = expected[:, -policy.law.num_scales :] if policy.law.num_scales else expected
    assert (np.ptp(scales, axis=0) > 1e-3).all() == (state_dependent or law == "beta")
    assert policy.divergence(policy, torch.from_numpy(obs)).abs().max() < 1e-5


def test_an_untrained_law_is_that_of_its_initial_parameters() -> None:
    policy = MLPPolicy(
        observation_space=spaces.Box(-1, 1, (3,)), action_space=ACTIONS["box"], law="mixture", initial_log_std=-2.0,
        state_dependent_std=True,
    )  # fmt: skip
    parameters = policy(torch.randn(5, 3))
    torch.testing.assert_close(parameters, policy.law.initial(-2.0).expand(5, -1), rtol=0, atol=0.1)


@pytest.mark.parametrize(
    "space",
    [
        spaces.Discrete(3, start=1),
        spaces.Dict({"place": spaces.Box(-1, 1, (2,)), "mode": spaces.MultiDiscrete([2, 3])}),
        spaces.Box(0, 255, (4, 2), np.uint8),
    ],
    ids=["discrete", "dict", "image"],
)
def test_other_observations_act_through_the_policy_itself(dtype: torch.dtype, space: spaces.Space) -> None:
    policy = policy_for(space)
    act = policy.actor()
    space.seed(0)
    several = [space.sample() for _ in range(5)]
    obs = {key: np.stack([one[key] for one in several]) for key in several[0]} if isinstance(space, spaces.Dict) else (
        np.stack(several)
    )  # fmt: skip
    tensors = {k: torch.from_numpy(v) for k, v in obs.items()} if isinstance(obs, dict) else torch.from_numpy(obs)
    with torch.no_grad():
        np.testing.assert_array_equal(act(obs), policy(tensors).numpy())
        next(policy.parameters()).mul_(2)
        np.testing.assert_array_equal(act(obs), policy(tensors).numpy())


@settings(deadline=None, max_examples=25)
@given(scale=st.sampled_from([1e-3, 1.0, 1e2, 1e4]), actions=st.sampled_from(list(ACTIONS)), seed=st.integers(0, 1000))
def test_the_first_ratio_of_an_update_is_1(scale: float, actions: str, seed: int) -> None:
    policy = policy_for(spaces.Box(-np.inf, np.inf, (4,)), actions, normalise_observations=True)
    generator = np.random.default_rng(seed)
    obs = (scale * generator.standard_normal((64, 4))).astype(np.float32)
    parameters = policy.actor()(obs)
    sampled = policy.law.sample(parameters, policy.law.noise(generator, (64,)))
    recorded = policy.law.log_prob(torch.from_numpy(parameters), torch.from_numpy(sampled))
    with torch.no_grad():
        now = policy.log_prob(torch.from_numpy(obs), torch.from_numpy(sampled))
    assert ((now - recorded).exp() - 1).abs().max() < 1e-4


def test_log_probabilities_and_gradients_are_of_the_action_as_sampled(float64: None) -> None:
    # One step, reward = the action the environment got: the gradient of its mean by finite differences of quadrature.
    torch.set_default_dtype(torch.float64)
    policy = MLPPolicy(
        observation_space=spaces.Box(-1, 1, (1,)), action_space=spaces.Box(-0.5, 0.5, (1,)), hidden_sizes=[]
    )
    with torch.no_grad():
        policy.network[0].bias.fill_(0.4)
    grid = np.linspace(-9, 9, 20_001)[:, None]
    obs, actions = torch.zeros(len(grid), 1), torch.from_numpy(grid)
    rewards = torch.from_numpy(policy.law.to_environment(grid).astype(np.float64)).squeeze(1)

    def objective() -> torch.Tensor:
        return (policy.log_prob(obs, actions).exp() * rewards).sum() * (18 / 20_000)

    log_prob = policy.log_prob(obs, actions)
    weights = (log_prob.exp() * rewards).detach() * (18 / 20_000)
    (score_function,) = torch.autograd.grad((weights * log_prob).sum(), policy.network[0].bias)
    bias, step = policy.network[0].bias, 1e-5
    with torch.no_grad():
        bias += step
        above = objective()
        bias -= 2 * step
        below = objective()
    assert float(score_function) == pytest.approx(float((above - below) / (2 * step)), abs=1e-8)
    # Under the log-probability of the clipped action the score would be another.
    clipped = torch.from_numpy(policy.law.to_environment(grid).astype(np.float64))
    (wrong,) = torch.autograd.grad((weights * policy.log_prob(obs, clipped)).sum(), bias)
    assert abs(float(wrong) - float(score_function)) > 0.01


def test_the_divergence_is_exact_and_follows_no_gradient(float64: None) -> None:
    for actions, law in (("discrete", torch.distributions.Categorical), ("box", None)):
        one, other = (policy_for(spaces.Box(-1, 1, (3,)), actions) for _ in range(2))
        obs = torch.randn(7, 3)
        found = one.divergence(other, obs)
        if law is not None:
            p, q = (torch.distributions.Categorical(logits=each(obs)) for each in (one, other))
        else:
            p, q = (
                torch.distributions.Independent(torch.distributions.Normal(mean, log_std.exp()), 1)
                for mean, log_std in (each(obs).chunk(2, dim=-1) for each in (one, other))
            )
        torch.testing.assert_close(found, torch.distributions.kl_divergence(p, q).detach(), rtol=0, atol=1e-10)
        assert not found.requires_grad and one.divergence(one, obs).abs().max() < 1e-12


def test_a_batch_of_padding_has_rows_of_valid_steps_only() -> None:
    mask = torch.tensor([[True, True], [False, True]])
    zeros = torch.zeros(2, 2)
    batch = Trajectories(
        obs=torch.arange(6.0).reshape(3, 2, 1), actions=torch.arange(4).reshape(2, 2), rewards=zeros,
        behavior_log_prob=zeros, behavior_id=torch.zeros(2), terminated=~mask, truncated=~mask, starts=mask, mask=mask,
        lane=torch.arange(2), whole_episodes=True,
    )  # fmt: skip
    assert batch.rows().index.tolist() == [0, 1, 3] and batch.rows().actions.tolist() == [0, 1, 3]
    assert batch.rows().obs.flatten().tolist() == [0.0, 1.0, 3.0]
    assert batch.columns(torch.tensor([1])).actions.flatten().tolist() == [1, 3]
