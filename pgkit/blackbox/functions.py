"""Test functions of black-box optimisation, each with its minimum 0: samples `[N, D]` to values `[N]`."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from torch import Tensor


def sphere(x: Tensor) -> Tensor:
    """Returns Σ_d x_d² `[N]`: the easiest there is.

    Shapes: x `[N, D]`.
    Source: De Jong 1975 (PhD thesis, University of Michigan), F1.
    """
    return x.square().sum(-1)


def rosenbrock(x: Tensor) -> Tensor:
    """Returns Σ_d 100 (x_{d+1} − x_d²)² + (1 − x_d)² `[N]`: a bent valley, lowest at (1, …, 1).

    Shapes: x `[N, D]`, D of at least 2.
    Source: Rosenbrock 1960 (The Computer Journal 3:175).
    """
    before, after = x[..., :-1], x[..., 1:]
    return (100 * (after - before.square()).square() + (1 - before).square()).sum(-1)


def rastrigin(x: Tensor) -> Tensor:
    """Returns Σ_d x_d² + 10 (1 − cos 2πx_d) `[N]`: a bowl full of local minima, one near every whole number.

    Shapes: x `[N, D]`.
    Source: Rastrigin 1974; Hoffmeister and Bäck 1991 (PPSN), for D dimensions.
    """
    return (x.square() + 10 * (1 - (2 * math.pi * x).cos())).sum(-1)


def step_function(x: Tensor) -> Tensor:
    """Returns Σ_d ⌊x_d + ½⌋² `[N]`: flat almost everywhere, so that it has no gradient to differentiate.

    Shapes: x `[N, D]`.
    Source: De Jong 1975 (PhD thesis, University of Michigan), F3; Yao, Liu and Lin 1999, for this form.
    """
    return (x + 0.5).floor().square().sum(-1)


FUNCTIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "sphere": sphere,
    "rosenbrock": rosenbrock,
    "rastrigin": rastrigin,
    "step_function": step_function,
}
