"""The law that an action space asks for."""

from __future__ import annotations

from typing import Any

from gymnasium import spaces

from pgkit.errors import UsageError
from pgkit.policies.categorical import Categorical as Categorical
from pgkit.policies.categorical import IndependentCategorical as IndependentCategorical
from pgkit.policies.gaussian import DiagonalGaussian as DiagonalGaussian
from pgkit.policies.law import Law as Law


def law_of(space: spaces.Space[Any]) -> Law:
    """Returns the law for an action space: categorical for the discrete ones, diagonal Gaussian for Box.

    Raises: UsageError for any other space.
    """
    if isinstance(space, spaces.MultiDiscrete | spaces.MultiBinary):
        return IndependentCategorical(space)
    if isinstance(space, spaces.Discrete):
        return Categorical(space)
    if isinstance(space, spaces.Box):
        return DiagonalGaussian(space)
    raise UsageError(f"env.id: action space {space}, expected Discrete, MultiDiscrete, MultiBinary or Box")
