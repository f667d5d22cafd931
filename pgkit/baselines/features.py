"""Fixed functions of the state that linear baselines are made of."""

from __future__ import annotations

from typing import Any, final

import torch
from gymnasium import spaces
from torch import Tensor

from pgkit.core.encoder import Encoder
from pgkit.types import Factors

MOST_CROSSED = 8
"""Numbers of an observation up to which their products with each other are features too."""
HUNDRED = 100.0
"""Steps in the unit of time, so that its powers stay near 1."""


@final
class Polynomial:
    """1, the encoded observation x, squares of it, products of few, and powers of the time where it is known.

    Observations are scaled by nothing: what is fitted to them is solved in units of their own contributions.
    Source: Duan et al. 2016, arXiv:1604.06778, for x, x² and time up to its cube.
    """

    def __init__(self, observation_space: spaces.Space[Any], *, timed: bool) -> None:
        self.encoder = Encoder(observation_space, normalise=False, images="scale")
        self.timed = timed
        size = self.encoder.features
        crossed = size * (size - 1) // 2 if size <= MOST_CROSSED else 0
        self.count = 1 + 2 * size + crossed + (3 if timed else 0)

    def __call__(self, factors: Factors) -> Tensor:
        """Returns the features of every factor, `[K, F, N]`; 0 outside the mask."""
        assert factors.contexts is not None
        with torch.no_grad():
            x = self.encoder(factors.contexts)
        columns = [torch.ones_like(x[..., :1]), x, x.square()]
        if x.shape[-1] <= MOST_CROSSED:
            first, second = torch.triu_indices(x.shape[-1], x.shape[-1], offset=1, device=x.device)
            columns.append(x[..., first] * x[..., second])
        if self.timed:
            assert factors.time is not None
            time = factors.time.to(x.dtype)[..., None] / HUNDRED
            columns += [time, time.square(), time.pow(3)]
        return torch.where(factors.mask, torch.cat(columns, dim=-1).movedim(-1, 0), 0.0)
