"""A policy differentiated by hand is the policy that autograd differentiates."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from gymnasium import spaces
from torch import Tensor

from pgkit.core.densities import log_prob_of_rows
from pgkit.core.placed import told
from pgkit.policies.by_hand import ReadRows
from pgkit.policies.mlp import MLPPolicy
from pgkit.rl.objective import PolicyObjective
from pgkit.types import Factors, Trajectories

pytestmark = [pytest.mark.equivalence, pytest.mark.usefixtures("float64")]

SPACES: dict[str, spaces.Space[Any]] = {
    "discrete": spaces.Discrete(4, start=2), "box": spaces.Box(-1, 1, (2,)), "matrix": spaces.Box(-1, 1, (2, 3)),
}  # fmt: skip
OBSERVATIONS = spaces.Box(-5, 5, (3,))


def policy_of(space: spaces.Space[Any], **options: Any) -> MLPPolicy:
    """Returns a policy whose parameters and moments are all away from 0."""
    torch.manual_seed(3)
    policy = MLPPolicy(observation_space=OBSERVATIONS, action_space=space, hidden_sizes=[8, 5], **options)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    policy.update(batch(policy).rows())
    return policy


def batch(policy: MLPPolicy, steps: int = 6, columns: int = 4) -> Trajectories:
    law, zeros = policy.law, torch.zeros(steps, columns)
    actions = (
        torch.randint(0, 4, (steps, columns)) if law.num_parameters == 4 and not law.num_scales
        else torch.randn(steps, columns, *policy.law.shape)  # type: ignore[attr-defined]  # of a BoxLaw
    )  # fmt: skip
    mask = torch.rand(steps, columns) < 0.8
    mask[0] = True
    return Trajectories(
        obs=torch.randn(steps + 1, columns, 3) * 2 + 1, actions=actions, rewards=zeros,
        behavior_log_prob=torch.randn(steps, columns), behavior_id=zeros[0].long(), terminated=zeros.bool(),
        truncated=zeros.bool(), starts=zeros.bool(), mask=mask, lane=torch.arange(columns), whole_episodes=False,
    )  # fmt: skip


def objective_of(policy: Any, trajectories: Trajectories, entropy: float = 0.0) -> PolicyObjective:
    coefficients = torch.randn(trajectories.mask.shape, generator=torch.Generator().manual_seed(5))
    factors = Factors(signal=coefficients, log_weight=torch.zeros_like(coefficients), mask=trajectories.mask)
    return PolicyObjective(
        policy=policy, trajectories=trajectories, factors=factors, coefficients=coefficients, average="steps",
        entropy_coefficient=entropy,
    )  # fmt: skip


class General:
    """A policy that hides what it can do by hand."""

    def __init__(self, policy: MLPPolicy) -> None:
        self.policy, self.law = policy, policy.law
        self.named_parameters, self.parameters = policy.named_parameters, policy.parameters

    def __call__(self, obs: Any) -> Tensor:
        result: Tensor = self.policy(obs)
        return result


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("options", [{}, {"normalise_observations": True}, {"state_dependent_std": True}], ids=str)
@pytest.mark.parametrize("entropy", [0.0, 0.3])
def test_rows_and_their_gradients_are_those_of_autograd(space: str, options: dict[str, Any], entropy: float) -> None:
    if space == "discrete":
        options = {key: value for key, value in options.items() if key != "state_dependent_std"}
    policy = policy_of(SPACES[space], **options)
    trajectories = batch(policy)
    fast, general = objective_of(policy, trajectories), objective_of(General(policy), trajectories)
    rows = trajectories.valid[torch.randperm(len(trajectories.valid))[:7]]
    one, other = fast.scored(rows), general.scored(rows)
    assert isinstance(one.gradient.__self__, ReadRows), "not by hand"  # type: ignore[attr-defined]  # a bound method
    for name in ("log_prob", "entropy", "behavior_log_prob", "index"):
        torch.testing.assert_close(getattr(one, name), getattr(other, name), atol=1e-12, rtol=0)
    assert one.num_samples == other.num_samples
    weight = torch.randn(len(rows))
    torch.testing.assert_close(one.gradient(weight, entropy), other.gradient(weight, entropy), atol=1e-11, rtol=0)


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("entropy", [0.0, 0.3])
def test_the_gradient_of_the_whole_is_that_of_autograd(
    space: str, entropy: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pgkit.rl.objective.BLOCK", 7)
    policy = policy_of(SPACES[space])
    trajectories = batch(policy)
    fast, general = (objective_of(each, trajectories, entropy).ascent() for each in (policy, General(policy)))
    torch.testing.assert_close(fast.gradient, general.gradient, atol=1e-11, rtol=0)
    assert told([fast.value, fast.entropy]) == pytest.approx(told([general.value, general.entropy]), abs=1e-12)
    one = objective_of(policy, trajectories, entropy)()
    assert fast.value == pytest.approx(float(one.value.detach()), abs=1e-12)


@pytest.mark.parametrize("space", SPACES)
def test_densities_of_rows_are_those_of_the_law(space: str) -> None:
    policy = policy_of(SPACES[space])
    trajectories = batch(policy)
    found = log_prob_of_rows(policy, trajectories)
    expected = policy.log_prob(trajectories.obs[:-1], trajectories.actions).detach()  # type: ignore[index]  # a tensor
    torch.testing.assert_close(found, torch.where(trajectories.mask, expected, 0.0), atol=1e-12, rtol=0)


def test_a_batch_in_which_no_row_counts_has_a_gradient_of_zeros() -> None:
    policy = policy_of(SPACES["discrete"])
    trajectories = batch(policy)
    found = objective_of(policy, replace(trajectories, mask=torch.zeros_like(trajectories.mask)), 0.3).ascent()
    assert found.gradient.shape == (sum(each.numel() for each in policy.parameters()),)
    assert not found.gradient.any() and (found.value, found.entropy) == (0.0, 0.0)


def test_what_is_less_plain_goes_the_general_way() -> None:
    assert policy_of(SPACES["discrete"]).by_hand() is not None
    mixed = MLPPolicy(observation_space=OBSERVATIONS, action_space=SPACES["box"], law="squashed_gaussian")
    named = MLPPolicy(
        observation_space=spaces.Dict(a=OBSERVATIONS, action_mask=spaces.MultiBinary(4)),
        action_space=SPACES["discrete"],
    )
    images = MLPPolicy(observation_space=spaces.Box(0, 255, (4, 4), "uint8"), action_space=SPACES["discrete"])
    assert [each.by_hand() for each in (mixed, named, images)] == [None] * 3
