"""Gradients through discrete choices: finite sums, and antithetic bits.

Noise u is uniform on (0, 1) and has the shape of the logits, for N samples `[N, *logits]`; gradients come in the
logits, one row a sample.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import Binomial, Distribution, Independent
from torch.func import grad, vjp, vmap

from pgkit.core.expectation import evaluate, one_each
from pgkit.errors import UsageError
from pgkit.types import Expectation, Parameters


def base_of(law: Distribution) -> Distribution:
    """Returns the law of which an independent one is made, the law itself otherwise."""
    return base_of(law.base_dist) if isinstance(law, Independent) else law


def logits_of(law: Distribution) -> Tensor:
    """Returns the logits of a Bernoulli or categorical law, whichever of logits and probs it was given."""
    return base_of(law).logits  # type: ignore[attr-defined]  # torch's stubs give them to no common class


def through_logits(gradients: Tensor, expectation: Expectation, parameters: Parameters) -> Tensor:
    """Returns per-sample gradients `[N, P]` in θ from those in the logits of the law.

    Shapes: gradients `[N, *logits]`.
    """
    theta = {name: value.detach() for name, value in parameters.items()}
    pull_back = vjp(lambda values: logits_of(expectation.law(values)), theta)[1]
    (pulled,) = vmap(pull_back)(gradients)
    return torch.cat([pulled[name].reshape(len(gradients), -1) for name in parameters], dim=1)


def uniform(logits: Tensor, num_samples: int, generator: torch.Generator) -> Tensor:
    """Returns noise `[N, *logits]`, uniform on the open interval: its logarithms are finite."""
    noise = torch.rand((num_samples, *logits.shape), generator=generator, dtype=logits.dtype)
    margin = torch.finfo(logits.dtype).eps / 2
    return noise.clamp(margin, 1 - margin)


def support(law: Distribution, largest: int) -> Tensor:
    """Returns every value that a discrete law takes, `[S, *event]`; a product of factors has the product of theirs.

    Raises: UsageError, with the size, where there are more than `largest` of them or infinitely many.
    """
    values = product_support(law, base_of(law).batch_shape.numel(), largest)
    return values.reshape(len(values), *law.event_shape)


def product_support(law: Distribution, factors: int, largest: int) -> Tensor:
    """Returns every value of some of the equal supports that a product is made of, `[S, factors, *event]` of a factor.

    Raises: UsageError, with the size, where there are more than `largest` of them or infinitely many.
    """
    base = base_of(law)
    if not base.has_enumerate_support:
        raise UsageError(f"estimator: a sum over the support of {type(base).__name__}, expected a finite one; or score")
    if isinstance(base, Binomial) and base.total_count.unique().numel() > 1:
        raise UsageError("estimator: a sum over Binomial factors of different total_count, expected one; or score")
    # The support of a binomial law is counted first: making it may already be too much.
    each = int(base.total_count.max()) + 1 if isinstance(base, Binomial) else 0
    values = None if each > largest else base.enumerate_support(expand=False).reshape(-1, *base.event_shape)
    each = each if values is None else len(values)
    size = each**factors
    if values is None or size > largest:
        count = size if size < 10**12 else f"{each}^{factors}"
        raise UsageError(f"estimator: a sum over {count} values of the law, expected at most {largest}; or score")
    index = torch.cartesian_prod(*[torch.arange(each)] * factors).reshape(size, factors)
    return values[index]


def enumerated(expectation: Expectation, parameters: Parameters, values: Tensor) -> Tensor:
    """Returns ∇Σ_x p_θ(x) f(x) over all of a finite support, `[P]`: the gradient itself.

    Shapes: values `[S, *event]`.
    Source: by definition.
    """
    costs, direct = evaluate(expectation.cost, values), expectation.direct_cost

    def total(theta: Parameters) -> Tensor:
        moving = costs if direct is None else one_each(direct(values, theta), len(values))
        return (expectation.law(theta).log_prob(values).exp() * moving).sum()

    gradients = grad(total)({name: value.detach() for name, value in parameters.items()})
    return torch.cat([gradients[name].reshape(-1) for name in parameters])


def antithetic_bits(logits: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the Bernoulli samples 1[u > σ(−φ)] and 1[u < σ(φ)] of u and of 1 − u, as floats.

    Shapes: noise `[N, *logits]`.
    Source: Yin and Zhou 2019, arXiv:1807.11143.
    """
    return (noise > (-logits).sigmoid()).to(noise.dtype), (noise < logits.sigmoid()).to(noise.dtype)


def arm(difference: Tensor, noise: Tensor) -> Tensor:
    """Returns (f(b) − f(b̃)) (u − ½), the gradient in Bernoulli logits from an antithetic pair.

    Shapes: difference `[N]`, f(b) − f(b̃); noise `[N, *logits]`.
    Source: Yin and Zhou 2019, arXiv:1807.11143.
    """
    return rows(difference, noise) * (noise - 0.5)


def disarm(difference: Tensor, logits: Tensor, second: Tensor, unlike: Tensor) -> Tensor:
    """Returns ½ (f(b) − f(b̃)) (−1)^b̃ 1[b ≠ b̃] σ(|φ|), the mean of `arm` given the pair.

    Shapes: difference `[N]`, f(b) − f(b̃); second, unlike `[N, *logits]`, b̃ and b ≠ b̃.
    Source: Dong, Mnih and Tucker 2020, arXiv:2006.10680.
    """
    return 0.5 * rows(difference, second) * (1 - 2 * second) * unlike * logits.abs().sigmoid()


def rows(weight: Tensor, like: Tensor) -> Tensor:
    """Returns `[N]` shaped to multiply `[N, …]`."""
    return weight.reshape(-1, *[1] * (like.ndim - 1))
