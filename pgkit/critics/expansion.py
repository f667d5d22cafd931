"""What a critic makes of actions near those that were taken."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any, final

import torch
from torch import Tensor

from pgkit.types import Observations


@final
class Expansion:
    """Q around the actions of a batch, each part computed when first read.

    `quality` maps encoded actions `[F, N, E]` to Q(s, ·) `[F, N]` at the observations given.
    """

    def __init__(self, policy: Any, obs: Observations, actions: Tensor, *, quality: Callable[[Tensor], Tensor]) -> None:
        self._policy, self._obs, self._actions, self._quality = policy, obs, actions, quality

    @cached_property
    def deviations(self) -> Tensor:
        """The encoded actions less their mean under the policy, `[F, N, E]`."""
        return self._encoded - self._mean

    @cached_property
    def slopes(self) -> Tensor:
        """∇Q in the encoded action, taken at its mean, `[F, N, E]`."""
        with torch.enable_grad():
            mean = self._mean.clone().requires_grad_()
            return torch.autograd.grad(self._quality(mean).sum(), mean)[0]

    @cached_property
    def gradients(self) -> Tensor:
        """∇Q in the action as sampled, taken at that action, `[F, N, A]`, of actions that are real vectors."""
        with torch.enable_grad():
            actions = self._actions.clone().requires_grad_()
            found = torch.autograd.grad(self._quality(self._policy.law.encode(actions)).sum(), actions)[0]
        return found.reshape(*self._mean.shape[:-1], -1)

    @cached_property
    def others(self) -> Tensor:
        """Q of the action with one of its dimensions at its mean, less Q of the mean action, `[F, N, D]`."""
        results, start = [], 0
        with torch.no_grad():
            for width in self._policy.law.dimensions:
                own, start = slice(start, start + width), start + width
                replaced = self._encoded.clone()
                replaced[..., own] = self._mean[..., own]
                results.append(self._quality(replaced))
            return torch.stack(results, dim=-1) - self._quality(self._mean)[..., None]

    @cached_property
    def _encoded(self) -> Tensor:
        encoded: Tensor = self._policy.law.encode(self._actions)
        return encoded.to(self._mean.dtype)

    @cached_property
    def _mean(self) -> Tensor:
        with torch.no_grad():
            mean: Tensor = self._policy.law.mean(self._policy(self._obs))
        return mean
