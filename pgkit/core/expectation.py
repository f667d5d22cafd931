"""What every estimator of the gradient of an expectation needs: samples, scores, chain rules, error bars.

A law is a torch distribution whose arguments (loc, scale, logits, …) are functions of the parameters θ. Gradients are
taken with respect to the arguments, one sample at a time in one batched pass, and carried to θ by the Jacobian of the
arguments: g_θ = g_args · ∂args/∂θ, a product that is never formed where the arguments are elementwise functions of θ.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution
from torch.func import grad, vmap

from pgkit.core.arguments import arguments, repeated
from pgkit.core.chain import in_blocks
from pgkit.core.gaussian_rows import score_rows
from pgkit.types import Expectation, GradientEstimate, Metrics, Parameters


@contextmanager
def seeded_by(generator: torch.Generator) -> Iterator[None]:
    """Yields nothing: inside the block torch's global generator, on which laws draw, follows `generator`."""
    # Torch's own fork and seeding look after every accelerator too, which costs more than a small estimate.
    state = torch.default_generator.get_state()
    torch.default_generator.manual_seed(int(torch.randint(2**62, (), generator=generator)))
    try:
        yield
    finally:
        torch.default_generator.set_state(state)


def leaves_of(parameters: Parameters) -> dict[str, Tensor]:
    """Returns the parameters as leaves of their own, which stay what they are when the parameters move on.

    Shapes: parameters, each of its own.
    """
    return {name: value.detach().clone().requires_grad_() for name, value in parameters.items()}


def draw(law: Distribution, num_samples: int, generator: torch.Generator) -> Tensor:
    """Returns samples `[N, *event]`, detached; the global generator is left as it was."""
    with seeded_by(generator), torch.no_grad():
        return law.sample(torch.Size([num_samples]))


def to_parameters(gradients: Mapping[str, Tensor], expectation: Expectation, parameters: Parameters) -> Tensor:
    """Returns per-sample gradients `[N, P]` in θ from those `[N, …]` in each argument of the law."""
    num_samples = len(next(iter(gradients.values())))
    return in_blocks(
        lambda block: {name: each[block] for name, each in gradients.items()}, num_samples, expectation, parameters
    )


def learned(expectation: Expectation, parameters: Parameters) -> frozenset[str]:
    """Returns the names of the law's arguments that move with the parameters.

    Shapes: parameters, each of its own.
    """
    leaves = {name: value.detach().requires_grad_() for name, value in parameters.items()}
    with torch.enable_grad():
        return frozenset(name for name, value in arguments(expectation.law(leaves)).items() if value.requires_grad)


def scores(expectation: Expectation, parameters: Parameters, samples: Tensor) -> Tensor:
    """Returns ∇_θ log p_θ(x) of every sample, `[N, P]`.

    By arguments where the law can be rebuilt from them, by a vectorised gradient for any other law.
    Shapes: samples `[N, *event]`.
    Source: Glynn 1990 (Communications of the ACM 33:75).
    """
    law = expectation.law(parameters)
    if not arguments(law):
        return _scores_by_vmap(expectation, parameters, samples)
    with torch.no_grad():
        closed = score_rows(law, samples)
        if closed is not None:
            return in_blocks(closed, len(samples), expectation, parameters)
    batch, leaves = repeated(law, len(samples))
    log_prob = batch.log_prob(samples)
    gradients = torch.autograd.grad(log_prob.sum(), list(leaves.values()), materialize_grads=True, allow_unused=True)
    return to_parameters(dict(zip(leaves, gradients, strict=True)), expectation, parameters)


def direct_term(expectation: Expectation, parameters: Parameters, samples: Tensor) -> Tensor:
    """Returns the gradients in θ of a cost at fixed samples, `[N, P]`; zeros where the cost does not move with θ.

    Shapes: samples `[N, *event]`.
    """
    num_parameters = sum(value.numel() for value in parameters.values())
    cost = expectation.direct_cost
    if cost is None:  # a view of a single zero
        return next(iter(parameters.values())).new_zeros(()).expand(len(samples), num_parameters)
    one = grad(lambda theta, x: cost(x[None], theta).sum())
    gradients = vmap(one, in_dims=(None, 0))(dict(parameters), samples)
    return torch.cat([gradients[name].reshape(len(samples), -1) for name in parameters], dim=1)


def add_direct(per_sample: Tensor, expectation: Expectation, parameters: Parameters, samples: Tensor) -> Tensor:
    """Returns per-sample gradients with those of the cost at fixed samples added, if it has any, `[N, P]`.

    Shapes: per_sample `[N, P]`, samples `[N, *event]`, or a multiple of N: then their average over each column.
    """
    if expectation.direct_cost is None:
        return per_sample
    return per_sample + direct_term(expectation, parameters, samples).view(-1, *per_sample.shape).mean(0)


