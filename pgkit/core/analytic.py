"""Divergences and entropies in closed form, where there is one."""

from __future__ import annotations

from torch import Tensor
from torch.distributions import Distribution, Independent, kl_divergence

from pgkit.errors import UsageError


def analytic_kl(first: Distribution, second: Distribution) -> Tensor:
    """Returns KL(first ‖ second) in nats, `[]` for laws without a batch shape, differentiable in both.

    Raises: UsageError where no closed form is known.
    Source: Kullback and Leibler 1951 (Annals of Mathematical Statistics 22:79).
    """
    try:
        return kl_divergence(first, second)
    except NotImplementedError:
        names = f"{_name(first)} and {_name(second)}"
        raise UsageError(f"analytic_kl: {names}, expected laws with a closed form, or an estimate by samples") from None


def analytic_entropy(law: Distribution) -> Tensor:
    """Returns −E[log p] in nats, `[]` for a law without a batch shape, differentiable.

    Raises: UsageError where no closed form is known.
    Source: Shannon 1948 (Bell System Technical Journal 27:379).
    """
    try:
        return law.entropy()
    except NotImplementedError:
        raise UsageError(
            f"analytic_entropy: {_name(law)}, expected a law with a closed form, or an estimate by samples"
        ) from None


def _name(law: Distribution) -> str:
    return f"Independent {_name(law.base_dist)}" if isinstance(law, Independent) else type(law).__name__
