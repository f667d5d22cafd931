"""Supports that move are found by their bounds, scores without mean zero by their z."""

from __future__ import annotations

import math
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.distributions import (
    Beta,
    Binomial,
    Categorical,
    Dirichlet,
    Distribution,
    Exponential,
    GeneralizedPareto,
    Independent,
    Kumaraswamy,
    MixtureSameFamily,
    MultivariateNormal,
    Normal,
    Pareto,
    TransformedDistribution,
    Uniform,
)
from torch.distributions.transforms import (
    AffineTransform,
    ComposeTransform,
    ExpTransform,
    SoftmaxTransform,
    TanhTransform,
    Transform,
)

from pgkit.core import expectation
from pgkit.core.regularity import moving_bounds, score_z
from pgkit.errors import UsageError
from pgkit.estimate import estimate_gradient
from pgkit.types import Expectation, Parameters

pytestmark = pytest.mark.usefixtures("float64")

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "regularity.md").read_text(encoding="utf-8")
Law = Callable[[Parameters], Distribution]


def unit() -> Distribution:
    return Uniform(torch.tensor(0.0), torch.tensor(1.0))


def shifted(law: Distribution, transform: Transform) -> Distribution:
    return TransformedDistribution(law, [transform])


def affine(theta: Parameters) -> AffineTransform:
    return AffineTransform(theta["a"], theta["b"])


def found(law: Law) -> tuple[str, ...]:
    theta = {"a": torch.tensor(0.5), "b": torch.tensor(1.5)}
    return moving_bounds(Expectation(cost=torch.square, law=law), theta)


MOVING: dict[str, tuple[Law, tuple[str, ...]]] = {
    "uniform": (lambda p: Uniform(p["a"], p["b"]), ("a", "b")),
    "uniform above": (lambda p: Uniform(0.0, p["b"]), ("b",)),
    "independent uniforms": (lambda p: Independent(Uniform(p["a"].expand(3), 2.0), 1), ("a",)),
    "pareto": (lambda p: Pareto(p["a"], p["b"]), ("a",)),
    "generalised pareto": (lambda p: GeneralizedPareto(p["a"], p["b"], torch.tensor(0.1)), ("a",)),
    "generalised pareto with an end": (lambda p: GeneralizedPareto(0.0, p["b"], torch.tensor(-0.1)), ("b",)),
    "mixture": (lambda p: MixtureSameFamily(Categorical(torch.ones(2)), Uniform(0.0, p["b"].expand(2))), ("b",)),
    "shifted uniform": (lambda p: TransformedDistribution(unit(), [affine(p)]), ("a", "b")),
    "scaled beta": (lambda p: TransformedDistribution(Beta(p["a"], 2.0), [AffineTransform(0.0, p["b"])]), ("b",)),
    "shifted exponential": (lambda p: shifted(Exponential(p["a"]), AffineTransform(p["b"], 1.0)), ("b",)),
    "scaled tanh": (
        lambda p: TransformedDistribution(Normal(p["a"], 1.0), [TanhTransform(), AffineTransform(0.0, p["b"])]),
        ("b",),
    ),
    "twice transformed": (
        lambda p: TransformedDistribution(TransformedDistribution(unit(), [affine(p)]), [ExpTransform()]),
        ("a", "b"),
    ),
    "composed": (lambda p: shifted(unit(), ComposeTransform([affine(p), ExpTransform()])), ("a", "b")),
    "many at once": (
        lambda p: TransformedDistribution(
            Independent(Uniform(torch.zeros(3), torch.ones(3)), 1), [AffineTransform(p["a"], p["b"], event_dim=1)]
        ),
        ("a", "b"),
    ),
}
STILL: dict[str, Law] = {
    "uniform between numbers": lambda p: Uniform(0.0, 1.0),
    "uniform between tensors": lambda p: unit(),
    "pareto from a number": lambda p: Pareto(torch.tensor(1.0), p["b"]),
    "normal": lambda p: Normal(p["a"], p["b"]),
    "multivariate normal": lambda p: MultivariateNormal(p["a"].expand(2), p["b"] * torch.eye(2)),
    "shifted normal": lambda p: TransformedDistribution(Normal(0.0, 1.0), [affine(p)]),
    "tanh of a shifted normal": lambda p: TransformedDistribution(Normal(0.0, 1.0), [affine(p), TanhTransform()]),
    "beta on a fixed interval": lambda p: TransformedDistribution(Beta(p["a"], p["b"]), [AffineTransform(2.0, 3.0)]),
    "kumaraswamy": lambda p: Kumaraswamy(p["a"], p["b"]),
    "dirichlet": lambda p: Dirichlet(torch.stack([p["a"], p["b"]])),
    "binomial": lambda p: Binomial(4, p["a"]),
    "mixture": lambda p: MixtureSameFamily(Categorical(torch.ones(2)), Normal(p["a"].expand(2), p["b"])),
    "softmax": lambda p: TransformedDistribution(
        Independent(Normal(p["a"].expand(2), p["b"]), 1), [SoftmaxTransform()]
    ),
}


