"""Targets with traces: what later rewards say of a row, each as far as the actions on the way there are believed.

All run on `[T, N]` through one linear scan and read log ratios ℓ_t = log π(a_t|s_t) − log μ(a_t|s_t), those of each
row alone. Ends, cuts and masks are those of `pgkit.core.recursions`: a terminated episode is worth nothing further, a
cut one what the critic says of the true observation that followed; no trace crosses either.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pgkit.core.recursions import linear_scan
from pgkit.types import expect

LARGEST_LOG_RATIO = 30.0
"""Ratios that no clip bounds are taken for e^30 at most; then products of a few of them are still numbers."""


def clipped_ratio(log_ratio: Tensor, clip: float, *, leak: float = 0.0) -> Tensor:
    """Returns (1 − leak) min(clip, e^ℓ) + leak e^ℓ, an unclipped ratio being e^30 at most.

    Shapes: `[…]`.
    Source: Espeholt et al. 2018, arXiv:1802.01561 (leak 0); Zahavy et al. 2020, arXiv:2002.12928 (leaky V-trace).
    """
    clipped = log_ratio.clamp(max=min(math.log(clip), LARGEST_LOG_RATIO)).exp()
    return clipped if leak == 0 else (1 - leak) * clipped + leak * log_ratio.clamp(max=LARGEST_LOG_RATIO).exp()


def v_trace(
    rewards: Tensor,
    values: Tensor,
    log_ratio: Tensor,
    *,
    terminated: Tensor,
    truncated: Tensor,
    mask: Tensor,
    gamma: float,
    lam: float,
    rho_clip: float,
    c_clip: float,
    leak: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Returns (targets, signal): v_t, which V is fitted to, and r_t + γ v_{t+1}, what the action at t is worth.

        v_t = V_t + ρ_t (r_t + γ V_{t+1} − V_t) + γ c_t (v_{t+1} − V_{t+1})

    with ρ_t = min(rho_clip, e^ℓ_t) and c_t = λ min(c_clip, e^ℓ_t), both leaky. Where an episode is cut, V and v are
    values[t+1]; both results are 0 outside the mask.

    Shapes: values `[T+1, N]`, everything else `[T, N]`.
    Bias: the fixed point is the value of the policy proportional to min(rho_clip μ, π): that of π where the clip never
    binds, that of μ as it goes to 0.
    Source: Espeholt et al. 2018, arXiv:1802.01561; the leak Zahavy et al. 2020, arXiv:2002.12928.
    """
    alive, continues = _going_on(rewards, values, log_ratio, terminated=terminated, truncated=truncated, mask=mask)
    log_ratio = torch.where(mask, log_ratio, 0.0)
    rho, trace = clipped_ratio(log_ratio, rho_clip, leak=leak), lam * clipped_ratio(log_ratio, c_clip, leak=leak)
    earned, following = torch.where(mask, rewards, 0.0), torch.where(alive, values[1:], 0.0)
    here = torch.where(mask, values[:-1], 0.0)
    excess = linear_scan(
        torch.where(continues, gamma * trace, 0.0),
        rho * (earned + gamma * following - here),
    )
    later = torch.cat((excess[1:], torch.zeros_like(excess[:1])))
    signal = earned + gamma * (following + torch.where(continues, later, 0.0))
    return torch.where(mask, here + excess, 0.0), torch.where(mask, signal, 0.0)


def action_value_target(
    rewards: Tensor,
    values: Tensor,
    chosen: Tensor,
    trace: Tensor,
    *,
    terminated: Tensor,
    truncated: Tensor,
    mask: Tensor,
    gamma: float,
) -> Tensor:
    """Returns Q_t + Σ_{u≥t} γ^{u−t} (Π_{t<j≤u} c_j) (r_u + γ V_{u+1} − Q_u), 0 outside the mask.

    Q_t = `chosen` is what the critic says of the action that was taken and V_t its mean over the actions of π; `trace`
    says how far a later row's action is believed: λ min(1, e^ℓ) makes it Retrace, λ π(a|s) tree backup, λ Q(λ), and
    e^ℓ importance sampling.

    Shapes: values `[T+1, N]`, everything else `[T, N]`.
    Bias: the fixed point is Q of π where 0 ≤ c ≤ e^ℓ, whatever μ was (Q(λ): where π and μ are near each other).
    Source: Munos et al. 2016, arXiv:1606.02647; Precup, Sutton and Singh 2000 (ICML); Harutyunyan et al. 2016,
    arXiv:1602.04951.
    """
    alive, continues = _going_on(rewards, values, trace, terminated=terminated, truncated=truncated, mask=mask)
    expect("T N .", rewards=rewards, chosen=chosen)
    earned, here = torch.where(mask, rewards, 0.0), torch.where(mask, chosen, 0.0)
    following = torch.where(alive, gamma * values[1:], 0.0)
    decay = torch.zeros_like(rewards)
    decay[:-1] = torch.where(continues[:-1], gamma * trace[1:], 0.0)
    return here + linear_scan(decay, earned + following - here)


def _going_on(
    rewards: Tensor, values: Tensor, rows: Tensor, *, terminated: Tensor, truncated: Tensor, mask: Tensor
) -> tuple[Tensor, Tensor]:
    """Returns (alive, continues): whether anything follows a row, and whether the next row is what follows."""
    expect("T N .", rewards=rewards, rows=rows, terminated=terminated, truncated=truncated, mask=mask)
    expect("U N .", values=values[1:], rewards=rewards)
    alive = mask & ~terminated
    continues = alive & ~truncated
    continues[-1] = False
    return alive, continues
