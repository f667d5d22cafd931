"""What the score function asks of a law: a support that stands still, and scores of mean zero.

∇∫p_θ f = ∫f ∇p_θ holds where the bounds of the integral do not move; otherwise Leibniz's rule adds a term at every
moving bound, f p there times its speed, that no score knows of.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, TransformedDistribution
from torch.distributions.transforms import AffineTransform, ComposeTransform, IndependentTransform, Transform
from torch.func import jacrev

from pgkit.types import Expectation, Parameters


def support_bounds(law: Distribution) -> list[Tensor]:
    """Returns the bounds of a law's support that are tensors, functions of what the law was made of.

    A bound that is a plain number cannot move. The support of a transformed law is that of its base, transformed, as
    long as every transform is elementwise: what torch reports for it is the range of the last transform alone.
    """
    return [bound for bound in _bounds(law) if isinstance(bound, Tensor)]


def moving_bounds(expectation: Expectation, parameters: Parameters, law: Distribution | None = None) -> tuple[str, ...]:
    """Returns the names of the parameters that a finite bound of the law's support moves with.

    By the derivative of the bounds, at the parameters given: exact, and no perturbed parameter can leave its domain.
    A law that was made of the parameters already may be handed over.
    Shapes: parameters, each of its own.
    """
    bounds = support_bounds(expectation.law(parameters) if law is None else law)
    if not any(bound.isfinite().any() for bound in bounds):
        return ()
    theta = {name: value.detach() for name, value in parameters.items() if value.is_floating_point()}
    fixed = {name: value for name, value in parameters.items() if name not in theta}

    def at(values: Mapping[str, Tensor]) -> Tensor:
        found = support_bounds(expectation.law({**fixed, **values}))
        # An infinite bound has no place to move from; its derivatives are not to be asked for.
        return torch.cat([torch.where(bound.isfinite(), bound, 0.0).reshape(-1) for bound in found])

    speeds = jacrev(at)(theta)
    return tuple(name for name in theta if bool((speeds[name].nan_to_num(0.0, 0.0, 0.0) != 0).any()))


def score_z(scores: Tensor, slices: Mapping[str, slice]) -> dict[str, float | None]:
    """Returns for each group of parameters how far its mean score lies from 0, as a two-sided normal z.

    The largest |mean| / standard error of the group, made smaller as Bonferroni asks for its number of coordinates:
    of a group whose scores have mean 0 the result passes z with at most the chance that a normal variable does, however
    large the group and however its coordinates hang together. None where there are fewer than two samples.
    Shapes: scores `[N, P]`; slices cut P into groups.
    """
    if len(scores) < 2:
        return dict.fromkeys(slices)
    mean, error = scores.double().mean(dim=0), scores.double().std(dim=0) / len(scores) ** 0.5
    z = torch.where(mean == 0, 0.0, mean.abs() / error)
    return {name: _corrected(float(z[group].max()), len(z[group])) for name, group in slices.items()}


def _corrected(largest: float, count: int) -> float:
    """Returns the z whose tail is `count` times that of the largest: by Newton's method on the log of the tail."""
    if not 0 < largest < math.inf:
        return largest
    target = _log_tail(largest) + math.log(count)
    if target >= math.log(0.5):
        return 0.0
    z = largest
    for _ in range(50):
        density = -z * z / 2 - math.log(2 * math.pi) / 2
        step = (_log_tail(z) - target) * math.exp(_log_tail(z) - density)
        z = max(z + step, 0.0)
        if abs(step) < 1e-12 * max(z, 1.0):
            break
    return z


def _log_tail(z: float) -> float:
    return float(torch.special.log_ndtr(torch.tensor(-z, dtype=torch.float64)))


def _declares(law: Distribution) -> type:
    """Returns the class that says what the support of a law is."""
    return next(kind for kind in type(law).__mro__ if "support" in kind.__dict__)


def _elementwise(transform: Transform) -> bool:
    if isinstance(transform, ComposeTransform):
        return all(_elementwise(part) for part in transform.parts)
    if isinstance(transform, IndependentTransform):
        return _elementwise(transform.base_transform)
    return isinstance(transform, AffineTransform) or transform.domain.event_dim == 0


def _bounds(law: Distribution) -> list[Tensor | float]:
    """Returns the bounds of a law's support, however it is wrapped; infinite ones where it names none."""
    if isinstance(law, Independent):
        return _bounds(law.base_dist)
    if isinstance(law, TransformedDistribution) and _declares(law) is TransformedDistribution:
        if not all(_elementwise(transform) for transform in law.transforms):
            return []
        bounds = [torch.as_tensor(bound) for bound in _bounds(law.base_dist)]
        for transform in law.transforms:
            bounds = [transform(bound) for bound in bounds]
        return list(bounds)
    try:
        support: Any = law.support
    except NotImplementedError:
        return []
    while hasattr(support, "base_constraint"):
        support = support.base_constraint
    return [getattr(support, "lower_bound", -math.inf), getattr(support, "upper_bound", math.inf)]
