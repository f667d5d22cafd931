"""Whether log-probabilities are those of the law that actions are drawn from."""

from __future__ import annotations

import logging
from typing import final

import torch
from scipy.special import ndtri
from torch import Tensor

from pgkit.core.unrolling import is_recurrent
from pgkit.diagnostics.fisher import expected_scores, thinned
from pgkit.diagnostics.gradients import Unanswered
from pgkit.options import Count
from pgkit.snapshot import Snapshot
from pgkit.types import Metrics

FALSE_ALARM = 1e-4
"""The chance that the largest of P standard normal numbers passes for a fault."""


@final
class ScoreMean:
    """E[score] = 0 as z-scores: the sum of every trajectory's score, parameter by parameter, over its root of variance.

    With S_n = Σ_t w_t s_t, weights and γ^t included, z = Σ_n S_n / √V over the trajectories of the last measurements,
    of which one fades by 1/`window` at the next. V is the larger of Σ_n S_n² and of the exact variance Σ_t w_t² E[s_t²]
    at `max_rows` steps, evenly thinned, scaled up to all: squares alone would not know of an action so rare that none
    was drawn. Parameters that no score moves have none. `z_rms`, their root mean square, is about 1 and scatters, as
    parameters move together; `z_max` is the largest, and with P parameters suspicious above Φ⁻¹(1 − 10⁻⁴ / 2P): 5.6
    where P is 4,610. Above that a log-probability or weight is not that of the law that acted, or which steps count
    depends on what happened after them; a warning says so, once. Small faults need many trajectories to show.
    Source: the score identity; Hall and Heyde 1980 (Martingale Limit Theory) for sums of such variances.
    """

    tags = ("scores/z_max", "scores/z_rms")

    def __init__(self, *, every: Count = 5, window: Count = 20, max_rows: Count = 64) -> None:
        self.every, self.window, self.max_rows = every, window, max_rows
        self._sum = self._squares = self._variance = torch.zeros(())
        self._unanswered = Unanswered()
        self._warned = False

    def measure(self, snapshot: Snapshot) -> Metrics:
        """Returns the largest z-score and their root mean square, null where no score moves a parameter."""
        if is_recurrent(snapshot.before):
            return self._unanswered(self.tags, "no exact variance of scores is known of a policy with a memory")
        z = self._scores(snapshot)
        if len(z) == 0:
            return self._unanswered(self.tags, "every score is 0")
        largest, limit = float(z.abs().max()), bound(snapshot.scores.num_parameters)
        if largest > limit and not self._warned:
            logging.getLogger("pgkit").warning(
                "scores/z_max is %.1f, expected below %.1f: the mean score is not 0, so that log-probabilities are not "
                "those of the law that acted, or the steps that count depend on what came after them",
                largest,
                limit,
            )
            self._warned = True
        return dict(zip(self.tags, (largest, float(z.square().mean().sqrt())), strict=True))

    def _scores(self, snapshot: Snapshot) -> Tensor:
        """Returns the z-scores of the parameters that any score has moved."""
        scale = snapshot.factors.scale
        assert scale is not None
        # Old sums fade by d and old variances by d², so that the ratio is that of one weighted sum.
        keep = 1 - 1 / self.window
        total, squares = keep * self._sum, keep**2 * self._squares
        for _, chunk in snapshot.scores.gradients(scale[None]):
            total, squares = total + chunk[0].sum(dim=0), squares + chunk[0].square().sum(dim=0)
        variance = keep**2 * self._variance + _variance(snapshot, scale, self.max_rows)
        self._sum, self._squares, self._variance = total, squares, variance
        moved = squares > 0
        return total[moved] / torch.maximum(squares, variance)[moved].sqrt()


def _variance(snapshot: Snapshot, scale: Tensor, max_rows: int) -> Tensor:
    """Returns about Σ_tn w² E[s²], the variance of the sum of all scores given the states, `[P]`."""
    index = thinned(snapshot, max_rows)
    result = torch.zeros(())
    if len(index) == 0:
        return result
    scores = expected_scores(snapshot, index)
    weights = scale.reshape(-1)[index].repeat(scores.mask.numel() // len(index))
    for _, chunk in scores.gradients(weights[None, None]):
        result = result + chunk[0].square().sum(dim=0)
    return result * (int(snapshot.factors.mask.sum()) / len(index))


def bound(num_parameters: int) -> float:
    """Returns the number that one of P standard normal ones passes, either way, with a chance of `FALSE_ALARM`."""
    return float(-ndtri(FALSE_ALARM / (2 * num_parameters)))
