"""Costs under discrete laws, whose exact gradient is a finite sum."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import replace
from typing import Annotated, final

import torch
from torch import Tensor
from torch.distributions import Bernoulli, Categorical, Distribution, Independent, OneHotCategorical, Poisson

from pgkit.core.rao_blackwell import Separable
from pgkit.options import Count, Positive, Range
from pgkit.problems.known import Facts, IntegratedProblem, as_leaves, flat_gradient
from pgkit.types import Expectation, Parameters

_LARGEST = 12
"""Bernoulli variables whose joint values are enumerated."""


class _Finite(IntegratedProblem, ABC):
    """A problem with finitely many outcomes."""

    def exact_variance(self, estimator: str, parameters: Parameters) -> Tensor | None:
        """Returns the variance of `score` by enumeration, and that of `enumeration`, which has none."""
        if estimator == "enumeration":
            return torch.zeros_like(self.exact_gradient(parameters))
        return super().exact_variance(estimator, parameters)

    def facts(self) -> Facts:
        """Returns the facts with the number of outcomes."""
        return replace(super().facts(), outcomes=len(self.nodes(self.parameters())[1]))


@final
class SoftmaxBandit(_Finite):
    """The expected reward of a softmax over arms: to be maximised."""

    maximise = True

    def __init__(self, *, rewards: list[float] | None = None) -> None:
        self._rewards = torch.tensor([0.0, 1.0, 5.0] if rewards is None else rewards, dtype=torch.float64)

    def parameters(self) -> dict[str, Tensor]:
        """Returns the logits of the arms."""
        return {"logits": torch.linspace(0.5, -0.5, len(self._rewards), dtype=torch.float64)}

    def expectation(self) -> Expectation:
        """Returns the expected reward; an outcome is the number of an arm."""
        return Expectation(
            cost=lambda arm: self._rewards[arm],
            law=lambda theta: Categorical(logits=theta["logits"], validate_args=False),
        )

    def nodes(self, parameters: Parameters) -> tuple[Tensor, Tensor]:
        """Returns the arms and their probabilities."""
        return torch.arange(len(self._rewards)), parameters["logits"].detach().softmax(0)


class _Bits(_Finite, ABC):
    """A cost of Bernoulli variables."""

    differentiable = True

    def __init__(self, *, dimension: Count, centre: float) -> None:
        self.dimension, self.centre = dimension, centre

    def parameters(self) -> dict[str, Tensor]:
        """Returns the logits `[D]`."""
        return {"logits": torch.linspace(0.4, -0.4, self.dimension, dtype=torch.float64)}

    def nodes(self, parameters: Parameters) -> tuple[Tensor, Tensor]:
        """Returns all the vectors of zeros and ones, and their probabilities."""
        values = torch.cartesian_prod(*[torch.tensor([0.0, 1.0], dtype=torch.float64)] * self.dimension)
        values = values.reshape(-1, self.dimension)
        p = parameters["logits"].detach().sigmoid()
        return values, (values * p + (1 - values) * (1 - p)).prod(1)

    def expectation(self) -> Separable:
        """Returns the expected sum of the terms."""
        return Separable(cost=lambda b: self.terms(b).sum(-1), law=self._law, terms=self.terms, moves=self.moves())

    @abstractmethod
    def terms(self, b: Tensor) -> Tensor:
        """Returns the terms `[N, M]` of the cost."""

    @abstractmethod
    def moves(self) -> list[list[int]]:
        """Returns which terms move with each variable."""

    def exact_variance(self, estimator: str, parameters: Parameters) -> Tensor | None:
        """Returns that of `score`, `termwise_score` or `enumeration`, None where there are too many to enumerate."""
        if self.dimension > _LARGEST:
            return None
        if estimator != "termwise_score":
            return super().exact_variance(estimator, parameters)
        values, weights = self.nodes(parameters)
        terms = self.terms(values)
        credit = torch.stack([terms[:, listed].sum(1) for listed in self.moves()], dim=1)
        score = values - parameters["logits"].detach().sigmoid()
        return weights @ (credit * score) ** 2 - self.exact_gradient(parameters) ** 2

    def facts(self) -> Facts:
        """Returns the facts with the number of joint values."""
        small = self.dimension <= _LARGEST
        return super().facts() if small else replace(IntegratedProblem.facts(self), outcomes=2**self.dimension)

    def _law(self, parameters: Parameters) -> Distribution:
        return Independent(Bernoulli(logits=parameters["logits"], validate_args=False), 1)


@final
class BernoulliToy(_Bits):
    """The cost Σ_d (b_d − centre)² of Bernoulli variables: the toy of the literature on discrete gradients.

    Source: Tucker et al. 2017, arXiv:1703.07370.
    """

    def __init__(self, *, dimension: Count, centre: float = 0.49) -> None:
        super().__init__(dimension=dimension, centre=centre)

    def terms(self, b: Tensor) -> Tensor:
        """Returns (b_d − centre)²."""
        return (b - self.centre) ** 2

    def moves(self) -> list[list[int]]:
        """Returns that term d moves with variable d alone."""
        return [[factor] for factor in range(self.dimension)]

    def exact_gradient(self, parameters: Parameters) -> Tensor:
        """Returns (f(1) − f(0)) p (1 − p) of every variable."""
        p = parameters["logits"].detach().sigmoid()
        return ((1 - self.centre) ** 2 - self.centre**2) * p * (1 - p)

    def objective(self, parameters: Parameters) -> float:
        """Returns the expectation by its closed form."""
        p = parameters["logits"].sigmoid()
        return float((p * (1 - self.centre) ** 2 + (1 - p) * self.centre**2).sum())


@final
class BernoulliChain(_Bits):
    """The cost Σ_d (b_d + b_{d+1} − centre)²: each term is shared by two neighbours, each variable moves two terms.

    What Rao-Blackwellisation leaves out of a coordinate is all but its neighbours.
    Source: Ranganath, Gerrish and Blei 2014, arXiv:1401.0118, for the estimator; the problem is ours.
    """

    def __init__(self, *, dimension: Annotated[int, Range(least=2)] = 6, centre: float = 1.2) -> None:
        super().__init__(dimension=dimension, centre=centre)

    def terms(self, b: Tensor) -> Tensor:
        """Returns (b_d + b_{d+1} − centre)²."""
        return (b[..., :-1] + b[..., 1:] - self.centre) ** 2

    def moves(self) -> list[list[int]]:
        """Returns the terms before and after each variable."""
        last = self.dimension - 2
        return [[term for term in (factor - 1, factor) if 0 <= term <= last] for factor in range(self.dimension)]

    def exact_gradient(self, parameters: Parameters) -> Tensor:
        """Returns the gradient of the closed form."""
        leaves = as_leaves(parameters)
        return flat_gradient(self._value(leaves), leaves)

    def objective(self, parameters: Parameters) -> float:
        """Returns the expectation by its closed form."""
        return float(self._value(parameters))

    def _value(self, parameters: Parameters) -> Tensor:
        """Returns Σ_d (p_d + p_{d+1} − centre)² + p_d (1 − p_d) + p_{d+1} (1 − p_{d+1})."""
        p = parameters["logits"].sigmoid()
        noise = p * (1 - p)
        return (self.terms(p) + noise[:-1] + noise[1:]).sum()


@final
class CategoricalCost(_Finite):
    """The cost |x − centre|² of a one-hot choice x: defined, and smooth, between the choices too."""

    differentiable = True

    def __init__(self, *, choices: Count = 4) -> None:
        self._centre = torch.linspace(0.0, 0.6, choices, dtype=torch.float64)

    def parameters(self) -> dict[str, Tensor]:
        """Returns the logits of the choices."""
        return {"logits": torch.sin(torch.arange(len(self._centre), dtype=torch.float64))}

    def expectation(self) -> Expectation:
        """Returns E|x − centre|²."""
        return Expectation(
            cost=lambda x: ((x - self._centre) ** 2).sum(-1),
            law=lambda theta: OneHotCategorical(logits=theta["logits"], validate_args=False),
        )

    def nodes(self, parameters: Parameters) -> tuple[Tensor, Tensor]:
        """Returns the one-hot vectors and their probabilities."""
        return torch.eye(len(self._centre), dtype=torch.float64), parameters["logits"].detach().softmax(0)


@final
class PoissonCost(IntegratedProblem):
    """The cost (x − centre)² of a Poisson count."""

    def __init__(self, *, rate: Positive = 2.0, centre: float = 3.0) -> None:
        self.rate, self.centre = rate, centre

    def parameters(self) -> dict[str, Tensor]:
        """Returns the rate."""
        return {"rate": torch.tensor(float(self.rate), dtype=torch.float64)}

    def expectation(self) -> Expectation:
        """Returns E[(x − centre)²]."""
        return Expectation(
            cost=lambda x: (x - self.centre) ** 2, law=lambda theta: Poisson(theta["rate"], validate_args=False)
        )

    def exact_gradient(self, parameters: Parameters) -> Tensor:
        """Returns 1 + 2 (rate − centre)."""
        return (1 + 2 * (parameters["rate"].detach() - self.centre)).reshape(1)

    def nodes(self, parameters: Parameters) -> tuple[Tensor, Tensor]:
        """Returns all the counts that matter and their probabilities."""
        rate = float(parameters["rate"])
        counts = torch.arange(int(rate + 12 * rate**0.5 + 40), dtype=torch.float64)
        return counts, Poisson(torch.tensor(rate, dtype=torch.float64)).log_prob(counts).exp()
