"""What every update that takes optimizer steps shares: the flipped sign, clipping, the schedule, the refusal."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any, Literal, final

import torch
from torch import Tensor

from pgkit.core.flat_gradient import FlatGradient
from pgkit.core.placed import told
from pgkit.errors import RunFault
from pgkit.objectives import Objective

Schedule = Literal["constant", "linear"]
LARGEST_LOG_RATIO = 20.0
"""Ratios are taken for e^20 at most: a row that got so much more probable pulls no harder."""


@final
class Climber:
    """Takes optimizer steps uphill; the one place where the sign flips.

    A gradient longer than `max_grad_norm` is shortened to it; under `schedule="linear"` learning rates fall to nothing
    by the end of the run.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, *, max_grad_norm: float | None, schedule: Schedule) -> None:
        self.optimizer, self.schedule = optimizer, schedule
        self.limit = float("inf") if max_grad_norm is None else max_grad_norm
        self.parameters: list[Tensor] = [p for group in optimizer.param_groups for p in group["params"]]
        self._learning_rates = [float(group["lr"]) for group in optimizer.param_groups]
        self._sound: Tensor | None = None  # on a device, whether all gradients since `begin` were finite

    @property
    def learning_rate(self) -> float:
        """The learning rate of the first group of parameters, now."""
        return float(self.optimizer.param_groups[0]["lr"])

    def begin(self, progress: float) -> None:
        """Sets the learning rates for a share of the run that is over."""
        self._sound = None
        if self.schedule == "linear":
            for group, rate in zip(self.optimizer.param_groups, self._learning_rates, strict=True):
                group["lr"] = rate * max(0.0, 1.0 - progress)

    def clear(self) -> None:
        """Forgets what was accumulated."""
        self.optimizer.zero_grad()

    def accumulate(self, value: Tensor) -> None:
        """Adds the gradient of a value that is to become larger."""
        # Objectives are maximised and optimizers minimise: the one sign flip.
        value.neg().backward()

    def step(self) -> float:
        """Takes a step along what was accumulated and returns its length before clipping.

        Raises: RunFault where the gradient is not finite; parameters and optimizer moments are then left untouched.
        """
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        norm = expect_finite(float(torch.nn.utils.get_total_norm(gradients)))
        if norm > self.limit:
            torch._foreach_mul_(gradients, self.limit / norm)
        self.optimizer.step()
        return norm

    def ascend(self, gradient: Tensor) -> float:
        """Takes a step along a gradient `[P]` and returns its length before clipping.

        Raises: RunFault as `step` does.
        """
        return expect_finite(float(self.follow(gradient)))

    def follow(self, gradient: Tensor) -> Tensor:
        """Takes a step along a gradient `[P]` and returns its length before clipping, a scalar.

        On a device nobody waits for that length: from the first one on that is not finite parameters stay as they are,
        until `begin`, and the caller is to tell it with `expect_finite`.
        Raises: RunFault as `step` does, on the host.
        """
        norm = torch.linalg.vector_norm(gradient)
        # Uphill for an optimizer that minimises: the same sign flip.
        if gradient.device.type == "cpu":
            length = expect_finite(float(norm))
            torch.mul(gradient, -min(1.0, self.limit / length if length else 1.0), out=self._descent.vector)
            self._descent.hand_over()
            self.optimizer.step()
            return norm
        before, sound = self.position(), norm.isfinite() if self._sound is None else self._sound & norm.isfinite()
        share = (self.limit / norm).clamp(max=1.0)
        self._sound = sound
        self._descent.vector.copy_(torch.where(sound, gradient * -share, 0.0))
        self._descent.hand_over()
        self.optimizer.step()
        # Momentum would move them along a gradient of zeros.
        self.move([torch.where(sound, *pair) for pair in zip(self.parameters, before, strict=True)])
        return norm

    @cached_property
    def _descent(self) -> FlatGradient:
        return FlatGradient(self.parameters)

    def gradient(self, value: Tensor) -> Tensor:
        """Returns the gradient `[P]` of a scalar; parameters that it does not depend on have 0."""
        pieces = torch.autograd.grad(value, self.parameters, allow_unused=True)
        found = [torch.zeros_like(p) if g is None else g for p, g in zip(self.parameters, pieces, strict=True)]
        return torch.cat([each.reshape(-1) for each in found])

    def gradient_of(self, objective: Objective) -> tuple[Tensor, float, float, float]:
        """Returns an objective's ascent gradient `[P]` and its length, its value and the mean entropy of its rows.

        Raises: RunFault where the gradient is not finite.
        """
        found = objective.ascent()
        norm, value, entropy = told([torch.linalg.vector_norm(found.gradient), found.value, found.entropy])
        return found.gradient, expect_finite(norm), value, entropy

    def advance(self, step: Tensor) -> None:
        """Adds a step `[P]` to the parameters."""
        pieces = step.split([p.numel() for p in self.parameters])
        with torch.no_grad():
            for parameter, piece in zip(self.parameters, pieces, strict=True):
                parameter.add_(piece.view_as(parameter).to(parameter.dtype))

    def position(self) -> list[Tensor]:
        """Returns copies of the parameters."""
        return [parameter.detach().clone() for parameter in self.parameters]

    def move(self, position: list[Tensor], *, towards: list[Tensor] | None = None, share: float = 1.0) -> None:
        """Puts the parameters to a position, or a share of the way from there towards another."""
        with torch.no_grad():
            if towards is None:
                torch._foreach_copy_(self.parameters, position)
            else:
                torch._foreach_copy_(self.parameters, torch._foreach_lerp(position, towards, share))

    def state_dict(self) -> dict[str, Any]:
        """Returns the optimizer's state and the learning rates that the schedule starts from."""
        return {"optimizer": self.optimizer.state_dict(), "learning_rates": list(self._learning_rates)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Puts them back."""
        self.optimizer.load_state_dict(state["optimizer"])
        self._learning_rates = list(state["learning_rates"])


def expect_finite(norm: float) -> float:
    """Returns the length of a gradient.

    Raises: RunFault where it is not finite.
    """
    if not norm < float("inf"):
        raise RunFault(f"gradient/norm: {norm}, expected a finite number; the parameters were left as they were")
    return norm
