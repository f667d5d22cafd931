"""The arguments that a torch distribution was made of, and distributions made anew from them."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from functools import cache
from inspect import signature
from typing import Any, cast

from torch import Tensor
from torch.distributions import Distribution, Independent


def arguments(law: Distribution) -> dict[str, Tensor]:
    """Returns the tensors a distribution was made of, by name: those it was given, not those derived from them.

    Empty where they are not all that it was made of: a mixture, a transformed law, a relaxed one with a temperature.
    """
    if isinstance(law, Independent):
        return arguments(law.base_dist)
    if not _parameters_of(cast(Hashable, type(law))) <= {"validate_args", *law.arg_constraints, *_sizes(law)}:
        return {}
    given = {name: law.__dict__[name] for name in law.arg_constraints if name in law.__dict__}
    tensors = {name: value for name, value in given.items() if isinstance(value, Tensor)}
    # Laws that keep theirs in another law offer both of `probs` and `logits`, and take one.
    names = sorted(law.arg_constraints)[:1] if set(law.arg_constraints) == {"logits", "probs"} else law.arg_constraints
    return tensors or {name: getattr(law, name) for name in names}


def rebuild(law: Distribution, values: Mapping[str, Tensor]) -> Distribution:
    """Returns the same kind of distribution made of other arguments, `[…]` or, for N laws at once, `[N, …]`."""
    if isinstance(law, Independent):
        return Independent(rebuild(law.base_dist, values), law.reinterpreted_batch_ndims, validate_args=False)
    # Only the lower triangle of a Cholesky factor is an argument, so nothing may flow into the upper one.
    given = {name: value.tril() if name == "scale_tril" else value for name, value in values.items()}
    return cast(Callable[..., Distribution], type(law))(**_sizes(law), **given, validate_args=False)


def lower_triangular(law: Distribution) -> Distribution:
    """Returns an equal law into whose Cholesky factor, if it was given one, nothing flows above the diagonal."""
    base = law.base_dist if isinstance(law, Independent) else law
    if "scale_tril" not in base.arg_constraints or "scale_tril" not in (given := arguments(law)):
        return law
    return rebuild(law, given)


def repeated(law: Distribution, num_samples: int) -> tuple[Distribution, dict[str, Tensor]]:
    """Returns a batch of N equal laws and their arguments `[N, …]`, leaves that gradients can be taken of."""
    leaves = {
        name: value.detach().expand(num_samples, *value.shape).requires_grad_()
        for name, value in arguments(law).items()
    }
    return rebuild(law, leaves), leaves


@cache
def _parameters_of(kind: Hashable) -> frozenset[str]:
    return frozenset(signature(cast(Any, kind)).parameters)


def _sizes(law: Distribution) -> dict[str, int]:
    """Returns the whole numbers that a distribution was made with beside its arguments, as a count of trials."""
    others = [name for name in _parameters_of(cast(Hashable, type(law))) if name not in law.arg_constraints]
    return {name: value for name in others if type(value := getattr(law, name, None)) is int}
