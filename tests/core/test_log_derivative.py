"""E[∇log p] = 0, and ∇log p is the derivative of log p, for every law of torch that has a log_prob.

Means are sums over a support, double-exponential quadrature where x is one number, a grid where it is a vector: `kind`
says which for each law in `CASES`, and all hold to 1e-10 but VonMises, whose density torch knows to seven digits.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch import distributions as td

from pgkit.core import discrete, expectation
from pgkit.core.regularity import score_z
from pgkit.types import Expectation, Parameters
from tests.vector_nodes import NODES

pytestmark = pytest.mark.usefixtures("float64")

Kind = Literal["finite", "counts", "line", "half", "unit", "circle", "vector"]


@dataclass(frozen=True)
class Case:
    """A law, the range of each of its parameters, and where its samples lie: `start` shifts a half line or a kink."""

    law: Callable[[Parameters], td.Distribution]
    ranges: dict[str, tuple[float, float]]
    kind: Kind
    start: str | float = 0.0
    tolerance: float = 1e-10
    shape: tuple[int, ...] = ()


REAL, SCALE, SHAPE, CHANCE = (-2.0, 2.0), (0.3, 3.0), (1.5, 6.0), (0.05, 0.95)
COUNTS: tuple[tuple[int, ...], ...] = tuple((i, j, 3 - i - j) for i in range(4) for j in range(4 - i))


def lower(values: Tensor) -> Tensor:
    """Returns a Cholesky factor `[2, 2]` of three numbers."""
    zero = torch.zeros_like(values[0])
    return torch.stack([values[0].exp(), zero, values[1], values[2].exp()]).reshape(2, 2)


CASES: dict[str, Case] = {
    "Bernoulli": Case(lambda p: td.Bernoulli(logits=p["a"]), {"a": REAL}, "finite"),
    "Beta": Case(lambda p: td.Beta(p["a"], p["b"]), {"a": SHAPE, "b": SHAPE}, "unit"),
    "Binomial": Case(lambda p: td.Binomial(5, p["a"]), {"a": CHANCE}, "finite"),
    "Categorical": Case(lambda p: td.Categorical(logits=p["a"]), {"a": REAL}, "finite", shape=(3,)),
    "Cauchy": Case(lambda p: td.Cauchy(p["a"], p["b"]), {"a": REAL, "b": SCALE}, "line", "a"),
    "Chi2": Case(lambda p: td.Chi2(p["a"]), {"a": (2.0, 8.0)}, "half"),
    "ContinuousBernoulli": Case(lambda p: td.ContinuousBernoulli(logits=p["a"]), {"a": (0.5, 2.0)}, "unit"),
    "Dirichlet": Case(lambda p: td.Dirichlet(p["a"]), {"a": SHAPE}, "vector", shape=(3,)),
    "Exponential": Case(lambda p: td.Exponential(p["a"]), {"a": SCALE}, "half"),
    "FisherSnedecor": Case(lambda p: td.FisherSnedecor(p["a"], p["b"]), {"a": SHAPE, "b": SHAPE}, "half"),
    "Gamma": Case(lambda p: td.Gamma(p["a"], p["b"]), {"a": (0.8, 4.0), "b": SCALE}, "half"),
    "GeneralizedPareto": Case(
        lambda p: td.GeneralizedPareto(torch.tensor(0.0), p["b"], p["c"]), {"b": SCALE, "c": (0.1, 0.8)}, "half"
    ),
    "Geometric": Case(lambda p: td.Geometric(p["a"]), {"a": (0.1, 0.9)}, "counts"),
    "Gumbel": Case(lambda p: td.Gumbel(p["a"], p["b"]), {"a": REAL, "b": SCALE}, "line", "a"),
    "HalfCauchy": Case(lambda p: td.HalfCauchy(p["a"]), {"a": SCALE}, "half"),
    "HalfNormal": Case(lambda p: td.HalfNormal(p["a"]), {"a": SCALE}, "half"),
    "Independent": Case(
        lambda p: td.Independent(td.Normal(p["a"], p["b"]), 1), {"a": REAL, "b": SCALE}, "vector", shape=(2,)
    ),
    "InverseGamma": Case(lambda p: td.InverseGamma(p["a"], p["b"]), {"a": SHAPE, "b": SCALE}, "half"),
    "Kumaraswamy": Case(lambda p: td.Kumaraswamy(p["a"], p["b"]), {"a": SHAPE, "b": SHAPE}, "unit"),
    "LKJCholesky": Case(lambda p: td.LKJCholesky(2, p["a"]), {"a": SHAPE}, "vector"),
    "Laplace": Case(lambda p: td.Laplace(p["a"], p["b"]), {"a": REAL, "b": SCALE}, "line", "a"),
    "LogNormal": Case(lambda p: td.LogNormal(p["a"], p["b"]), {"a": REAL, "b": SCALE}, "half"),
    "LogisticNormal": Case(
        lambda p: td.LogisticNormal(p["a"], p["b"]), {"a": (-1.0, 1.0), "b": (0.5, 1.5)}, "vector", shape=(2,)
    ),
    "LowRankMultivariateNormal": Case(
        lambda p: td.LowRankMultivariateNormal(p["a"], p["b"][:, None], p["c"]),
        {"a": REAL, "b": REAL, "c": SCALE},
        "vector",
        shape=(3,),
    ),
    "MixtureSameFamily": Case(
        lambda p: td.MixtureSameFamily(td.Categorical(logits=p["a"]), td.Normal(p["b"], p["c"])),
        {"a": REAL, "b": REAL, "c": SCALE},
        "line",
        shape=(2,),
    ),
    "Multinomial": Case(lambda p: td.Multinomial(3, logits=p["a"]), {"a": REAL}, "finite", shape=(3,)),
    "MultivariateNormal": Case(
        lambda p: td.MultivariateNormal(p["a"][:2], scale_tril=lower(p["b"])),
        {"a": REAL, "b": (-1.0, 1.0)},
        "vector",
        shape=(3,),
    ),
    "NegativeBinomial": Case(lambda p: td.NegativeBinomial(p["a"], p["b"]), {"a": SHAPE, "b": (0.1, 0.8)}, "counts"),
    "Normal": Case(lambda p: td.Normal(p["a"], p["b"]), {"a": REAL, "b": SCALE}, "line", "a"),
    "OneHotCategorical": Case(lambda p: td.OneHotCategorical(logits=p["a"]), {"a": REAL}, "finite", shape=(3,)),
    "OneHotCategoricalStraightThrough": Case(
        lambda p: td.OneHotCategoricalStraightThrough(probs=p["a"].softmax(0)), {"a": REAL}, "finite", shape=(3,)
    ),
    "Pareto": Case(lambda p: td.Pareto(torch.tensor(1.5), p["a"]), {"a": SHAPE}, "half", 1.5),
    "Poisson": Case(lambda p: td.Poisson(p["a"]), {"a": (0.3, 20.0)}, "counts"),
    "RelaxedBernoulli": Case(
        lambda p: td.RelaxedBernoulli(p["a"], logits=p["b"]), {"a": (0.9, 2.0), "b": REAL}, "unit"
    ),
    "RelaxedOneHotCategorical": Case(
        lambda p: td.RelaxedOneHotCategorical(torch.tensor(1.5), logits=p["a"]), {"a": REAL}, "vector", shape=(3,)
    ),
    "StudentT": Case(
        lambda p: td.StudentT(p["a"], p["b"], p["c"]), {"a": SHAPE, "b": REAL, "c": SCALE}, "line", "b"
    ),
    "TransformedDistribution": Case(
        lambda p: td.TransformedDistribution(td.Normal(p["a"], p["b"]), [td.transforms.ExpTransform()]),
        {"a": REAL, "b": SCALE},
        "half",
    ),
    # Torch's Bessel functions are good to seven digits.
    "VonMises": Case(lambda p: td.VonMises(p["a"], p["b"]), {"a": REAL, "b": SCALE}, "circle", tolerance=1e-6),
    "Weibull": Case(lambda p: td.Weibull(p["a"], p["b"]), {"a": SCALE, "b": SHAPE}, "half"),
    "Wishart": Case(
        lambda p: td.Wishart(torch.tensor(4.0), scale_tril=lower(p["a"])), {"a": (-1.0, 1.0)}, "vector", shape=(3,)
    ),
}  # fmt: skip
NOT_HERE = {"Distribution": "abstract", "ExponentialFamily": "abstract", "Uniform": "every argument moves its support"}


def parameters_of(case: Case, draw: Callable[[str, float, float], float]) -> Parameters:
    count = math.prod(case.shape)
    return {
        name: torch.tensor([draw(f"{name}{i}", *bounds) for i in range(count)]).reshape(case.shape)
        for name, bounds in case.ranges.items()
    }


def quadrature(case: Case, theta: Parameters) -> tuple[Tensor, Tensor]:
    """Returns nodes and weights over the samples of a law of one number."""
    law = case.law(theta)
    if case.kind == "finite":
        values = torch.tensor(COUNTS).double() if isinstance(law, td.Multinomial) else discrete.support(law, 100)
        return values, torch.ones(len(values))
    if case.kind == "counts":
        return torch.arange(500.0), torch.ones(500)
    if case.kind == "circle":
        return -math.pi + 2 * math.pi * torch.arange(400) / 400, torch.full((400,), 2 * math.pi / 400)
    step = 0.02
    t = torch.arange(-4.2, 4.2, step)
    if case.kind == "unit":
        logit = math.pi * t.sinh()
        nodes = logit.sigmoid()
        weights = nodes * (-logit).sigmoid() * math.pi * t.cosh() * step
        inside = (nodes > 1e-300) & (nodes < 1 - 1e-16)
        return nodes[inside], weights[inside]
    start = theta[case.start] if isinstance(case.start, str) else torch.tensor(case.start)
    away = (math.pi / 2 * t.sinh()).exp()
    weights = away * math.pi / 2 * t.cosh() * step
    inside = start + away > start
    if case.kind == "half":
        return (start + away)[inside], weights[inside]
    return torch.cat([start - away, start + away]), torch.cat([weights, weights])


def scores_of(case: Case, theta: Parameters, samples: Tensor) -> Tensor:
    return expectation.scores(Expectation(cost=torch.square, law=case.law), theta, samples)


def derivative(value: Callable[[Parameters], float], theta: Parameters) -> Tensor:
    """Returns the gradient `[P]` by central differences of eighth order, whose error is of the order of step⁸."""
    step, found = 0.004, []
    for key, at in theta.items():
        for index in range(at.numel()):
            nudge = torch.zeros(at.numel()).index_fill(0, torch.tensor(index), step).reshape(at.shape)
            total = 0.0
            for reach, share in ((1, 4 / 5), (2, -1 / 5), (3, 4 / 105), (4, -1 / 280)):
                ahead, behind = (value({**theta, key: at + sign * reach * nudge}) for sign in (1, -1))
                total += share * (ahead - behind)
            found.append(total / step)
    return torch.tensor(found)


def test_no_law_of_torch_is_left_out() -> None:
    every = {
        name
        for name in td.__all__
        if inspect.isclass(getattr(td, name)) and issubclass(getattr(td, name), td.Distribution)
    }
    assert every == set(CASES) | set(NOT_HERE)


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.kind != "vector"])
@settings(max_examples=8, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_the_mean_score_is_zero(name: str, data: st.DataObject) -> None:
    case = CASES[name]
    theta = parameters_of(case, lambda label, low, high: data.draw(st.floats(low, high), label=label))
    nodes, weights = quadrature(case, theta)
    with torch.no_grad():
        chances = case.law(theta).log_prob(nodes).exp() * weights
    scores = torch.where(chances[:, None] > 0, scores_of(case, theta, nodes), 0.0)
    assert float(chances.sum()) == pytest.approx(1, abs=case.tolerance)
    assert scores.shape == (len(nodes), sum(value.numel() for value in theta.values()))
    largest = float((chances @ scores.abs()).max())
    assert float((chances @ scores).abs().max()) < case.tolerance * max(largest, 1.0)
    assert largest > 1e-6


@pytest.mark.exact
@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.kind == "vector"])
def test_the_mean_score_of_vectors_is_zero_and_its_product_with_a_cost_the_gradient(name: str) -> None:
    """E[s] = 0 and E[f s] = ∇E[f] for f = x₁ + x₂² of the last two coordinates."""
    case, generator = CASES[name], torch.Generator().manual_seed(11)
    theta = parameters_of(
        case, lambda label, low, high: float(torch.empty(()).uniform_(low, high, generator=generator))
    )
    nodes, weights = NODES[name](case.law(theta))

    def chances(at: Parameters) -> Tensor:
        law = case.law(at)
        law._validate_args = False  # at the far ends rounding leaves no interior
        return torch.where(weights > 0, law.log_prob(nodes).exp() * weights, 0.0).nan_to_num(0.0)

    own = chances(theta)
    known = own > 0
    own, flat = own[known], nodes[known].reshape(int(known.sum()), -1)
    assert float(own.sum()) == pytest.approx(1, abs=1e-10)
    scores = scores_of(case, theta, nodes[known])
    largest = float((own @ scores.abs()).max())
    assert float((own @ scores).abs().max()) < 1e-10 * max(largest, 1.0)
    assert largest > 1e-3
    cost = flat[:, -2] + flat[:, -1].square()
    expected = derivative(lambda at: float(chances(at)[known] @ cost), theta)
    torch.testing.assert_close((own * cost) @ scores, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.exact
@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.kind != "vector"])
def test_the_mean_product_of_score_and_cost_is_the_gradient(name: str) -> None:
    """E[f s] = ∇E[f] for f = (x + x²) / (4 + x²), a cost whose mean exists under heavy tails too."""
    case, generator = CASES[name], torch.Generator().manual_seed(7)
    theta = parameters_of(
        case, lambda label, low, high: float(torch.empty(()).uniform_(low, high, generator=generator))
    )

    def cost(nodes: Tensor) -> Tensor:
        x = nodes.reshape(len(nodes), -1).double() @ torch.arange(1.0, nodes[0].numel() + 1)
        return (x + x.square()) / (4 + x.square())

    def integrand(at: Parameters) -> tuple[Tensor, Tensor]:
        nodes, weights = quadrature(case, at)
        with torch.no_grad():
            return nodes, case.law(at).log_prob(nodes).exp() * weights * cost(nodes)

    nodes, products = integrand(theta)
    scores = torch.where(products[:, None] != 0, scores_of(case, theta, nodes), 0.0)
    expected = derivative(lambda at: float(integrand(at)[1].sum()), theta)
    torch.testing.assert_close(products @ scores, expected, rtol=case.tolerance, atol=case.tolerance)
    assert float(expected.abs().max()) > 1e-3


@pytest.mark.parametrize("name", CASES)
@settings(max_examples=5, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_scores_are_finite_differences_of_the_log_density(name: str, data: st.DataObject) -> None:
    case = CASES[name]
    theta = parameters_of(case, lambda label, low, high: data.draw(st.floats(low, high), label=label))
    samples = expectation.draw(case.law(theta), 4, torch.Generator().manual_seed(data.draw(st.integers(0, 99))))
    found, step, columns = scores_of(case, theta, samples), 1e-5, []
    with torch.no_grad():
        for key, value in theta.items():
            for index in range(value.numel()):
                nudge = torch.zeros(value.numel()).index_fill(0, torch.tensor(index), step).reshape(value.shape)
                above, below = (case.law({**theta, key: value + sign * nudge}).log_prob(samples) for sign in (1, -1))
                columns.append((above - below) / (2 * step))
    torch.testing.assert_close(found, torch.stack(columns, dim=1), rtol=1e-5, atol=1e-6)


@pytest.mark.statistical
def test_the_mean_score_tells_that_torch_samples_another_lkj_law_than_it_scores() -> None:
    """From three dimensions on; z of 20,000 samples. The onion method with rows of Beta(k / 2, ·), as its source says,
    samples the law that is scored: torch has k − ½ in place of k / 2."""
    theta, generator = {"a": torch.tensor(2.0)}, torch.Generator().manual_seed(0)
    case = Case(lambda p: td.LKJCholesky(3, p["a"]), {}, "vector")
    group = {"all": slice(0, 1)}
    by_torch = expectation.draw(case.law(theta), 20_000, generator)
    with expectation.seeded_by(generator):
        row = torch.arange(1.0, 3.0)
        radius = td.Beta(row / 2, theta["a"] + (2 - row) / 2).sample((20_000,)).sqrt()
        angle = torch.rand(20_000) * 2 * math.pi
        sign = torch.randn(20_000).sign()
    by_onion = torch.zeros(20_000, 3, 3)
    by_onion[:, 0, 0] = 1
    by_onion[:, 1, 0], by_onion[:, 1, 1] = radius[:, 0] * sign, (1 - radius[:, 0] ** 2).sqrt()
    by_onion[:, 2, 0], by_onion[:, 2, 1] = radius[:, 1] * angle.cos(), radius[:, 1] * angle.sin()
    by_onion[:, 2, 2] = (1 - radius[:, 1] ** 2).sqrt()
    wrong, right = (score_z(scores_of(case, theta, each), group)["all"] for each in (by_torch, by_onion))
    assert wrong is not None and wrong > 10
    assert right is not None and right < 4.5


def test_a_uniform_has_a_score_of_another_mean() -> None:
    """The law left out above: its score is −1/(b − a) whatever x, as the page on regularity says."""
    theta = {"a": torch.tensor(0.5), "b": torch.tensor(2.5)}
    problem = Expectation(cost=torch.square, law=lambda p: td.Uniform(p["a"], p["b"]))
    scores = expectation.scores(problem, theta, torch.tensor([0.7, 1.9]))
    torch.testing.assert_close(scores, torch.tensor([[0.5, -0.5]] * 2))
