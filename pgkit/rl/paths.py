"""The paths of a batch as a simulator sees them: derivatives at every step, and what they add up to."""

from __future__ import annotations

from functools import cached_property
from typing import Any, final

import torch
from torch import Tensor

from pgkit.core.adjoint import Slopes, return_by_action
from pgkit.simulators.base import Simulator
from pgkit.types import Trajectories


@final
class Simulated:
    """How what followed moves with the actions of a batch, by a simulator's derivatives at the steps that happened.

    What the environment drew is not asked for: it is what stays the same, whatever it was, as long as it is added to
    the state. An end is an end, and so is the place where a slab was cut: nothing behind it counts.
    """

    def __init__(self, simulator: Simulator, policy: Any, trajectories: Trajectories) -> None:
        self._simulator, self._policy, self._trajectories = simulator, policy, trajectories

    def slopes(self, *, gamma: float, horizon: int | None) -> Tensor:
        """Returns how the discounted return from each step on moves with the step's action as sampled, `[T, N, A]`."""
        return return_by_action(self._derivatives, gamma=gamma, horizon=horizon)

    @cached_property
    def _derivatives(self) -> Slopes:
        """Every derivative at every row; those of padding and of reset rows are none of anything, and stay apart."""
        batch, law, simulator = self._trajectories, self._policy.law, self._simulator
        assert isinstance(batch.obs, Tensor)
        flat = batch.actions.flatten(0, 1)
        with torch.enable_grad():
            # Twice the same states: once as the policy sees them, once as the environment does.
            seen = simulator.state(batch.obs[:-1].flatten(0, 1).to(flat.dtype)).detach().requires_grad_()
            chosen = law.reparameterised(self._policy(simulator.observe(seen)), flat)
            action_by_state = _jacobian(chosen, seen)
            state, actions = seen.detach().requires_grad_(), flat.detach().requires_grad_()
            noise = state.new_zeros(len(state), simulator.num_noises)
            following, rewards, _ = simulator.step(state, law.applied(actions), noise)
            by_state, by_action = (_jacobian(torch.cat([following, rewards[:, None]], -1), x) for x in (state, actions))
        shape = batch.mask.shape
        ended = batch.terminated | batch.truncated | ~batch.mask
        return Slopes(
            state_by_state=by_state[:, :-1].unflatten(0, shape),
            state_by_action=by_action[:, :-1].unflatten(0, shape),
            reward_by_state=by_state[:, -1].unflatten(0, shape),
            reward_by_action=by_action[:, -1].unflatten(0, shape),
            action_by_state=action_by_state.unflatten(0, shape),
            last=ended,
        )


def _jacobian(outputs: Tensor, inputs: Tensor) -> Tensor:
    """Returns the derivatives `[B, K, D]` of outputs `[B, K]`, row by row, in inputs `[B, …]` of D numbers."""
    rows = [
        torch.autograd.grad(outputs[:, k].sum(), inputs, retain_graph=True, materialize_grads=True)[0]
        for k in range(outputs.shape[1])
    ]
    return torch.stack(rows, dim=1).flatten(2)
