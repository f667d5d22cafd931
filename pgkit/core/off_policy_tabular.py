"""Off-policy values where observations and actions are few enough to count: marginal ratios, and a model's values.

Both take what is observed for the state: they are biased where it hides something.
Source: Liu et al. 2018, arXiv:1810.12429; Xie, Ma and Wang 2019, arXiv:1906.03393.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pgkit.core.importance import weights
from pgkit.core.off_policy_value import Terms, discounts
from pgkit.types import expect


def marginal_terms(
    states: Tensor, log_ratio: Tensor, rewards: Tensor, mask: Tensor, *, ratios: Tensor, gamma: float
) -> Terms:
    """Returns the terms of the mean of Σ_t γ^t d_π,t(s_t)/d_μ,t(s_t) · π(a_t|s_t)/μ(a_t|s_t) · r_t.

    Bias: none with the true ratios of the states' probabilities at each step.
    Shapes: states, log_ratio, rewards, mask `[T, N]`; ratios `[T, S]`.
    """
    expect("T N .", states=states, log_ratio=log_ratio, rewards=rewards, mask=mask)
    weight = ratios.double().gather(1, torch.where(mask, states, 0)) * _ratios(log_ratio)
    earned = torch.where(mask, weight * rewards.double(), 0.0) * discounts(len(rewards), gamma)
    values = earned.sum(dim=0, keepdim=True)
    return Terms(log_weight=torch.zeros_like(values), values=values)


def marginal_values(
    states: Tensor,
    log_ratio: Tensor,
    rewards: Tensor,
    mask: Tensor,
    counts: Tensor,
    *,
    num_states: int,
    gamma: float,
) -> Tensor:
    """Returns the marginal-ratio estimates `[B]` in which episode n occurs counts[b, n] times.

    The probabilities of states under the target are carried forward step by step: what the last step's ratio gives to
    those who left a state is spread over where they went. A state's ratio is thus an average over all episodes that
    passed it, and no weight of a whole prefix remains.
    Bias: of order 1/N, where observations are states.
    Shapes: states, log_ratio, rewards, mask `[T, N]`; counts `[B, N]`.
    Raises: UsageError where a ratio overflows.
    """
    sizes = expect("T N .", states=states, log_ratio=log_ratio, rewards=rewards, mask=mask)
    number = len(counts)
    step_ratio = _ratios(log_ratio)
    earned = torch.where(mask, rewards.double(), 0.0) * discounts(sizes["T"], gamma)
    share = counts / counts.sum(dim=1, keepdim=True)
    total = share.new_zeros(number)
    carried = share * mask[0]
    for t in range(sizes["T"]):
        here = torch.where(mask[t], states[t], 0).expand(number, -1)
        present = share * mask[t]
        target = share.new_zeros(number, num_states).scatter_add_(1, here, carried)
        logged = share.new_zeros(number, num_states).scatter_add_(1, here, present)
        ratio = torch.where(logged > 0, target / logged.clamp(min=1e-300), 0.0).gather(1, here)
        leaving = present * ratio * step_ratio[t]
        total += leaving @ earned[t]
        if t + 1 < sizes["T"]:
            carried = leaving * mask[t + 1]
    return total


def tabular_values(
    states: Tensor, actions: Tensor, rewards: Tensor, mask: Tensor, table: Tensor, *, gamma: float
) -> Tensor:
    """Returns Q `[T, S, A]` of the target in the process that the episodes' frequencies describe.

    Rewards and successors are counted over all steps alike, an end being a successor of its own; the horizon is that of
    the longest episode. A pair that never occurred earns nothing.
    Shapes: states, actions, rewards, mask `[T, N]`; table `[S, A]`, π(a|s).
    """
    horizon = len(rewards)
    num_states, num_actions = table.shape
    pair = (states * num_actions + actions)[mask]
    pairs = num_states * num_actions
    visits = torch.zeros(pairs, dtype=torch.float64).index_add_(0, pair, torch.ones(len(pair), dtype=torch.float64))
    sums = torch.zeros(pairs, dtype=torch.float64).index_add_(0, pair, rewards[mask].double())
    moved = (mask[:-1] & mask[1:]).nonzero(as_tuple=True)
    origin = states[moved] * num_actions + actions[moved]
    successor = states[moved[0] + 1, moved[1]]
    moves = torch.zeros(pairs, num_states, dtype=torch.float64)
    moves.index_put_((origin, successor), torch.ones(len(origin), dtype=torch.float64), accumulate=True)
    # The last step of the longest episodes has no successor because of the horizon, not of an end.
    inner = mask.clone()
    inner[-1] = False
    chances = torch.zeros(pairs, dtype=torch.float64)
    within = (states * num_actions + actions)[inner]
    chances.index_add_(0, within, torch.ones(len(within), dtype=torch.float64))
    reward = (sums / visits.clamp(min=1)).reshape(num_states, num_actions)
    transition = (moves / chances.clamp(min=1)[:, None]).reshape(num_states, num_actions, num_states)
    quality = torch.zeros(horizon, num_states, num_actions, dtype=torch.float64)
    value = torch.zeros(num_states, dtype=torch.float64)
    for t in reversed(range(horizon)):
        quality[t] = reward + gamma * transition @ value
        value = (table.double() * quality[t]).sum(dim=1)
    return quality


def _ratios(log_ratio: Tensor) -> Tensor:
    return weights(log_ratio.reshape(-1)).reshape(log_ratio.shape)
