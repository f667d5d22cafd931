"""The evidence lower bound as an expectation: E_q[log p(x, y) − log q_θ(x)], to be maximised.

Its integrand moves with θ, through log q and where the model is learnt too. As E_q[∇_θ log q_θ] = 0 the part of log q
may be dropped from every gradient, which changes its variance and not its mean.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, final

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent

from pgkit.types import Expectation, Parameters

LogJoint = Callable[[Tensor, Parameters], Tensor]
Entropy = Literal["sampled", "detached", "analytic"]


@final
@dataclass(frozen=True, kw_only=True)
class Elbo(Expectation):
    """An evidence lower bound at some parameters; what the estimators of `pgkit.vi` need of it beyond an expectation.

    `log_joint` maps samples `[N, *event]` and parameters to log p(x, y) `[N]`; `model_moves` says whether it depends on
    the parameters. Where q is a product of factors, `terms` maps samples to terms `[N, M]` that add up to the cost, and
    `blankets` lists for each factor those that move with it: the terms of its Markov blanket.
    """

    log_joint: LogJoint
    model_moves: bool
    terms: Callable[[Tensor], Tensor] | None = None
    blankets: Sequence[Sequence[int]] = ()

    def path_only(self) -> Expectation:
        """Returns the same bound without the gradient of log q: the score of its law is dropped, its mean is 0."""
        return Expectation(cost=self.cost, law=self.law, direct_cost=self.log_joint if self.model_moves else None)


def elbo(
    log_joint: LogJoint,
    law: Callable[[Parameters], Distribution],
    parameters: Parameters,
    *,
    entropy: Entropy = "sampled",
    model_moves: bool = False,
) -> Elbo:
    """Returns E_q[log p(x, y) − log q(x)] at the parameters given, as an expectation whose gradient is unbiased.

    `entropy` says what becomes of −log q: `sampled` and differentiated in full; `detached`, as in black-box
    variational inference and in sticking the landing; or `analytic`, its mean in closed form.
    Source: Jordan et al. 1999; Ranganath, Gerrish and Blei 2014, arXiv:1401.0118; Roeder et al. 2017, arXiv:1703.09194.
    """
    here = {name: value.detach() for name, value in parameters.items()}
    fixed = law(here)

    def sampled(x: Tensor, theta: Parameters) -> Tensor:
        return log_joint(x, theta) - law(theta).log_prob(x)

    def analytic(x: Tensor, theta: Parameters) -> Tensor:
        return log_joint(x, theta) + law(theta).entropy()

    if entropy == "analytic":
        return Elbo(
            cost=lambda x: log_joint(x, here) + fixed.entropy(),
            law=law,
            direct_cost=analytic,
            log_joint=log_joint,
            model_moves=model_moves,
        )
    whole = sampled if entropy == "sampled" else (log_joint if model_moves else None)
    return Elbo(
        cost=lambda x: log_joint(x, here) - fixed.log_prob(x),
        law=law,
        direct_cost=whole,
        log_joint=log_joint,
        model_moves=model_moves,
    )


def with_blankets(
    bound: Elbo, *, log_prior: Callable[[Tensor], Tensor], log_likelihood: Callable[[Tensor], Tensor], law: Distribution
) -> Elbo:
    """Returns the bound with its terms apart: log p(x_d) − log q(x_d) of each factor, and the likelihood, of all.

    Shapes: samples `[N, D]`; log_prior `[N, D]`, log_likelihood `[N]`; `law` is q where the bound's cost is taken, a
    product over D. Without a product the bound comes back as it was.
    Source: Ranganath, Gerrish and Blei 2014, arXiv:1401.0118, section 3.1.
    """
    if not isinstance(law, Independent):
        return bound

    def terms(x: Tensor) -> Tensor:
        return torch.cat([log_prior(x) - law.base_dist.log_prob(x), log_likelihood(x)[:, None]], dim=1)

    count = law.event_shape[-1]
    return replace(bound, terms=terms, blankets=[[factor, count] for factor in range(count)])


def with_prior(
    log_likelihood: LogJoint,
    divergence: Callable[[Parameters], Tensor],
    law: Callable[[Parameters], Distribution],
    parameters: Parameters,
) -> Expectation:
    """Returns E_q[log p(y | x)] − KL(q ‖ prior) with the divergence in closed form.

    Source: Kingma and Welling 2014, arXiv:1312.6114, equation 7.
    """
    here = {name: value.detach() for name, value in parameters.items()}
    return Expectation(
        cost=lambda x: log_likelihood(x, here) - divergence(here),
        law=law,
        direct_cost=lambda x, theta: log_likelihood(x, theta) - divergence(theta),
    )
