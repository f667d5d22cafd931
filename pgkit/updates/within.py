"""Steps that go as far as a divergence allows and no further."""

from __future__ import annotations

from torch import Tensor

from pgkit.objectives import Objective
from pgkit.updates.climbing import Climber

ATTEMPTS = 20
"""To shorten a step that goes too far; then it is not taken."""


def advance_within(
    climber: Climber, objective: Objective, step: Tensor, before: Tensor, limit: float
) -> tuple[float, float]:
    """Takes the share of a step that KL(π_before ‖ π) ≤ limit a row leaves; returns that share and the divergence.

    To second order the divergence is quadratic in the step, so that the first try is usually the last but one.
    """
    start, share = climber.position(), 1.0
    for _ in range(ATTEMPTS):
        climber.advance(share * step)
        divergence = float(objective.divergence(before).sum()) / len(objective.valid)
        if divergence <= limit:
            return share, divergence
        climber.move(start)
        wanted = (limit / divergence) ** 0.5 if divergence < float("inf") else 0.0
        share *= max(0.1, 0.999 * wanted)
    return 0.0, 0.0
