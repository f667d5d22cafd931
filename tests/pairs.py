"""Every unbiased estimator with every problem that it takes, and the nodes over which a pair is integrated."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent

from pgkit.baselines.constant import Zero
from pgkit.config import build
from pgkit.problems.base import Problem
from pgkit.problems.gaussian import hermite_grid
from pgkit.problems.known import IntegratedProblem, scores
from pgkit.problems.maximum_likelihood import MaximumLikelihood
from pgkit.protocols import GradientEstimator
from pgkit.types import Parameters
from pgkit.verifying.pairs import options

SMALLER = {"gaussian_sum": {"dimension": 2}, "bernoulli_vector": {"dimension": 4}, "bernoulli_chain": {"dimension": 4}}
"""Problems with fewer dimensions than their files say, so that all of them can be integrated over."""
BITS = (
    "arm control_variates disarm enumeration importance marginalised_score measure_valued multiple_importance rebar "
    "relax score termwise_score"
)
NORMAL = "bonnet_price control_variates importance multiple_importance pathwise score score_delta"
CHOICE = "enumeration importance marginalised_score multiple_importance score sum_and_sample"
FITTING = {
    **dict.fromkeys(("bernoulli", "bernoulli_chain", "bernoulli_vector"), BITS),
    **dict.fromkeys(("bandit", "chain", "gamble"), CHOICE),
    "categorical": f"{CHOICE} control_variates rebar relax",
    **dict.fromkeys(("beta", "gamma"), "control_variates pathwise score"),
    **dict.fromkeys(("gaussian_plane", "gaussian_space"), NORMAL),
    **dict.fromkeys(
        [f"gaussian_{name}" for name in ("cosine", "exponential", "quadratic", "quartic", "sum")],
        f"{NORMAL} measure_valued termwise_score",
    ),
    "conjugate_gaussian": f"{NORMAL} sticking_the_landing",
    "conjugate_mean_field": f"{NORMAL} blanket_score measure_valued sticking_the_landing",
    "poisson": "control_variates measure_valued score",
    "von_mises": "pathwise score",
    "maximum_likelihood": "control_variates measure_valued pathwise score",
    "infinite_horizon": "score",
    "lqr": "pathwise score",
    "short_corridor": "score",
}
"""The unbiased estimators that take each problem with a known gradient."""
PROBLEMS = list(FITTING)
ROLLED = "a long random trajectory, of which only the mean is known"
FOUR_DIGITS = "torch's implicit derivative is good to four digits"
BATCH = "all of a batch sits in its coefficients: tests/core/test_control_variates.py"
NOISES = "two noises a bit: tests/estimators/test_relaxed_controls.py and test_discrete.py"
NOT_HERE = {
    **dict.fromkeys([("infinite_horizon", "score"), ("lqr", "score"), ("lqr", "pathwise")], ROLLED),
    ("short_corridor", "score"): ROLLED,
    ("beta", "pathwise"): FOUR_DIGITS,
    ("gamma", "pathwise"): FOUR_DIGITS,
    ("von_mises", "pathwise"): "torch draws its angles by rejection, and knows its density to seven digits",
    ("von_mises", "score"): "torch knows its density to seven digits; tests/problems_/test_exact.py has the rest",
    **{(name, "control_variates"): BATCH for name in FITTING},
    **{(name, relaxed): NOISES for name in FITTING for relaxed in ("rebar", "relax")},
    ("conjugate_gaussian", "importance"): "five dimensions, and no polynomial",
    ("conjugate_gaussian", "multiple_importance"): "five dimensions, and no polynomial",
}
"""Why a pair is not integrated here."""


@dataclass(frozen=True)
class Pair:
    """A problem at its start, and an estimator without baseline."""

    name: str
    estimator: str

    @property
    def problem(self) -> Problem:
        return made(self.name)

    @property
    def theta(self) -> Parameters:
        return self.problem.parameters()

    @property
    def law(self) -> Distribution:
        return self.problem.expectation().law(self.theta)

    def rows(self, num_samples: int) -> Tensor:
        node = options("estimator")[self.estimator].node
        estimator = build(node, expects=GradientEstimator, baseline=Zero())
        found = estimator.estimate(
            self.problem.expectation(), self.theta, num_samples=num_samples, generator=torch.Generator()
        )
        assert found.per_sample is not None
        return found.per_sample

    def cost(self, x: Tensor) -> Tensor:
        return self.problem.expectation().cost(x).detach()

    def plain(self, x: Tensor) -> Tensor:
        """Returns f ∇log p of samples, apart from any estimator."""
        return self.cost(x)[:, None] * scores(self.problem, self.theta, x)

    def nodes(self) -> tuple[Tensor, Tensor]:
        if isinstance(self.problem, IntegratedProblem | MaximumLikelihood):
            return self.problem.nodes(self.theta)
        noise, weights = self.noise()
        return moved(self.law, noise), weights

    def noise(self) -> tuple[Tensor, Tensor]:
        size = self.law.event_shape.numel()
        return hermite_grid(size, {1: 80, 2: 30, 3: 24}.get(size, 6))


@cache
def made(name: str) -> Problem:
    node = {**options("problem")[name].node, **SMALLER.get(name, {})}
    problem = build(node, expects=Problem)
    assert isinstance(problem, Problem)
    return problem


def moved(law: Distribution, noise: Tensor) -> Tensor:
    """Returns Gaussian samples of noise `[M, D]`."""
    base = law.base_dist if isinstance(law, Independent) else law
    if hasattr(base, "scale_tril"):
        return base.loc + (base.scale_tril.tril() @ noise[..., None])[..., 0]
    return base.loc + base.scale * noise


def moments(rows: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    mean = weights @ rows
    return mean, weights @ (rows - mean).square()