@pytest.mark.parametrize("name", MOVING)
def test_supports_that_move_name_what_moves_them(name: str) -> None:
    law, names = MOVING[name]
    assert found(law) == names


@pytest.mark.parametrize("name", STILL)
def test_supports_that_stand_still_are_let_through(name: str) -> None:
    assert found(STILL[name]) == ()


@pytest.mark.parametrize("name", ["score", "termwise_score"])
def test_the_score_function_refuses_by_name_what_the_page_shows(name: str) -> None:
    def law(theta: Parameters) -> Distribution:
        return (
            Independent(Uniform(0.0, theta["width"].expand(1)), 1) if name != "score" else Uniform(0.0, theta["width"])
        )

    with pytest.raises(UsageError) as caught:
        estimate_gradient(lambda x: x, law, {"width": torch.tensor(2.0)}, estimator=name)
    message = str(caught.value)
    assert re.match(
        rf"estimator: {name} for \w+, whose support moves with width, where it is silently wrong; ", message
    )
    assert name != "score" or message in PAGE


def test_the_numbers_of_the_uniform_on_the_page() -> None:
    """Score: −0.5 where 0.5 is right, which the moving bound accounts for and the pathwise estimator gives."""
    width = torch.tensor(2.0)
    problem = Expectation(cost=lambda x: x, law=lambda theta: Uniform(0.0, theta["width"]))
    # Midpoints: the mean of a linear function is exact.
    samples = (torch.arange(1000) + 0.5) / 1000 * width
    scores = expectation.scores(problem, {"width": width}, samples)
    wrong = float((samples[:, None] * scores).mean())
    assert wrong == pytest.approx(-0.5, abs=1e-12)
    boundary = float(width * Uniform(0.0, width).log_prob(width - 1e-15).exp())
    assert wrong + boundary == pytest.approx(0.5, abs=1e-12)
    assert score_z(scores, {"width": slice(0, 1)}) == {"width": math.inf}
    found = estimate_gradient(lambda x: x, lambda p: Uniform(0.0, p), width, estimator="pathwise", num_samples=20_000)
    # Statistical: ten standard errors.
    assert float(found.mean) == pytest.approx(0.5, abs=10 * float(found.standard_error))
    assert "**0.5**" in PAGE and "**−0.5**" in PAGE


