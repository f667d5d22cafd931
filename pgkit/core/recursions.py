"""Backward recursions over time: discounted, n-step and λ-returns.

All run on `[T, N]` and share one linear scan; ranges are inclusive and t counts the rows of a batch. At row t an
episode either goes on (row t+1 belongs to it), terminates (what follows is worth 0), or is cut (by a time limit or by
the end of the batch: what follows is worth values[t+1]). Rows outside the mask neither give nor take anything.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pgkit.types import expect


def linear_scan(decay: Tensor, increment: Tensor) -> Tensor:
    """Returns x with x_t = increment_t + decay_t · x_{t+1} and x_{T-1} = increment_{T-1}.

    Doubles the reach of every row at each pass, so log2(T) tensor operations replace a loop over T.
    Shapes: both `[T, …]`, equal.
    Source: Hillis and Steele 1986 (Communications of the ACM 29:1170).
    """
    expect("T", decay=decay, increment=increment)
    result, reach = increment.clone(), decay.clone()
    shift = 1
    while shift < result.shape[0]:
        result[:-shift] += reach[:-shift] * result[shift:]
        # Past the last row nothing is reached, so those rows' products end here.
        reach = torch.cat((reach[:-shift] * reach[shift:], torch.zeros_like(reach[-shift:])))
        shift *= 2
    return result


def lambda_return(
    rewards: Tensor,
    values: Tensor,
    log_weight: Tensor,
    *,
    terminated: Tensor,
    truncated: Tensor,
    mask: Tensor,
    gamma: float,
    lam: float,
) -> Tensor:
    """Returns G_t = r_t + γ (1 − terminated_t) [ (1 − λ_t) V_{t+1} + λ_t ρ_{t+1} G_{t+1} ], 0 outside the mask.

    λ_t is `lam` where the episode goes on at row t+1 and 0 where it is cut; ρ_{t+1} = exp(L_{t+1} − L_t) corrects each
    later reward for the policy that chose it. `lam=1` with values of 0 is the reward-to-go; less `values[:-1]` it is
    generalised advantage estimation.

    Shapes: values `[T+1, N]`, everything else `[T, N]`.
    Bias: none at `lam=1` but where cut; else that of the values, weighted by γ(1 − λ).
    Source: Sutton and Barto 2018, chapter 12; Schulman et al. 2016, arXiv:1506.02438.
    """
    expect("T N .", rewards=rewards, log_weight=log_weight, terminated=terminated, truncated=truncated, mask=mask)
    expect("U N .", values=values[1:], rewards=rewards)
    alive = mask & ~terminated
    continues = alive & ~truncated
    # The last row of a batch has no successor in it: whatever is not over is cut there.
    continues[-1] = False
    trace = torch.where(continues, lam, 0.0).to(rewards.dtype)
    ratio = torch.ones_like(rewards)
    # Weights of another episode or of padding may overflow, and 0 · inf would be nan.
    ratio[:-1] = torch.where(continues[:-1], log_weight[1:] - log_weight[:-1], 0.0).exp()
    bootstrap = torch.where(alive, gamma * (1 - trace) * values[1:], 0.0)
    return linear_scan(gamma * trace * ratio, torch.where(mask, rewards, 0.0) + bootstrap)


def windowed_scan(decay: Tensor, increment: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """Returns (sums, products): Σ_{k<n} (Π_{j<k} decay_{t+j}) increment_{t+k} and Π_{j<n} decay_{t+j}, n the length.

    Windows of twice the length are made of two, so that log2(n) steps do; past the last row both are 0.
    Shapes: both `[T, …]`, equal.
    Source: Hillis and Steele 1986 (Communications of the ACM 29:1170).
    """
    expect("T", decay=decay, increment=increment)
    sums, products, covered = torch.zeros_like(increment), torch.ones_like(decay), 0
    window, reach, size = increment, decay, 1
    while covered < length:
        if length & size:
            # Those of `size` rows go on where those of `covered` rows end.
            sums = sums + products * _later(window, covered)
            products = products * _later(reach, covered)
            covered += size
        window = window + reach * _later(window, size)
        reach = reach * _later(reach, size)
        size *= 2
    return sums, products


def _later(rows: Tensor, shift: int) -> Tensor:
    """Returns the rows `shift` steps on, zeros past the last."""
    beyond = torch.zeros_like(rows[: min(shift, len(rows))])
    return torch.cat((rows[shift:], beyond))


def n_step_return(
    rewards: Tensor,
    values: Tensor,
    log_weight: Tensor,
    *,
    terminated: Tensor,
    truncated: Tensor,
    mask: Tensor,
    gamma: float,
    n: int,
) -> Tensor:
    """Returns Σ_{k<n} γ^k w_k r_{t+k} + γ^n w_{n−1} V_{t+n}, cut earlier at ends, 0 outside the mask.

    w_k = exp(L_{t+k} − L_t) corrects each later reward for the policy that chose the actions after a_t, and the value
    for those that led to it.

    Shapes: values `[T+1, N]`, everything else `[T, N]`.
    Bias: that of the values, weighted by γ^n.
    Source: Sutton and Barto 2018, chapter 7.
    """
    expect("T N .", rewards=rewards, log_weight=log_weight, terminated=terminated, truncated=truncated, mask=mask)
    expect("U N .", values=values[1:], rewards=rewards)
    alive = mask & ~terminated
    continues = alive & ~truncated
    continues[-1] = False
    earned = torch.where(mask, rewards, 0.0)
    valued = earned + torch.where(alive, gamma * values[1:], 0.0)
    decay = torch.zeros_like(rewards)
    decay[:-1] = torch.where(continues[:-1], log_weight[1:] - log_weight[:-1], -torch.inf).exp() * gamma
    shorter = min(n, len(rewards)) - 1
    sums, products = windowed_scan(decay, torch.where(continues, earned, valued), shorter)
    return sums + products * _later(valued, shorter)


def episode_time(starts: Tensor) -> Tensor:
    """Returns the number of rows since the last start, `[T, N]`, in the default floating type; 0 on a start.

    Shapes: starts `[T, N]` bool, each column beginning with a start or counted from row 0.
    """
    rows = torch.arange(len(starts), dtype=torch.get_default_dtype(), device=starts.device)[:, None].expand(
        starts.shape
    )
    return rows - torch.where(starts, rows, 0.0).cummax(dim=0).values
