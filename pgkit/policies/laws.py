"""The law that an action space asks for, or that somebody asked for by name."""

from __future__ import annotations

from typing import Any, Literal

from gymnasium import spaces

from pgkit.errors import UsageError
from pgkit.policies.bounded import Beta as Beta
from pgkit.policies.bounded import SquashedGaussian as SquashedGaussian
from pgkit.policies.categorical import Categorical as Categorical
from pgkit.policies.categorical import IndependentCategorical as IndependentCategorical
from pgkit.policies.gaussian import ClippedGaussian as ClippedGaussian
from pgkit.policies.gaussian import DiagonalGaussian as DiagonalGaussian
from pgkit.policies.law import Law as Law
from pgkit.policies.mixture import GaussianMixture as GaussianMixture

LawName = Literal["auto", "gaussian", "clipped_gaussian", "squashed_gaussian", "beta", "mixture"]


def law_of(space: spaces.Space[Any], law: LawName = "auto", *, components: int = 5) -> Law:
    """Returns the law for an action space; `auto` is categorical for the discrete ones, diagonal Gaussian for Box.

    Raises: UsageError for any other space, and for a law that does not go with it.
    """
    if not isinstance(space, spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary | spaces.Box):
        raise UsageError(f"env.id: action space {space}, expected Discrete, MultiDiscrete, MultiBinary or Box")
    if not isinstance(space, spaces.Box):
        if law != "auto":
            raise UsageError(f"policy.law: {law} for actions {space}, expected auto, which is categorical")
        return Categorical(space) if isinstance(space, spaces.Discrete) else IndependentCategorical(space)
    if law == "mixture":
        return GaussianMixture(space, components=components)
    kinds: dict[str, type[DiagonalGaussian | ClippedGaussian | SquashedGaussian | Beta]] = {
        "auto": DiagonalGaussian,
        "gaussian": DiagonalGaussian,
        "clipped_gaussian": ClippedGaussian,
        "squashed_gaussian": SquashedGaussian,
        "beta": Beta,
    }
    return kinds[law](space)
