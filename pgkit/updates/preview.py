"""What an optimizer would do with other gradients, without doing it."""

from __future__ import annotations

import copy
from typing import Any, final

import torch
from torch import Tensor


@final
class Preview:
    """Steps that an optimizer would take from where it is now; a copy of it takes them and goes back after each."""

    def __init__(self, optimizer: torch.optim.Optimizer, *, max_grad_norm: float | None) -> None:
        self._optimizer = copy.deepcopy(optimizer)
        self._limit = float("inf") if max_grad_norm is None else max_grad_norm
        groups = self._optimizer.param_groups
        self._parameters: list[Tensor] = [p for group in groups for p in group["params"] if p.requires_grad]
        self._sizes = [p.numel() for p in self._parameters]
        self._start = [p.detach().clone() for p in self._parameters]
        self._state = {p: _copy(self._optimizer.state[p]) for p in self._parameters if p in self._optimizer.state}

    def __call__(self, gradient: Tensor) -> Tensor:
        """Returns the change of the parameters `[P]` for an ascent gradient `[P]`, clipped as an update would."""
        norm = float(gradient.norm())
        scale = min(1.0, self._limit / norm) if norm > 0 else 1.0
        for parameter, piece in zip(self._parameters, (-scale * gradient).split(self._sizes), strict=True):
            parameter.grad = piece.view_as(parameter).to(parameter.dtype)
        self._optimizer.step()
        step = torch.cat([(p.detach() - s).reshape(-1) for p, s in zip(self._parameters, self._start, strict=True)])
        with torch.no_grad():
            torch._foreach_copy_(self._parameters, self._start)
        self._optimizer.state.clear()
        self._optimizer.state.update({p: _copy(state) for p, state in self._state.items()})
        return step


def _copy(state: dict[str, Any]) -> dict[str, Any]:
    return {key: value.clone() if isinstance(value, Tensor) else copy.deepcopy(value) for key, value in state.items()}
