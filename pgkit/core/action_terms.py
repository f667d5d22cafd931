"""Estimators whose rows are more than the score of the action that was taken.

A row's surrogate is Σ_k c_k φ_k(θ): detached coefficients times terms that a law of actions computes from its
parameters. With the one term log π(a|s) this is the score function; with that of every action, of every dimension, or
with the mean action beside it, it is one of the estimators below. A law's actions are encoded in E numbers that have a
mean under the policy, and have D independent dimensions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, final

import torch
from torch import Tensor, nn

from pgkit.core.optimal_baseline import cross_fitted_ratio
from pgkit.types import expect

Terms = Callable[[Any, Tensor, Tensor], Tensor]
"""(law, its parameters `[..., K]`, actions as sampled) -> terms `[...]`, or `[..., C]` with C coefficients a row."""


def taken(law: Any, parameters: Tensor, actions: Tensor) -> Tensor:
    """Returns log π(a|s) of the actions that were taken, `[...]`.

    Source: Williams 1992.
    """
    result: Tensor = law.log_prob(parameters, actions)
    return result


def every_action(law: Any, parameters: Tensor, actions: Tensor) -> Tensor:
    """Returns log π(a|s) of every action, whichever was taken, `[..., A]`.

    Source: Asadi et al. 2017, arXiv:1709.00503.
    """
    result: Tensor = law.log_probabilities(parameters)
    return result


def every_dimension(law: Any, parameters: Tensor, actions: Tensor) -> Tensor:
    """Returns log π(a_i|s) of every dimension of the actions that were taken, `[..., D]`.

    Source: Wu et al. 2018, arXiv:1803.07246.
    """
    result: Tensor = law.log_prob_of_dimensions(parameters, actions)
    return result


def taken_and_mean(law: Any, parameters: Tensor, actions: Tensor) -> Tensor:
    """Returns log π(a|s) of the actions that were taken, then the mean encoded action, `[..., 1+E]`.

    Source: Gu et al. 2017, arXiv:1611.02247.
    """
    return torch.cat([law.log_prob(parameters, actions)[..., None], law.mean(parameters)], dim=-1)


def reparameterised(law: Any, parameters: Tensor, actions: Tensor) -> Tensor:
    """Returns the actions that were taken, `[..., A]`, moving with the parameters while their noise stays as it was.

    Source: Kingma and Welling 2014, arXiv:1312.6114; Heess et al. 2015, arXiv:1510.09142, for actions.
    """
    result: Tensor = law.reparameterised(parameters, actions)
    return result


@final
class RowTerms(nn.Module):
    """Σ_k c_k φ_k as a module of observations, actions and coefficients, so that gradients can be taken of every row.

    Each row then counts once: the coefficients of its gradient are ones.
    """

    def __init__(self, policy: Any, terms: Terms) -> None:
        super().__init__()
        self.policy, self.terms = policy, terms

    def forward(self, obs: Any, actions: Tensor, coefficients: Tensor) -> Tensor:
        """Returns the sums `[...]` over the terms of every row; coefficients `[..., C]`."""
        return (coefficients * self.terms(self.policy.law, self.policy(obs), actions)).sum(dim=-1)


def all_action_coefficients(action_values: Tensor, probabilities: Tensor, scale: Tensor) -> Tensor:
    """Returns scale · π(a|s) (Q(s, a) − Σ_b π(b|s) Q(s, b)) of every action, 0 where the scale is.

    They belong to the terms `every_action`; the mean of the values changes no expectation and no gradient.
    Bias: that of the values; none, and no noise of the actions, where they are the true ones.
    Shapes: action_values, probabilities and the result `[F, N, A]`; scale `[F, N]`.
    Source: Asadi et al. 2017, arXiv:1709.00503; Ciosek and Whiteson 2018, arXiv:1801.03326.
    """
    expect("F N A .", action_values=action_values, probabilities=probabilities)
    advantage = action_values - (probabilities * action_values).sum(dim=-1, keepdim=True)
    return torch.where(scale[..., None] == 0, 0.0, probabilities * advantage) * scale[..., None]


def linear_control(advantage: Tensor, slopes: Tensor, deviations: Tensor, scale: Tensor, eta: Tensor) -> Tensor:
    """Returns the coefficients of (A − η Ā) log π(a|s) + η ∇Q · mean(θ), Ā = ∇Q · (a − mean); 0 where the scale is.

    They belong to the terms `taken_and_mean`: E[Ā ∇log π] = ∇Q · ∇mean for any slopes, so the two parts cancel.
    Bias: none, provided η does not depend on the action.
    Shapes: advantage, scale `[F, N]`; slopes, deviations `[F, N, E]`; eta `[N]`; the result `[F, N, 1+E]`.
    Source: Gu et al. 2017, arXiv:1611.02247.
    """
    expect("F N E .", slopes=slopes, deviations=deviations)
    left = advantage - eta * (slopes * deviations).sum(dim=-1)
    rows = torch.cat([left[..., None], eta[:, None] * slopes], dim=-1)
    return torch.where(scale[..., None] == 0, 0.0, rows) * scale[..., None]


def cross_fitted_share(advantage: Tensor, linear: Tensor, scale: Tensor) -> Tensor:
    """Returns η = Cov(A, Ā) / Var(Ā) of the other samples, `[N]`, 0 where Ā never moves.

    The mean of Ā is 0 at every state, so that both moments are plain sums of products.
    Bias: none as a coefficient of Ā: a sample does not enter its own, if nothing in its advantage is from another.
    Shapes: all `[F, N]`.
    Source: Gu et al. 2017, arXiv:1611.02247, there from the very action that it multiplies, which is biased.
    """
    expect("F N .", advantage=advantage, linear=linear, scale=scale)
    inside = scale != 0
    first, second = (torch.where(inside, x * scale, 0.0) for x in (advantage, linear))
    return cross_fitted_ratio((first * second).sum(dim=0), second.square().sum(dim=0))


def pathwise_coefficients(slopes: Tensor, scale: Tensor) -> Tensor:
    """Returns scale · slopes, how what follows moves with each action, detached, 0 where the scale is.

    They belong to the terms `reparameterised`: E[∇Q · ∇_θ x_θ(s, ε)] = ∇_θ E_{x~π_θ}[Q(s, x)].
    Bias: that of the slopes.
    Shapes: slopes and the result `[F, N, A]`; scale `[F, N]`.
    Source: Heess et al. 2015, arXiv:1510.09142.
    """
    expect("F N A .", slopes=slopes)
    return (torch.where(scale[..., None] == 0, 0.0, slopes) * scale[..., None]).detach()


def factorised_coefficients(advantage: Tensor, others: Tensor, scale: Tensor) -> Tensor:
    """Returns scale · (A − b_i) of every dimension, b_i knowing the state and the other dimensions alone.

    They belong to the terms `every_dimension`; E[b_i ∇log π(a_i|s)] = 0 as the dimensions are independent given s.
    Bias: none, whatever the critic that b came from.
    Shapes: advantage, scale `[F, N]`; others and the result `[F, N, D]`.
    Source: Wu et al. 2018, arXiv:1803.07246.
    """
    expect("F N", advantage=advantage, others=others, scale=scale)
    return torch.where(scale[..., None] == 0, 0.0, advantage[..., None] - others) * scale[..., None]