def summarise(
    per_sample: Tensor,
    parameters: Parameters,
    *,
    unbiased: bool,
    independent: bool = True,
    standard_error: Tensor | None = None,
    metrics: Metrics | None = None,
) -> GradientEstimate:
    """Returns the mean of per-sample gradients with its standard error, None where samples are coupled.

    An estimator that knows its error better than the sample formula does, coupled or stratified, hands it over.
    Shapes: per_sample `[N, P]`, standard_error `[P]`.
    """

    estimate = summarise_lazily(
        per_sample.mean(dim=0), lambda: per_sample, parameters, unbiased=unbiased, independent=independent,
        metrics=metrics,
    )  # fmt: skip
    return estimate if standard_error is None else replace(estimate, error=lambda _: standard_error)


def summarise_lazily(
    mean: Tensor,
    rows: Callable[[], Tensor],
    parameters: Parameters,
    *,
    unbiased: bool,
    independent: bool = True,
    metrics: Metrics | None = None,
) -> GradientEstimate:
    """Returns an estimate whose per-sample gradients are computed when somebody reads them, or the standard error.

    Shapes: mean `[P]`; rows() is `[N, P]`.
    """

    def error(per_sample: Tensor | None) -> Tensor | None:
        return _sample_error(per_sample) if independent and per_sample is not None else None

    return GradientEstimate(
        mean=mean,
        unbiased=unbiased,
        independent=independent,
        shapes=shapes_of(parameters),
        metrics={} if metrics is None else metrics,
        rows=rows,
        error=error,
    )


def _sample_error(per_sample: Tensor) -> Tensor | None:
    """Returns the standard error of the mean of independent rows, None for a single one."""
    return (column_variance(per_sample) / len(per_sample)).sqrt() if len(per_sample) > 1 else None


def shapes_of(parameters: Parameters) -> dict[str, tuple[int, ...]]:
    """Returns the shape of every parameter, by name.

    Shapes: parameters, each of its own.
    """
    return {name: tuple(value.shape) for name, value in parameters.items()}


def flat_gradient(value: Tensor, leaves: Parameters, weight: Tensor | None = None) -> Tensor:
    """Returns the gradient `[P]` of a scalar in the leaves that it was made of: one ordinary backward pass.

    Shapes: leaves, each of its own; zeros for those that the value does not move with. A value of more numbers is
    summed with a weight of its shape.
    """
    if not value.requires_grad:
        return flattened([None] * len(leaves), leaves)
    return flattened(torch.autograd.grad(value, list(leaves.values()), weight, allow_unused=True), leaves)


def flattened(gradients: Sequence[Tensor | None], leaves: Parameters) -> Tensor:
    """Returns the gradients in each leaf as one vector `[P]`, zeros for None.

    Shapes: gradients and leaves alike.
    """
    pairs = zip(gradients, leaves.values(), strict=True)
    return torch.cat([(torch.zeros_like(leaf) if each is None else each).reshape(-1) for each, leaf in pairs])


def column_variance(rows: Tensor) -> Tensor:
    """Returns the sample variance of every column of `[N, P]`, faster than torch's own where N is large."""
    return (rows.detach() - rows.detach().mean(dim=0)).square_().sum(dim=0) / (len(rows) - 1)


def evaluate(cost: Callable[[Tensor], Tensor], samples: Tensor) -> Tensor:
    """Returns the costs `[N]` of samples, detached.

    Raises: ValueError where the cost is not one number a sample.
    """
    with torch.no_grad():
        return one_each(cost(samples), len(samples))


def one_each(costs: Any, num_samples: int) -> Tensor:
    """Returns what a cost gave as a floating tensor `[N]`, with its gradient if it has one.

    Raises: ValueError where it is not one number a sample.
    """
    costs = torch.as_tensor(costs)
    if costs.shape != (num_samples,):
        raise ValueError(f"cost: shape {list(costs.shape)}, expected [N] = [{num_samples}], one number a sample")
    return costs if costs.is_floating_point() else costs.to(torch.get_default_dtype())


def _scores_by_vmap(expectation: Expectation, parameters: Parameters, samples: Tensor) -> Tensor:
    one = grad(lambda theta, x: expectation.law(theta).log_prob(x[None]).sum())
    gradients = vmap(one, in_dims=(None, 0))(dict(parameters), samples)
    return torch.cat([gradients[name].reshape(len(samples), -1) for name in parameters], dim=1)
