"""Whether the optimizer's step is, on average, the step of the average gradient."""

from __future__ import annotations

from typing import Annotated, final

import torch
from torch import Tensor

from pgkit.diagnostics.gradients import Unanswered, affordable, gradients_in_use
from pgkit.options import Count, Range
from pgkit.snapshot import Snapshot
from pgkit.types import Metrics

SEED = 20150
"""Of the resampling, at every measurement anew: the same batch gives the same answer, and the run's streams rest."""


@final
class OptimizerStep:
    """The steps that the optimizer would have taken from resampled gradients, against the one from their mean.

    An unbiased gradient makes no unbiased step once something is not linear in it: clipping, or Adam's division by a
    root of squares. `bias` is |mean step − step of the mean gradient|, `noise` the root mean square of the steps about
    their mean, both over the length of the step of the mean gradient; `cosine` is the mean one with it. Gradients of
    columns are resampled with their coefficients as they are, in a balanced bootstrap, so that a linear optimizer has
    bias 0 exactly; the entropy bonus is left out. Read `bias` beside `noise`: what the bootstrap can show is the bias
    about this batch's gradient, in which noise has a share too.
    Source: Efron 1979 (Annals of Statistics 7:1); Davison, Hinkley and Schechtman 1986 (Biometrika 73:555), balanced.
    """

    tags = ("optimizer_step/bias", "optimizer_step/cosine", "optimizer_step/noise")
    needs_preview = True

    def __init__(
        self,
        *,
        every: Count = 20,
        resamples: Annotated[int, Range(least=2)] = 32,
        max_columns: Annotated[int, Range(least=8)] | None = 64,
    ) -> None:
        self.every, self.resamples, self.max_columns = every, resamples, max_columns
        self._unanswered = Unanswered()

    def measure(self, snapshot: Snapshot) -> Metrics:
        """Returns bias, mean cosine and noise of the steps, relative to the step of the mean gradient."""
        columns = snapshot.coefficients.shape[1]
        if snapshot.preview is None:
            return self._unanswered(self.tags, "the update cannot tell its step from another gradient")
        if columns < 2:
            return self._unanswered(self.tags, "1 columns, and at least 2 are needed")
        measured = min(columns, self.max_columns or columns, affordable(snapshot, num_vectors=2))
        gradients = gradients_in_use(snapshot, measured)
        mean = gradients.mean(dim=0)
        target = snapshot.preview(mean).double()
        length = float(target.norm())
        if length == 0:
            return self._unanswered(self.tags, "the step of the mean gradient is 0")
        # The mean of all N columns scatters less than that of those measured.
        shrink = (measured / columns) ** 0.5
        deviations = shrink * (balanced_weights(self.resamples, measured).to(gradients) @ gradients - mean)
        total, squares, cosines = torch.zeros_like(target), 0.0, 0.0
        for deviation in deviations:
            step = snapshot.preview(mean + deviation).double()
            total, squares = total + step, squares + float(step.square().sum())
            cosines += float(torch.cosine_similarity(step, target, dim=0))
        centre = total / self.resamples
        bias = float((centre - target).norm()) / length
        noise = max(0.0, squares / self.resamples - float(centre.square().sum())) ** 0.5 / length
        return dict(zip(self.tags, (bias, cosines / self.resamples, noise), strict=True))


def balanced_weights(resamples: int, num_columns: int) -> Tensor:
    """Returns the weights of bootstrap means, `[B, n]`: every row sums to 1, and each column has the same share."""
    generator = torch.Generator().manual_seed(SEED)
    drawn = torch.randperm(resamples * num_columns, generator=generator).reshape(resamples, num_columns) % num_columns
    return torch.zeros(resamples, num_columns).scatter_add_(1, drawn, torch.full(drawn.shape, 1 / num_columns))
