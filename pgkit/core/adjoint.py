"""How what follows moves with an action, along a path whose noise stays as it was.

With s' = f(s, x) and r(s, x) along a path and x = x_θ(s, ε) the actions of a policy, the return from step t on moves by

    α_t = ∂r/∂x + γ (∂f/∂x)ᵀ σ_{t+1}                    with the action of step t,
    σ_t = ∂r/∂s + γ (∂f/∂s)ᵀ σ_{t+1} + (∂x/∂s)ᵀ α_t     with its state,

and Σ_t γ^t α_t · ∂x_θ(s_t, ε_t)/∂θ is the gradient of the discounted return of that path. Only derivatives at the
points of the path are needed, so that a path that really happened will do and its noise need not be known.
Source: Werbos 1990 (Proc. IEEE 78:1550); Heess et al. 2015, arXiv:1510.09142, for stochastic policies.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pgkit.types import expect


@dataclass(frozen=True, kw_only=True)
class Slopes:
    """The derivatives of dynamics, rewards and policy at every step of some paths.

    Shapes: state_by_state `[T, N, S, S]`, state_by_action `[T, N, S, E]`, reward_by_state `[T, N, S]`,
    reward_by_action `[T, N, E]`, action_by_state `[T, N, E, S]`; `last` `[T, N]` bool where nothing follows a step.
    """

    state_by_state: Tensor
    state_by_action: Tensor
    reward_by_state: Tensor
    reward_by_action: Tensor
    action_by_state: Tensor
    last: Tensor

    def __post_init__(self) -> None:
        expect("T N S", state_by_state=self.state_by_state, state_by_action=self.state_by_action)
        expect("T N E", reward_by_action=self.reward_by_action, action_by_state=self.action_by_state)


def return_by_action(slopes: Slopes, *, gamma: float, horizon: int | None = None) -> Tensor:
    """Returns α, how the discounted return from each step on moves with the action of that step, `[T, N, E]`.

    With a `horizon` H of each step's return only its first H rewards are counted.
    Bias: none, but for what lies beyond the horizon.
    Shapes: as of the slopes.
    Source: Heess et al. 2015, arXiv:1510.09142.
    """
    steps = len(slopes.last)
    after = torch.zeros_like(slopes.reward_by_state)  # σ of the step behind, 0 where nothing follows
    going = ~slopes.last[:, :, None]
    if horizon is None:
        for t in reversed(range(steps - 1)):
            _, by_state = _moved(slopes, after, gamma, slice(t + 1, t + 2))
            after[t] = torch.where(going[t], by_state[0], 0.0)
        return _moved(slopes, after, gamma, slice(None))[0]
    for _ in range(min(horizon, steps) - 1):
        _, by_state = _moved(slopes, after, gamma, slice(1, None))
        after = torch.cat([torch.where(going[:-1], by_state, 0.0), after[-1:]])
    return _moved(slopes, after, gamma, slice(None))[0]


def _moved(slopes: Slopes, after: Tensor, gamma: float, rows: slice) -> tuple[Tensor, Tensor]:
    """Returns (α, σ) of some steps from σ of what comes behind each."""
    behind = gamma * after[rows, :, None, :]
    by_action = slopes.reward_by_action[rows] + (behind @ slopes.state_by_action[rows]).squeeze(-2)
    through_action = by_action[:, :, None, :] @ slopes.action_by_state[rows]
    through_state = behind @ slopes.state_by_state[rows] + through_action
    return by_action, slopes.reward_by_state[rows] + through_state.squeeze(-2)
