"""Ends of episodes, where a wrong return corrupts a gradient and nothing complains."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pgkit.protocols import Returns
from pgkit.returns.bootstrapped import LambdaReturn, NStep
from pgkit.returns.discounted import RewardToGo, Total
from pgkit.types import Trajectories

pytestmark = [pytest.mark.exact, pytest.mark.usefixtures("float64")]


def batch(
    rewards: Tensor,
    *,
    terminated: Tensor | None = None,
    truncated: Tensor | None = None,
    mask: Tensor | None = None,
    obs: Tensor | None = None,
    whole_episodes: bool = False,
) -> Trajectories:
    """Returns a batch of which only the ends matter."""
    num_steps, num_columns = rewards.shape
    nowhere = torch.zeros(num_steps, num_columns, dtype=torch.bool)
    starts = nowhere.clone()
    starts[0] = True
    return Trajectories(
        obs=torch.zeros(num_steps + 1, num_columns, 1) if obs is None else obs,
        actions=nowhere.long(),
        rewards=rewards,
        behavior_log_prob=torch.zeros_like(rewards),
        behavior_id=torch.zeros(num_columns, dtype=torch.long),
        terminated=nowhere if terminated is None else terminated,
        truncated=nowhere if truncated is None else truncated,
        starts=starts,
        mask=~nowhere if mask is None else mask,
        lane=torch.arange(num_columns),
        whole_episodes=whole_episodes,
    )


def at(num_steps: int, *rows: int) -> Tensor:
    flags = torch.zeros(num_steps, 1, dtype=torch.bool)
    flags[list(rows)] = True
    return flags


def signal(returns: Returns, trajectories: Trajectories, values: Tensor | None = None) -> Tensor:
    return returns.signal(trajectories, values, torch.zeros_like(trajectories.rewards))[0]


BOOTSTRAPPED = [
    LambdaReturn(gamma=0.99, lam=0.0),
    LambdaReturn(gamma=0.99, lam=0.95),
    LambdaReturn(gamma=0.99, lam=1.0),
    NStep(gamma=0.99, n=3),
    NStep(gamma=0.99, n=50),
    RewardToGo(gamma=0.99),
]


@pytest.mark.parametrize("returns", BOOTSTRAPPED)
def test_a_time_limit_is_not_an_end_to_the_critic(returns: Returns) -> None:
    # Reward 1 for ever is worth 100 at γ = 0.99, wherever a limit cuts it: no advantage anywhere.
    limits, resets = at(32, 9, 20, 31), at(32, 10, 21)
    rewards = torch.where(resets, 0.0, 1.0)
    trajectories = batch(rewards, truncated=limits, mask=~resets)
    advantages = signal(returns, trajectories, torch.full((33, 1), 100.0)) - 100.0
    assert advantages[~resets].abs().max() < 1e-10


@pytest.mark.parametrize("returns", BOOTSTRAPPED)
def test_the_observation_of_a_reset_enters_no_target(returns: Returns) -> None:
    # V(x) = x; an episode truncated at row 3 led to 5, the next one begins at 999 on the reset row's successor.
    values = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0, 999.0, 999.0, 999.0])[:, None]
    trajectories = batch(torch.ones(7, 1), truncated=at(7, 3), terminated=at(7, 6), mask=~at(7, 4))
    found = signal(returns, trajectories, values)
    assert found[:4].max() < 10
    assert float(found[3]) == pytest.approx(1 + 0.99 * 5.0, abs=1e-12)
    assert float(found[6]) == 1.0


@pytest.mark.parametrize("returns", BOOTSTRAPPED)
def test_terminated_wins_where_both_ends_are_set(returns: Returns) -> None:
    trajectories = batch(torch.ones(4, 1), truncated=at(4, 1, 3), terminated=at(4, 1, 3))
    found = signal(returns, trajectories, torch.full((5, 1), 50.0))
    assert float(found[1]) == float(found[3]) == 1.0


@pytest.mark.parametrize("returns", BOOTSTRAPPED)
@pytest.mark.parametrize("cut", [1, 2, 5])
def test_an_episode_cut_into_two_slabs_has_the_returns_of_the_whole(returns: Returns, cut: int) -> None:
    # Dynamics without chance and the exact V: whatever is bootstrapped, every return is V.
    rewards = torch.tensor([1.0, -2.0, 0.5, 4.0, 0.0, 1.5])[:, None]
    values = torch.zeros(7, 1)
    for t in reversed(range(6)):
        values[t] = rewards[t] + 0.99 * values[t + 1]
    whole = signal(returns, batch(rewards, terminated=at(6, 5)), values)
    torch.testing.assert_close(whole, values[:-1], rtol=0, atol=1e-12)
    before = signal(returns, batch(rewards[:cut]), values[: cut + 1])
    after = signal(returns, batch(rewards[cut:], terminated=at(6 - cut, 5 - cut)), values[cut:])
    torch.testing.assert_close(torch.cat((before, after)), whole, rtol=0, atol=1e-12)


def test_what_becomes_of_an_episode_that_the_collector_cut_is_a_choice() -> None:
    # Two episodes: rows 0-2 terminate, row 3 is the reset, rows 4-5 are cut by the end of the slab.
    rewards = torch.tensor([1.0, 2.0, 4.0, 999.0, 8.0, 16.0])[:, None]
    trajectories = batch(rewards, terminated=at(6, 2), mask=~at(6, 3))
    none = torch.zeros(6, 1)
    for cut in ("zero", "drop"):
        returns = RewardToGo(gamma=0.5, cut=cut)
        found, mask = returns.signal(trajectories, None, none)
        assert not returns.unbiased
        assert found[:3, 0].tolist() == [3.0, 4.0, 4.0] and float(found[3]) == 0.0
        assert found[4:, 0].tolist() == ([16.0, 16.0] if cut == "zero" else [0.0, 0.0])
        assert mask[:, 0].tolist() == [True, True, True, False, cut == "zero", cut == "zero"]
    # With a critic a cut is a bootstrap, whatever was chosen for the case without one.
    found, mask = RewardToGo(gamma=0.5, cut="drop").signal(trajectories, torch.full((7, 1), 10.0), none)
    assert found[4:, 0].tolist() == [8 + 0.5 * (16 + 5), 16 + 5] and torch.equal(mask, trajectories.mask)
    assert RewardToGo(gamma=0.5, cut="refuse").unbiased


def test_without_a_critic_a_time_limit_ends_the_episode_and_drops_nothing() -> None:
    trajectories = batch(torch.ones(3, 1), truncated=at(3, 2))
    found, mask = RewardToGo(gamma=1.0, cut="drop").signal(trajectories, None, torch.zeros(3, 1))
    assert found[:, 0].tolist() == [3.0, 2.0, 1.0] and mask.all()


def test_the_whole_return_stands_at_every_row_of_its_episode_and_nowhere_else() -> None:
    mask = torch.tensor([[True, True], [True, False], [True, False]])
    rewards = torch.tensor([[1.0, 5.0], [2.0, 999.0], [4.0, 999.0]])
    terminated = torch.tensor([[False, True], [False, False], [True, False]])
    found = signal(Total(gamma=0.5), batch(rewards, terminated=terminated, mask=mask, whole_episodes=True))
    assert found.T.tolist() == [[3.0, 3.0, 3.0], [5.0, 0.0, 0.0]]


@pytest.mark.parametrize("returns", [LambdaReturn(gamma=0.9), NStep(gamma=0.9)])
def test_a_return_that_bootstraps_says_that_it_needs_values(returns: Returns) -> None:
    assert returns.needs_values and not returns.unbiased
    with pytest.raises(ValueError, match="values: None"):
        signal(returns, batch(torch.ones(2, 1)))