def test_the_numbers_of_the_clipped_normal_on_the_page() -> None:
    """By quadrature of the normal density inside, and its tails at the ends."""
    import numpy as np

    mean = 0.5
    points, weights = (torch.as_tensor(each) for each in np.polynomial.legendre.leggauss(60))
    normal = Normal(mean, 1.0)
    inside = weights * normal.log_prob(points).exp()
    ends = torch.tensor([-1.0, 1.0])
    mass = torch.stack([normal.cdf(ends[0]), 1 - normal.cdf(ends[1])])

    def clipped(function: Callable[[Tensor], Tensor]) -> float:
        return float(inside @ function(points) + mass @ function(ends))

    right = float(normal.cdf(ends[1]) - normal.cdf(ends[0]))
    assert f"**{right:.4f}**" in PAGE
    assert f"**{clipped(lambda x: x * (x - mean)):.4f}**" in PAGE
    assert f"{clipped(lambda x: x - mean):.4f}".replace("-", "−") in PAGE
    assert float(inside.sum()) == pytest.approx(right, abs=1e-12)
    # Clipped in the cost: inside x (x − m), outside ±1 times the tail means of the score.
    density = normal.log_prob(ends).exp()
    in_the_cost = float(inside @ (points * (points - mean)) + ends @ (ends.sign() * density))
    assert in_the_cost == pytest.approx(right, abs=1e-12)


def test_the_check_of_the_page_tells_the_two_apart() -> None:
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    normal, clipped = (float(line.partition("'mean': ")[2].rstrip("}")) for line in result.stdout.splitlines())
    assert normal < 4 and clipped > 20


@pytest.mark.parametrize("count", [1, 2, 10])
@pytest.mark.parametrize("largest", [0.3, 2.5, 6.0, 60.0])
def test_z_is_corrected_for_the_size_of_its_group(count: int, largest: float) -> None:
    """The tail of the result is `count` times that of the largest."""
    samples = torch.zeros(100, count)
    samples[:, 0] = torch.linspace(-1, 1, 100)
    samples[:, 0] += largest * samples[:, 0].std() / 10
    if count > 1:
        samples[::2, 1:], samples[1::2, 1:] = 1.0, -1.0
    (z,) = score_z(samples, {"all": slice(0, count)}).values()
    assert z is not None

    def log_tail(value: float) -> float:
        return float(torch.special.log_ndtr(torch.tensor(-value)))

    asked = log_tail(largest) + math.log(count)
    if asked >= math.log(0.5):
        assert z == 0
    else:
        assert log_tail(z) == pytest.approx(asked, rel=1e-9)
    assert z <= largest + 1e-9


def test_z_without_an_answer_or_an_error_bar() -> None:
    assert score_z(torch.ones(1, 2), {"all": slice(0, 2)}) == {"all": None}
    assert score_z(torch.zeros(5, 2), {"all": slice(0, 2)}) == {"all": 0.0}
    assert score_z(torch.ones(5, 2), {"all": slice(0, 2)}) == {"all": math.inf}


@pytest.mark.statistical
def test_z_of_true_scores_alarms_no_more_often_than_it_says() -> None:
    """600 batches of 5 correlated coordinates: z over 1.96 in at most 5 %, plus 4 standard errors of that count; scores
    with a mean of a tenth of their deviation are found in most."""
    generator = torch.Generator().manual_seed(5)
    alarms, missed = 0, 0
    for _ in range(600):
        scores = torch.randn(1000, 5, generator=generator) @ (torch.eye(5) + 0.5)
        alarms += score_z(scores, {"all": slice(0, 5)})["all"] > 1.96
        missed += score_z(scores + 0.15 * scores.std(), {"all": slice(0, 5)})["all"] < 1.96
    assert alarms <= 600 * 0.05 + 4 * math.sqrt(600 * 0.05 * 0.95)
    assert missed < 60


@settings(max_examples=25, deadline=None)
@given(st.floats(-3, 3), st.floats(0.1, 3))
def test_a_shifted_uniform_moves_at_every_location_and_scale(location: float, scale: float) -> None:
    theta = {"a": torch.tensor(location), "b": torch.tensor(scale)}
    law = Expectation(cost=torch.square, law=lambda p: TransformedDistribution(unit(), [affine(p)]))
    assert moving_bounds(law, theta) == ("a", "b")
