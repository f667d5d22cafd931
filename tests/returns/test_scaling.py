"""The running unit of rewards: found forwards, episode by episode, and used only from the next batch on."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pgkit.returns.discounted import RewardToGo
from pgkit.returns.scaling import RewardScaler
from pgkit.types import Trajectories

pytestmark = [pytest.mark.equivalence, pytest.mark.usefixtures("float64")]

GAMMA = 0.9


def slab(rewards: np.ndarray, starts: np.ndarray, mask: np.ndarray, *, whole_episodes: bool = False) -> Trajectories:
    num_steps, num_lanes = rewards.shape
    none = torch.zeros(num_steps, num_lanes, dtype=torch.bool)
    lane = torch.arange(num_lanes)
    return Trajectories(
        obs=torch.zeros(num_steps + 1, num_lanes, 1), actions=none.long(), rewards=torch.from_numpy(rewards),
        behavior_log_prob=torch.zeros(num_steps, num_lanes), behavior_id=lane, terminated=none, truncated=none,
        starts=torch.from_numpy(starts), mask=torch.from_numpy(mask), lane=lane, whole_episodes=whole_episodes,
    )  # fmt: skip


def stream(num_steps: int, num_lanes: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns rewards, starts and mask of lanes with episodes of random length, reset rows between them."""
    generator = np.random.default_rng(0)
    mask, starts = np.ones((num_steps, num_lanes), bool), np.zeros((num_steps, num_lanes), bool)
    starts[0] = True
    for lane in range(num_lanes):
        row = int(generator.integers(2, 9))
        while row < num_steps - 1:
            mask[row, lane], starts[row + 1, lane] = False, True
            row += int(generator.integers(3, 9))
    rewards = np.where(mask, generator.normal(2.0, 3.0, (num_steps, num_lanes)), 0.0)
    return rewards, starts, mask


def discounted_sums(rewards: np.ndarray, starts: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Returns Z of every valid step, by hand."""
    sums = []
    for lane in range(rewards.shape[1]):
        total = 0.0
        for row in range(len(rewards)):
            if starts[row, lane]:
                total = 0.0
            if mask[row, lane]:
                total = rewards[row, lane] + GAMMA * total
                sums.append(total)
    return np.array(sums)


@pytest.mark.parametrize("cuts", [[], [20], [7, 8, 21, 39]])
def test_the_unit_is_that_of_hand_computed_sums_however_the_slabs_are_cut(cuts: list[int]) -> None:
    rewards, starts, mask = stream(40, 3)
    scaler = RewardScaler(gamma=GAMMA, active=True)
    for part in np.split(np.arange(40), cuts):
        scaler.update(slab(rewards[part].copy(), starts[part], mask[part]))
    spread = discounted_sums(rewards, starts, mask).std()
    found = scaler.scaled(torch.ones(1, 1))
    assert float(found) == pytest.approx(1 / spread, rel=1e-10)


def test_whole_episodes_start_from_nothing() -> None:
    rewards, starts = np.array([[1.0, 4.0], [2.0, 0.0]]), np.array([[True, True], [False, False]])
    mask = np.array([[True, True], [True, False]])
    scaler = RewardScaler(gamma=GAMMA, active=True)
    sums: list[float] = []
    for _ in range(2):
        scaler.update(slab(rewards, starts, mask, whole_episodes=True))
        sums += [1.0, 2.0 + GAMMA, 4.0]
    assert float(scaler.scaled(torch.ones(1, 1))) == pytest.approx(1 / np.std(sums), rel=1e-10)


def test_a_batch_is_scaled_by_what_came_before_it_and_stays_as_the_environment_gave_it() -> None:
    rewards, starts, mask = stream(30, 2)
    batch = slab(rewards, starts, mask)
    raw = batch.rewards.clone()
    returns = RewardToGo(gamma=GAMMA, cut="zero", scale_rewards=True)
    none = torch.zeros_like(raw)
    unscaled, _ = RewardToGo(gamma=GAMMA, cut="zero").signal(batch, None, none)
    before, _ = returns.signal(batch, None, none)
    torch.testing.assert_close(before, unscaled)
    returns.update(batch)
    after, _ = returns.signal(batch, None, none)
    spread = discounted_sums(rewards, starts, mask).std()
    torch.testing.assert_close(after, unscaled / spread)  # divided, never shifted
    assert torch.equal(batch.rewards, raw)


def test_the_state_holds_the_sums_under_way() -> None:
    rewards, starts, mask = stream(40, 3)
    first, second = (slab(rewards[part].copy(), starts[part], mask[part]) for part in (slice(0, 20), slice(20, 40)))
    one, other = (RewardScaler(gamma=GAMMA, active=True) for _ in range(2))
    one.update(first)
    other.load_state_dict(one.state_dict())
    one.update(second)
    other.update(second)
    assert torch.equal(one.scaled(torch.ones(1)), other.scaled(torch.ones(1)))


def test_switched_off_it_learns_nothing() -> None:
    scaler = RewardScaler(gamma=GAMMA, active=False)
    rewards, starts, mask = stream(10, 2)
    scaler.update(slab(rewards, starts, mask))
    assert scaler.scaled(torch.ones(1)).tolist() == [1.0]
