"""What every estimator of the gradient of an expectation needs: samples, scores, chain rules, error bars.

A law is a torch distribution whose arguments (loc, scale, logits, …) are functions of the parameters θ. Gradients are
taken with respect to the arguments, one sample at a time in one batched pass, and carried to θ by the Jacobian of the
arguments: g_θ = g_args · ∂args/∂θ. What is sampled N times is thus differentiated once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent
from torch.func import grad, jacrev, vmap

from pgkit.types import Expectation, GradientEstimate, Metrics, Parameters


@contextmanager
def seeded_by(generator: torch.Generator) -> Iterator[None]:
    """Lets torch's global generator, on which distributions draw, follow `generator` inside the block alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(torch.randint(2**62, (), generator=generator)))
        yield


def draw(law: Distribution, num_samples: int, generator: torch.Generator) -> Tensor:
    """Returns samples `[N, *event]`, detached; the global generator is left as it was."""
    with seeded_by(generator), torch.no_grad():
        return law.sample(torch.Size([num_samples]))


def arguments(law: Distribution) -> dict[str, Tensor]:
    """Returns the tensors a distribution was made of, by name: those it was given, not those derived from them."""
    if isinstance(law, Independent):
        return arguments(law.base_dist)
    given = {name: law.__dict__[name] for name in law.arg_constraints if name in law.__dict__}
    tensors = {name: value for name, value in given.items() if isinstance(value, Tensor)}
    return tensors or {name: getattr(law, name) for name in law.arg_constraints}


def rebuild(law: Distribution, values: Mapping[str, Tensor]) -> Distribution:
    """Returns the same kind of distribution made of other arguments, which may carry a leading batch dimension."""
    if isinstance(law, Independent):
        return Independent(rebuild(law.base_dist, values), law.reinterpreted_batch_ndims, validate_args=False)
    return type(law)(**values, validate_args=False)


def repeated(law: Distribution, num_samples: int) -> tuple[Distribution, dict[str, Tensor]]:
    """Returns a batch of N equal laws and their arguments `[N, …]`, leaves that gradients can be taken of."""
    leaves = {
        name: value.detach().expand(num_samples, *value.shape).clone().requires_grad_()
        for name, value in arguments(law).items()
    }
    return rebuild(law, leaves), leaves


def jacobian(expectation: Expectation, parameters: Parameters) -> Tensor:
    """Returns ∂args/∂θ as `[A, P]`, arguments and parameters flattened in their own order."""
    tangents = jacrev(lambda theta: _flat(arguments(expectation.law(theta))))(dict(parameters))
    return torch.cat([tangents[name].reshape(len(tangents[name]), -1) for name in parameters], dim=1)


def to_parameters(gradients: Mapping[str, Tensor], expectation: Expectation, parameters: Parameters) -> Tensor:
    """Returns per-sample gradients `[N, P]` in θ from those `[N, …]` in each argument of the law."""
    flat = torch.cat([gradient.reshape(len(gradient), -1) for gradient in gradients.values()], dim=1)
    return flat @ jacobian(expectation, parameters)


def scores(expectation: Expectation, parameters: Parameters, samples: Tensor) -> Tensor:
    """Returns ∇_θ log p_θ(x) of every sample, `[N, P]`.

    By arguments where the law can be rebuilt from them, by a vectorised gradient for any other law.
    Shapes: samples `[N, *event]`.
    Source: Glynn 1990 (Communications of the ACM 33:75).
    """
    law = expectation.law(parameters)
    if not arguments(law):
        return _scores_by_vmap(expectation, parameters, samples)
    batch, leaves = repeated(law, len(samples))
    log_prob = batch.log_prob(samples)
    gradients = torch.autograd.grad(log_prob.sum(), list(leaves.values()), materialize_grads=True, allow_unused=True)
    return to_parameters(dict(zip(leaves, gradients, strict=True)), expectation, parameters)


def direct_term(expectation: Expectation, parameters: Parameters, samples: Tensor) -> Tensor:
    """Returns ∇_θ f_θ(x) at fixed samples, `[N, P]`; zeros where the cost does not move with θ.

    Shapes: samples `[N, *event]`.
    """
    num_parameters = sum(value.numel() for value in parameters.values())
    cost = expectation.direct_cost
    if cost is None:
        return samples.new_zeros((len(samples), num_parameters), dtype=next(iter(parameters.values())).dtype)
    one = grad(lambda theta, x: cost(x[None], theta).sum())
    gradients = vmap(one, in_dims=(None, 0))(dict(parameters), samples)
    return torch.cat([gradients[name].reshape(len(samples), -1) for name in parameters], dim=1)


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
    if standard_error is None and independent and len(per_sample) > 1:
        standard_error = per_sample.std(dim=0) / len(per_sample) ** 0.5
    return GradientEstimate(
        mean=per_sample.mean(dim=0),
        standard_error=standard_error,
        per_sample=per_sample,
        unbiased=unbiased,
        independent=independent,
        shapes={name: tuple(value.shape) for name, value in parameters.items()},
        metrics={} if metrics is None else metrics,
    )


def evaluate(cost: Callable[[Tensor], Tensor], samples: Tensor) -> Tensor:
    """Returns the costs `[N]` of samples, detached.

    Raises: ValueError where the cost is not one number a sample.
    """
    with torch.no_grad():
        costs = torch.as_tensor(cost(samples))
    if costs.shape != samples.shape[:1]:
        raise ValueError(f"cost: shape {list(costs.shape)}, expected [N] = [{len(samples)}], one number a sample")
    return costs.to(torch.get_default_dtype()) if not costs.is_floating_point() else costs


def _scores_by_vmap(expectation: Expectation, parameters: Parameters, samples: Tensor) -> Tensor:
    one = grad(lambda theta, x: expectation.law(theta).log_prob(x).sum())
    gradients = vmap(one, in_dims=(None, 0))(dict(parameters), samples)
    return torch.cat([gradients[name].reshape(len(samples), -1) for name in parameters], dim=1)


def _flat(values: Mapping[str, Tensor]) -> Tensor:
    return torch.cat([value.reshape(-1) for value in values.values()])
