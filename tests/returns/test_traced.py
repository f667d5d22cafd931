"""Off-policy returns as parts: what they are fitted to and what they credit, by enumeration; what they refuse."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from pgkit.core.processes import CHAIN
from pgkit.core.recursions import n_step_return
from pgkit.errors import UsageError
from pgkit.protocols import Returns
from pgkit.returns.bootstrapped import LambdaReturn
from pgkit.returns.traced import QLambda, Retrace, TreeBackup, VTrace
from tests.core.test_traces import GAMMA, conditional, every_batch
from tests.off_policy import TARGET
from tests.returns.test_traps import at, batch

pytestmark = [pytest.mark.exact, pytest.mark.usefixtures("float64")]

TRACED = [
    VTrace(gamma=0.99), VTrace(gamma=0.99, lam=0.5, rho_clip=0.5, leak=0.2), Retrace(gamma=0.99),
    TreeBackup(gamma=0.99), QLambda(gamma=0.99),
]  # fmt: skip


@pytest.mark.parametrize(("n", "error"), [(1, 0.0), (2, 0.0), (CHAIN.horizon, 0.7), (50, 0.7)])
def test_n_step_returns_expect_q_of_the_target_whatever_the_behaviour(n: int, error: float) -> None:
    # Past the horizon nothing is left for wrong values to say.
    paths, ends, chances, log_ratio = every_batch()
    value, quality = CHAIN.values(TARGET, GAMMA)
    here = (value + error)[:-1].gather(1, paths.states)
    values = torch.cat((here, torch.zeros_like(here[:1])))
    found = n_step_return(paths.rewards, values, log_ratio.cumsum(dim=0), **ends, gamma=GAMMA, n=n)
    for (t, s, a), mean in conditional(paths, chances, found, of_actions=True).items():
        assert mean == pytest.approx(float(quality[t, s, a]), abs=1e-10)


def of(returns: Returns, trajectories: Any, values: Tensor, log_weight: Tensor, chosen: Tensor) -> tuple[Tensor, ...]:
    signal, mask = returns.signal(trajectories, values, log_weight, chosen)
    return signal, returns.targets(trajectories, values, log_weight, signal, chosen), mask


@pytest.mark.parametrize("returns", TRACED)
def test_a_time_limit_is_not_an_end_to_a_trace(returns: Returns) -> None:
    limits, resets = at(32, 9, 20, 31), at(32, 10, 21)
    rewards = torch.where(resets, 0.0, 1.0)
    trajectories = batch(rewards, truncated=limits, mask=~resets)
    log_weight = torch.randn(32, 1, generator=torch.Generator().manual_seed(0))
    signal, targets, mask = of(
        returns, trajectories, torch.full((33, 1), 100.0), log_weight, torch.full((32, 1), 100.0)
    )
    assert mask is trajectories.mask
    for found in (signal, targets):
        assert (found - 100.0)[~resets].abs().max() < 1e-10
        assert (found[resets] == 0).all()


@pytest.mark.parametrize("returns", TRACED)
def test_nothing_of_a_target_is_differentiated(returns: Returns) -> None:
    trajectories = batch(torch.ones(5, 2), terminated=at(5, 4).expand(5, 2))
    leaves = [torch.rand(shape, requires_grad=True) for shape in ((6, 2), (5, 2), (5, 2))]
    values, log_weight, chosen = leaves
    assert not any(each.requires_grad for each in of(returns, trajectories, values, log_weight, chosen))


@pytest.mark.parametrize("lam", [0.0, 0.4, 1.0])
def test_less_the_value_on_policy_v_trace_is_an_advantage_and_its_target_the_lambda_return(lam: float) -> None:
    generator = torch.Generator().manual_seed(3)
    trajectories = batch(torch.randn(7, 3, generator=generator), terminated=at(7, 6).expand(7, 3))
    values = torch.randn(8, 3, generator=generator)
    zeros = torch.zeros(7, 3)
    signal, targets, _ = of(VTrace(gamma=GAMMA, lam=lam), trajectories, values, zeros, zeros)
    whole, _ = LambdaReturn(gamma=GAMMA, lam=lam).signal(trajectories, values, zeros)
    torch.testing.assert_close(targets, whole, rtol=0, atol=1e-12)
    # The policy is credited one step beside the critic's target: r + γ G^λ of the next row.
    torch.testing.assert_close(signal[:-1], trajectories.rewards[:-1] + GAMMA * whole[1:], rtol=0, atol=1e-12)


def test_tree_backup_believes_an_action_as_far_as_the_policy_would_take_it() -> None:
    log_policy = torch.tensor([[0.9], [0.25], [0.5]]).log()
    trajectories = batch(torch.tensor([[0.0], [0.0], [1.0]]), terminated=at(3, 2))
    behavior = torch.tensor([[0.3], [0.7], [0.1]]).log()
    trajectories = replace(trajectories, behavior_log_prob=behavior)
    zeros = torch.zeros(3, 1)
    signal, _ = TreeBackup(gamma=1.0).signal(trajectories, torch.zeros(4, 1), log_policy - behavior, zeros)
    assert signal.squeeze(1).tolist() == pytest.approx([0.25 * 0.5, 0.5, 1.0])


def test_tree_backup_refuses_densities() -> None:
    trajectories = replace(batch(torch.ones(2, 1)), actions=torch.zeros(2, 1, 3))
    zeros = torch.zeros(2, 1)
    with pytest.raises(
        UsageError, match=r"^returns: tree_backup with continuous actions, expected retrace or q_lambda"
    ):
        TreeBackup(gamma=1.0).signal(trajectories, torch.zeros(3, 1), zeros, zeros)
