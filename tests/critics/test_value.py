"""The critic learns what it is shown, in any unit, and says the same after the unit moved."""

from __future__ import annotations

import copy

import pytest
import torch
from gymnasium import spaces

from pgkit.critics.none import NoCritic
from pgkit.critics.value import ValueCritic
from pgkit.types import Trajectories

pytestmark = [pytest.mark.exact, pytest.mark.usefixtures("float64")]

SPACE = spaces.Box(-1, 1, (2,))


def critic(**options: object) -> ValueCritic:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return ValueCritic(observation_space=SPACE, generator=torch.Generator().manual_seed(0), **options)


def batch(num_steps: int = 32, num_columns: int = 8) -> Trajectories:
    generator = torch.Generator().manual_seed(1)
    zeros = torch.zeros(num_steps, num_columns)
    return Trajectories(
        obs=torch.rand(num_steps + 1, num_columns, 2, generator=generator) * 2 - 1, actions=zeros.long(),
        rewards=zeros, behavior_log_prob=zeros, behavior_id=zeros[0], terminated=zeros.bool(), truncated=zeros.bool(),
        starts=zeros.bool(), mask=~zeros.bool(), lane=torch.arange(num_columns), whole_episodes=False,
    )  # fmt: skip


def known(obs: torch.Tensor) -> torch.Tensor:
    return torch.sin(3 * obs[..., 0]) + obs[..., 1] ** 2


@pytest.mark.parametrize(("offset", "unit"), [(0.0, 1.0), (-300.0, 50.0), (0.5, 1e-2)])
def test_it_fits_a_known_function_in_any_unit(offset: float, unit: float) -> None:
    one, trajectories = critic(learning_rate=3e-3, normalise_observations=True), batch()
    targets = offset + unit * known(trajectories.obs)
    losses = [one.update(trajectories, targets[:-1], trajectories.mask)["critic/loss"] for _ in range(10)]
    error = one.values(trajectories.obs) - targets
    assert float(error.square().mean()) < 0.02 * float(targets.var())
    assert losses[-1] < 0.05 * float(targets.var())
    assert tuple(one.update(trajectories, targets[:-1], trajectories.mask)) == one.tags


def test_moving_the_unit_moves_no_prediction() -> None:
    one, trajectories = critic(), batch()
    one.network.absorb(torch.tensor([1.0, 2.0]))
    before = one.values(trajectories.obs)
    for targets in (torch.randn(50) * 1e3 - 7e3, torch.full((9,), 4.0), torch.tensor([0.5])):
        scaled = one.network.absorb(targets)
        torch.testing.assert_close(one.values(trajectories.obs), before, rtol=1e-9, atol=1e-9)
        mean, spread = float(one.network.mean), one.network.spread
        torch.testing.assert_close(scaled * spread + mean, targets)
    seen = torch.cat((torch.tensor([1.0, 2.0]), torch.full((9,), 4.0), torch.tensor([0.5])))
    assert float(one.network.count) == len(seen) + 50


def test_rows_outside_the_mask_teach_nothing() -> None:
    trajectories = batch()
    mask = trajectories.mask.clone()
    mask[5:, 2:] = False
    targets = known(trajectories.obs)[:-1]
    one, other = critic(), critic()
    one.update(trajectories, targets, mask)
    other.update(trajectories, torch.where(mask, targets, 1e9), mask)
    assert torch.equal(one.values(trajectories.obs), other.values(trajectories.obs))
    before = one.values(trajectories.obs)
    assert one.update(trajectories, targets, torch.zeros_like(mask)) == {"critic/loss": None}
    assert torch.equal(one.values(trajectories.obs), before)


def test_values_are_detached_and_reading_changes_nothing() -> None:
    one, trajectories = critic(), batch()
    values = one.values(trajectories.obs)
    assert values.shape == (33, 8) and not values.requires_grad
    assert torch.equal(one.values(trajectories.obs), values)


def test_a_restored_critic_goes_on_bit_for_bit() -> None:
    one, trajectories = critic(normalise_observations=True), batch()
    targets = known(trajectories.obs)[:-1]
    one.update(trajectories, targets, trajectories.mask)
    other = critic(normalise_observations=True)
    other.generator.manual_seed(99)
    other.load_state_dict(copy.deepcopy(one.state_dict()))
    for each in (one, other):
        each.update(trajectories, targets + 1, trajectories.mask)
    assert torch.equal(one.values(trajectories.obs), other.values(trajectories.obs))


def test_no_critic_predicts_nothing() -> None:
    none, trajectories = NoCritic(observation_space=SPACE, generator=torch.Generator()), batch()
    assert none.values(trajectories.obs) is None and none.state_dict() == {}
    assert none.update(trajectories, trajectories.rewards, trajectories.mask) == {}
