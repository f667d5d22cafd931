"""Bayesian logistic regression on 23 shuttle launches: real data, and a posterior in two dimensions."""

from __future__ import annotations

import math
from typing import final

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from pgkit.core import families
from pgkit.options import Count, Positive
from pgkit.problems.base import Problem
from pgkit.problems.conjugate_gaussian import Approximation, gaussian_start, rows
from pgkit.types import Parameters
from pgkit.vi.elbo import Elbo, Entropy, elbo

TEMPERATURES = (66, 70, 69, 68, 67, 72, 73, 70, 57, 63, 70, 78, 67, 53, 67, 75, 70, 81, 76, 79, 75, 76, 58)
DISTRESS = (0, 1, 0, 0, 0, 0, 0, 0, 1, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1, 0, 1)
"""Joint temperature at launch in °F, and whether any O-ring of a field joint showed thermal distress, launch by launch.

Distress is erosion or blow-by: lists of erosion alone have none at the second launch of 75 °F, STS 61-A.
Source: Dalal, Fowlkes and Hoadley 1989 (Journal of the American Statistical Association 84:945), table 1.
"""


@final
class LogisticRegression(Problem):
    """The ELBO of P(distress) = σ(x₀ + x₁ t), t the standardised temperature, x ~ N(0, prior_scale² I); maximised.

    The distance is KL(q ‖ posterior) in nats, log p(y) − ELBO(q), both by quadrature. It does not reach 0: the
    posterior is no Gaussian.
    Source: Jaakkola and Jordan 2000 (Statistics and Computing 10:25), for the variational treatment.
    """

    maximise = True

    def __init__(
        self,
        *,
        prior_scale: Positive = 3.0,
        family: Approximation = "full_rank",
        entropy: Entropy = "detached",
        batch_size: Count | None = None,
        target: Positive = 0.1,
    ) -> None:
        temperatures = torch.tensor(TEMPERATURES, dtype=torch.float64)
        standardised = (temperatures - temperatures.mean()) / temperatures.std()
        self.inputs = torch.stack([torch.ones_like(standardised), standardised], dim=1)
        self.signs = 2.0 * torch.tensor(DISTRESS, dtype=torch.float64) - 1
        self.prior_scale, self.family, self.entropy, self.batch_size = prior_scale, family, entropy, batch_size
        self.target = target
        self.law = families.full_rank if family == "full_rank" else families.mean_field
        self._log_evidence = self._integrate()

    def parameters(self) -> dict[str, Tensor]:
        """Returns those of a standard normal q."""
        return gaussian_start(2, self.family)

    def expectation(self) -> Elbo:
        """Returns the bound at the start."""
        return self.at(self.parameters())

    def at(self, parameters: Parameters) -> Elbo:
        """Returns the bound over all launches."""
        return self._bound(parameters, torch.arange(len(self.signs)))

    def minibatch(self, parameters: Parameters, generator: torch.Generator) -> Elbo:
        """Returns the bound with the likelihood of `batch_size` launches, drawn anew and scaled up."""
        return self._bound(parameters, rows(len(self.signs), self.batch_size, generator))

    def objective(self, parameters: Parameters) -> float:
        """Returns the ELBO by a Gauss-Hermite rule, in nats."""
        law = families.as_multivariate(self.law(parameters))
        points, weights = _hermite(40)
        x = law.loc + points @ law.scale_tril.T
        return float(weights @ self.log_joint(x) + law.entropy())

    def distance(self, parameters: Parameters) -> float:
        """Returns KL(q ‖ posterior), in nats."""
        return self._log_evidence - self.objective(parameters)

    def log_joint(self, x: Tensor, index: Tensor | None = None) -> Tensor:
        """Returns log p(x, y) `[N]`, the likelihood that of the launches in `index`, scaled up to all of them."""
        inputs, signs = (self.inputs, self.signs) if index is None else (self.inputs[index], self.signs[index])
        standard = torch.distributions.Normal(0.0, 1.0)
        prior = (standard.log_prob(x / self.prior_scale) - math.log(self.prior_scale)).sum(-1)
        return prior + len(self.signs) / len(signs) * logsigmoid(signs * (x @ inputs.T)).sum(-1)

    def _bound(self, parameters: Parameters, index: Tensor) -> Elbo:
        return elbo(lambda x, theta: self.log_joint(x, index), self.law, parameters, entropy=self.entropy)

    def _integrate(self) -> float:
        """Returns log p(y) on a grid that holds all but a negligible part of the posterior."""
        line = torch.linspace(-15, 15, 601, dtype=torch.float64)
        grid = torch.cartesian_prod(line, line)
        return float(self.log_joint(grid).logsumexp(0) + 2 * (line[1] - line[0]).log())


def _hermite(count: int) -> tuple[Tensor, Tensor]:
    """Returns points `[K, 2]` and weights `[K]` of a Gauss-Hermite rule of the standard normal law in the plane."""
    line, weight = (torch.from_numpy(each) for each in np.polynomial.hermite_e.hermegauss(count))
    return torch.cartesian_prod(line, line), torch.cartesian_prod(weight, weight).prod(1) / weight.sum() ** 2
