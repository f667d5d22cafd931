"""The pathwise estimator: exact mean and variance by quadrature, what it refuses, and where it loses."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import (
    Bernoulli,
    Categorical,
    Dirichlet,
    Distribution,
    ExpTransform,
    Gamma,
    Independent,
    Laplace,
    MixtureSameFamily,
    Normal,
    Poisson,
    TransformedDistribution,
    VonMises,
)

from pgkit.baselines.batch import LeaveOneOut, Mean
from pgkit.baselines.constant import Zero
from pgkit.errors import UsageError
from pgkit.estimate import estimate_gradient
from pgkit.estimators.pathwise import Pathwise
from pgkit.estimators.score import Score
from pgkit.protocols import Baseline
from pgkit.types import Expectation, GradientEstimate, Parameters
from tests.quadrature import hermite, moments, nodes_law

pytestmark = pytest.mark.usefixtures("float64")

Law = Callable[[Parameters], Distribution]


def standard(kind: type[Normal] = Normal) -> tuple[Law, dict[str, Tensor]]:
    """Returns N(μ, σ²) at μ = σ = 1."""
    return lambda theta: kind(theta["mu"], theta["sigma"]), {"mu": torch.tensor(1.0), "sigma": torch.tensor(1.0)}


def square(samples: Tensor) -> Tensor:
    return samples.square().flatten(1).sum(1) if samples.ndim > 1 else samples.square()


def run(
    cost: Callable[[Tensor], Tensor],
    law: Law,
    parameters: Parameters,
    num_samples: int,
    estimator: type[Pathwise] | type[Score] | Pathwise | Score = Pathwise,
    direct_cost: Callable[[Tensor, Parameters], Tensor] | None = None,
) -> GradientEstimate:
    made = estimator(baseline=Zero()) if isinstance(estimator, type) else estimator
    expectation = Expectation(cost=cost, law=law, direct_cost=direct_cost)
    return made.estimate(expectation, parameters, num_samples=num_samples, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("estimator", "variances"), [(Pathwise, (4.0, 12.0)), (Score, (30.0, 136.0))])
def test_the_golden_variances_of_a_square_are_met(
    estimator: type[Pathwise] | type[Score], variances: tuple[float, float]
) -> None:
    points, weights = hermite(20)
    law, parameters = standard(nodes_law(points))
    mean, variance = moments(run(square, law, parameters, len(points), estimator), weights)
    torch.testing.assert_close(mean, torch.tensor([2.0, 2.0]), atol=1e-10, rtol=0)
    torch.testing.assert_close(variance, torch.tensor(variances), atol=1e-10, rtol=0)


@pytest.mark.parametrize(("estimator", "variances"), [(Pathwise, (0.0, 8.0)), (Score, (8.0, 96.0))])
def test_antithetic_pairs_cancel_what_is_odd_and_keep_the_mean(
    estimator: type[Pathwise] | type[Score], variances: tuple[float, float]
) -> None:
    points, weights = hermite(20)
    law, parameters = standard(nodes_law(points))
    estimate = run(square, law, parameters, 2 * len(points), estimator(baseline=Zero(), antithetic=True))
    mean, variance = moments(estimate, weights)
    torch.testing.assert_close(mean, torch.tensor([2.0, 2.0]), atol=1e-10, rtol=0)
    # Pathwise: 2x is odd about the mean, so a pair has no variance; 2xε keeps 2ε². Score: (1 + ε)²ε keeps 2ε², and
    # (1 + ε)²(ε² − 1) keeps ε⁴ − 1, of variance E[ε⁸] − 9 = 96.
    torch.testing.assert_close(variance, torch.tensor(variances), atol=1e-10, rtol=0)


@pytest.mark.parametrize("baseline", [LeaveOneOut(), Mean()])
def test_a_baseline_made_of_other_samples_would_see_the_reflection(baseline: Baseline) -> None:
    with pytest.raises(
        UsageError, match=r"^estimator.antithetic: true with (LeaveOneOut|Mean), expected baseline zero, "
    ):
        Score(baseline=baseline, antithetic=True)
    with pytest.raises(UsageError, match=r"^estimator.antithetic: true with standardise"):
        Score(baseline=Zero(), antithetic=True, standardise=True)


@pytest.mark.statistical
def test_rows_of_antithetic_pairs_are_independent_so_that_the_error_is_honest() -> None:
    """The error of 400 estimates is met within 15 %, four standard errors of a deviation of 400 numbers."""
    law, parameters = standard()
    estimator = Pathwise(baseline=Zero(), antithetic=True)
    expectation = Expectation(cost=lambda x: x**3, law=law)
    generator = torch.Generator().manual_seed(1)
    several = [estimator.estimate(expectation, parameters, num_samples=64, generator=generator) for _ in range(400)]
    found = torch.stack([each.mean for each in several]).std(0)
    claimed = torch.stack([each.standard_error for each in several if each.standard_error is not None]).square()
    assert several[0].per_sample is not None and several[0].per_sample.shape == (32, 2)
    torch.testing.assert_close(claimed.mean(0).sqrt() / found, torch.ones(2), atol=0.15, rtol=0)


@pytest.mark.parametrize("dimension", [1, 10, 100, 1000])
def test_the_variance_of_a_lipschitz_cost_stays_under_its_bound_in_any_dimension(dimension: int) -> None:
    lipschitz, direction = 3.0, torch.arange(1.0, dimension + 1).sqrt()
    direction = direction / direction.norm()
    points, weights = hermite(40)
    kind = nodes_law(points[:, None] * direction)  # the cost sees nothing of the noise across its direction
    parameters = {"mu": 0.3 * direction}
    estimate = run(
        lambda x: lipschitz * (x @ direction).sin(),
        lambda theta: Independent(kind(theta["mu"], torch.ones(dimension)), 1),
        parameters,
        len(points),
    )
    variance = float(moments(estimate, weights)[1].sum())
    second = (1 + math.cos(0.6) * math.exp(-2)) / 2 - (math.cos(0.3) * math.exp(-0.5)) ** 2
    assert variance == pytest.approx(lipschitz**2 * second, abs=1e-10)
    assert variance < lipschitz**2


@pytest.mark.parametrize(("frequency", "pathwise_wins"), [(0.5, True), (1.0, True), (4.0, False), (10.0, False)])
def test_pathwise_loses_to_score_for_a_fast_cosine(frequency: float, pathwise_wins: bool) -> None:
    points, weights = hermite(200)
    law, parameters = standard(nodes_law(points))
    parameters = {"mu": parameters["mu"]}
    by = {
        kind: moments(
            run(lambda x: (frequency * x).cos(), lambda t: law({**t, "sigma": torch.ones(())}), parameters, 200, kind),
            weights,
        )
        for kind in (Pathwise, Score)
    }
    damping = math.exp(-(frequency**2) / 2)
    truth = -frequency * math.sin(frequency) * damping
    twice = math.cos(2 * frequency) * damping**4
    exact = {
        # E[k² sin²(kx)], and E[cos²(kx) ε²] with E[cos(2kx) ε²] = (1 − 4k²) Re E[exp(2ikx)].
        Pathwise: frequency**2 * (1 - twice) / 2 - truth**2,
        Score: (1 + (1 - 4 * frequency**2) * twice) / 2 - truth**2,
    }
    for kind, (mean, variance) in by.items():
        assert float(mean) == pytest.approx(truth, abs=1e-10)
        assert float(variance) == pytest.approx(exact[kind], abs=1e-9)
    assert (exact[Pathwise] < exact[Score]) == pathwise_wins


@pytest.mark.statistical
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("name", ["dirichlet", "gamma", "von_mises", "independent_von_mises", "log_normal", "laplace"])
def test_every_kind_of_law_gives_the_exact_gradient(name: str, biased: bool) -> None:
    """Means of 50,000 samples against quadrature or closed forms; each fails by chance 1 time in 10,000."""
    one, two = torch.tensor(1.5), torch.tensor(0.5)
    ratio = torch.special.i1(one) / torch.special.i0(one)
    cases: dict[str, tuple[Callable[[Tensor], Distribution], Tensor, Callable[[Tensor], Tensor], Tensor]] = {
        # E[x₁²] = a₁(a₁ + 1)/(s(s + 1)) with s = a₁ + a₂ + a₃.
        "dirichlet": (
            Dirichlet,
            torch.tensor([1.0, 2.0, 3.0]),
            lambda x: x[:, 0] ** 2,
            torch.func.grad(lambda a: a[0] * (a[0] + 1) / (a.sum() * (a.sum() + 1)))(torch.tensor([1.0, 2.0, 3.0])),
        ),
        "gamma": (lambda a: Gamma(a, 2.0), one, torch.square, (2 * one + 1) / 4),  # E[x²] = a(a + 1)/4
        "von_mises": (lambda k: VonMises(two, k), one, torch.cos, two.cos() * (1 - ratio / one - ratio**2)),
        "independent_von_mises": (
            lambda m: Independent(VonMises(m, torch.ones(2)), 1),
            torch.tensor([0.5, -2.0]),
            lambda x: x.cos().sum(1),
            -torch.tensor([0.5, -2.0]).sin() * torch.special.i1(torch.ones(())) / torch.special.i0(torch.ones(())),
        ),
        "log_normal": (
            # The cost of a law made of parts, which cannot be rebuilt from arguments: E[x] = exp(μ + ½σ²).
            lambda m: TransformedDistribution(Normal(m, 0.5), [ExpTransform()]),
            one,
            lambda x: x,
            (one + 0.125).exp(),
        ),
        "laplace": (lambda b: Laplace(0.0, b), one, torch.square, 4 * one),  # E[x²] = 2b²
    }
    law, parameters, cost, truth = cases[name]
    estimate = estimate_gradient(cost, law, parameters, estimator="pathwise", num_samples=50_000)
    assert estimate.standard_error is not None
    wrong = 1.1 if biased else 1.0
    z_score = ((estimate.mean * wrong - truth.reshape(-1)) / (wrong * estimate.standard_error)).abs().max()
    assert (float(z_score) < 4.3) != biased


def test_a_cost_that_moves_with_the_parameters_adds_its_own_gradient() -> None:
    points, weights = hermite(20)
    law, parameters = standard(nodes_law(points))
    scaled = run(
        square,
        law,
        parameters,
        len(points),
        direct_cost=lambda x, theta: square(x) * theta["sigma"] ** 3,
    )
    # ∂/∂σ of σ³(μ² + σ²) at 1, of which 3(μ² + σ²) is the direct part.
    torch.testing.assert_close(moments(scaled, weights)[0], torch.tensor([2.0, 8.0]), atol=1e-10, rtol=0)
    paired = run(
        square,
        law,
        parameters,
        2 * len(points),
        Pathwise(baseline=Zero(), antithetic=True),
        direct_cost=lambda x, theta: square(x) * theta["sigma"] ** 3,
    )
    torch.testing.assert_close(moments(paired, weights)[0], torch.tensor([2.0, 8.0]), atol=1e-10, rtol=0)


def test_common_random_numbers_lower_the_variance_of_a_difference() -> None:
    law, parameters = standard()
    moved = {**parameters, "mu": parameters["mu"] + 0.01}
    here, there = (run(square, law, each, 1000) for each in (parameters, moved))
    assert here.per_sample is not None and there.per_sample is not None
    difference = there.per_sample - here.per_sample
    assert float(difference[:, 0].var()) < 1e-20  # 2(μ + 0.01 + ε) − 2(μ + ε)
    assert float(difference[:, 1].var()) < 1e-3 * float(here.per_sample[:, 1].var())


@pytest.mark.parametrize(
    "law",
    [
        lambda t: Categorical(logits=t["a"]),
        lambda t: Poisson(t["a"].exp()[0]),
        lambda t: Independent(Bernoulli(logits=t["a"]), 1),
        lambda t: MixtureSameFamily(Categorical(logits=t["a"]), Normal(t["a"], 1.0)),
    ],
)
def test_a_law_without_a_path_is_refused_by_name(law: Law) -> None:
    expectation = Expectation(cost=square, law=law)
    kind = r"(Categorical|Poisson|Bernoulli|MixtureSameFamily)"
    with pytest.raises(UsageError, match=rf"^estimator: pathwise for {kind}, which is .*, expected score$"):
        Pathwise(baseline=Zero()).accepts(expectation, {"a": torch.zeros(3)})


@pytest.mark.parametrize(
    "cost",
    [
        lambda x: (x > 0).double(),
        lambda x: x.detach() ** 2,
        lambda x: x.round(),
        lambda x: torch.tensor(np.asarray(x) ** 2),
        lambda x: [float(each) for each in x],
        lambda x: torch.ones(len(x), requires_grad=True) * 2,
        torch.sign,
    ],
)
def test_a_cost_without_a_gradient_is_refused(cost: Callable[[Tensor], Tensor]) -> None:
    law, parameters = standard()
    with pytest.raises(UsageError, match=r"^cost: .*, expected a differentiable one; use estimator score or "):
        Pathwise(baseline=Zero()).accepts(Expectation(cost=cost, law=law), parameters)
    with pytest.raises(UsageError, match="differentiable"):
        run(cost, law, parameters, 100)


def test_a_fault_inside_a_cost_is_not_taken_for_a_missing_gradient() -> None:
    law, parameters = standard()
    with pytest.raises(RuntimeError, match="shape"):
        run(lambda x: x.reshape(7), law, parameters, 100)


def test_options_that_cannot_be_met_are_refused() -> None:
    law, parameters = standard()
    for kind in (Pathwise, Score):
        paired = kind(baseline=Zero(), antithetic=True)
        with pytest.raises(UsageError, match=r"^num_samples: 5, expected an even number"):
            run(square, law, parameters, 5, paired)
        with pytest.raises(UsageError, match=r"^estimator.antithetic: true for Gamma, expected one of"):
            run(square, lambda t: Gamma(t["mu"], t["sigma"]), parameters, 4, paired)
    with pytest.raises(UsageError, match=r"^baseline: LeaveOneOut, expected zero with Pathwise"):
        Pathwise(baseline=LeaveOneOut())


@pytest.mark.parametrize("kind", [Normal, VonMises])
@pytest.mark.parametrize("antithetic", [False, True])
def test_the_global_generator_is_left_as_it_was(kind: type[Normal], antithetic: bool) -> None:
    law, parameters = standard(kind)
    before = torch.get_rng_state()
    estimator = Pathwise(baseline=Zero(), antithetic=antithetic)
    estimator.accepts(Expectation(cost=square, law=law), parameters)
    run(square, law, parameters, 10, estimator)
    run(square, lambda t: TransformedDistribution(Normal(t["mu"], 0.5), [ExpTransform()]), parameters, 10)
    assert torch.equal(torch.get_rng_state(), before)
