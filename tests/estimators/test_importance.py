"""Gradients from samples of other laws: exact in the mean, honest about what a proposal cannot reach."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from unittest.mock import patch

import pytest
import torch
from torch import Tensor
from torch.distributions import (
    Beta,
    Categorical,
    Distribution,
    Exponential,
    Independent,
    MultivariateNormal,
    Normal,
    OneHotCategorical,
    Uniform,
)
from torch.distributions import kl_divergence as divergence

from pgkit.baselines.batch import LeaveOneOut
from pgkit.baselines.constant import Constant, Zero
from pgkit.baselines.optimal import Optimal, OptimalParameter
from pgkit.core import expectation as core
from pgkit.core import proposals
from pgkit.core.proposals import Defensive, log_density, widened
from pgkit.errors import UsageError
from pgkit.estimators.importance import Importance, MultipleImportance
from pgkit.protocols import GradientEstimator
from pgkit.types import Expectation, GradientEstimate
from tests.laws import bandit, exact_gradient, hermite, square

pytestmark = [pytest.mark.exact, pytest.mark.usefixtures("float64")]

OTHER = Categorical(probs=torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64))


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def of_batch(estimator: GradientEstimator, problem: object, drawn: Sequence[Tensor]) -> GradientEstimate:
    """Returns the estimate from samples of our choosing, those of each proposal in turn."""
    expectation, parameters = problem
    queue = iter(drawn)

    def next_batch(law: Distribution, num_samples: int, generator: torch.Generator) -> Tensor:
        return next(queue)

    with patch.object(core, "draw", next_batch), patch.object(Defensive, "draw", lambda self, n, g: next(queue)):
        size = sum(map(len, drawn))
        return estimator.estimate(expectation, parameters, num_samples=size, generator=seeded())


@pytest.mark.parametrize(
    "baseline",
    [Zero(), Constant(value=2.0), LeaveOneOut(), Optimal(), OptimalParameter()],
    ids=lambda b: type(b).__name__,
)
@pytest.mark.parametrize("defensive", [0.0, 0.3, 1.0])
def test_weighted_samples_of_a_proposal_give_the_gradient(baseline: object, defensive: float) -> None:
    problem = bandit()
    estimator = Importance(baseline=baseline, proposal=OTHER, defensive=defensive)
    chances = defensive * problem[0].law(problem[1]).probs + (1 - defensive) * OTHER.probs
    mean = torch.zeros(3)
    for batch in itertools.product(range(3), repeat=3):
        index = torch.tensor(batch)
        mean = mean + chances[index].prod() * of_batch(estimator, problem, [index]).mean
    assert estimator.unbiased
    torch.testing.assert_close(mean, exact_gradient(*problem), rtol=0, atol=1e-10)


@pytest.mark.parametrize("correction", ["self_normalised", "truncated", "power_mean"])
def test_corrected_weights_are_biased_and_say_so(correction: str) -> None:
    problem = bandit()
    estimator = Importance(baseline=Zero(), proposal=OTHER, defensive=0.0, correction=correction, limit=0.5)
    mean = torch.zeros(3)
    for batch in itertools.product(range(3), repeat=3):
        index = torch.tensor(batch)
        mean = mean + OTHER.probs[index].prod() * of_batch(estimator, problem, [index]).mean
    assert not estimator.unbiased
    assert (mean - exact_gradient(*problem)).norm() > 0.01


def test_a_gaussian_seen_through_another_by_quadrature() -> None:
    """Nodes of N(0.5, 2²) for x² under N(1, 1): mean 2 and, with weights in closed form, the variance of one sample."""
    problem, proposal = square(), Normal(torch.tensor(0.5), torch.tensor(2.0))
    nodes, weight = hermite(120)
    nodes = 0.5 + 2 * nodes
    estimator = Importance(baseline=Constant(value=4.0), proposal=proposal, defensive=0.0)
    found = of_batch(estimator, problem, [nodes]).per_sample
    mean = weight @ found
    torch.testing.assert_close(mean, torch.tensor([2.0, 2.0]), rtol=0, atol=1e-10)
    x = torch.linspace(-20, 20, 400_001)
    target, other = Normal(1.0, 1.0).log_prob(x).exp(), Normal(0.5, 2.0).log_prob(x).exp()
    second = (target.square() / other * ((x**2 - 4) * (x - 1)).square()).sum() * (x[1] - x[0])
    assert float(weight @ found[:, 0].square()) == pytest.approx(float(second), rel=1e-9)


@pytest.mark.parametrize("heuristic", ["balance", "power", "constant"])
@pytest.mark.parametrize("counts", [(1, 1), (2, 1), (2, 2)])
def test_several_proposals_give_the_gradient_by_enumeration(heuristic: str, counts: tuple[int, int]) -> None:
    problem, third = bandit(), torch.tensor([0.7, 0.2, 0.1])
    estimator = MultipleImportance(
        baseline=Constant(value=1.5), proposals=[OTHER, Categorical(probs=third)], heuristic=heuristic
    )
    mean = torch.zeros(3)
    for batch in itertools.product(range(3), repeat=sum(counts)):
        first, second = torch.tensor(batch).split(counts)
        chance = OTHER.probs[first].prod() * third[second].prod()
        mean = mean + chance * of_batch_without_probes(estimator, problem, [first, second]).mean
    torch.testing.assert_close(mean, exact_gradient(*problem), rtol=0, atol=1e-10)


def of_batch_without_probes(estimator: GradientEstimator, problem: object, drawn: Sequence[Tensor]) -> GradientEstimate:
    with patch.object(proposals, "draw", side_effect=AssertionError):  # an enumerable law is asked about every value
        return of_batch(estimator, problem, drawn)


def test_what_one_proposal_misses_another_may_cover() -> None:
    problem = bandit()
    halves = [Categorical(probs=torch.tensor(p).double()) for p in ([0.5, 0.5, 0.0], [0.0, 0.25, 0.75])]
    estimator = MultipleImportance(baseline=Zero(), proposals=halves)
    mean = torch.zeros(3)
    for a, b in itertools.product(range(2), range(1, 3)):
        chance = halves[0].probs[a] * halves[1].probs[b]
        mean = mean + chance * of_batch(estimator, problem, [torch.tensor([a]), torch.tensor([b])]).mean
    torch.testing.assert_close(mean, exact_gradient(*problem), rtol=0, atol=1e-10)
    for refused in (
        MultipleImportance(baseline=Zero(), proposals=halves, heuristic="constant"),
        MultipleImportance(baseline=Zero(), proposals=halves[:1]),
        Importance(baseline=Zero(), proposal=halves[0], defensive=0.0),
    ):
        with pytest.raises(UsageError, match=r"^proposal: no density where the law has some"):
            refused.estimate(*problem, num_samples=50, generator=seeded())


def test_a_bounded_proposal_of_an_unbounded_law_is_refused_unless_mixed() -> None:
    problem, narrow = square(), Uniform(torch.tensor(0.0), torch.tensor(2.0))
    with pytest.raises(UsageError, match="proposal: no density"):
        Importance(baseline=Zero(), proposal=narrow, defensive=0.0).estimate(
            *problem, num_samples=9, generator=seeded()
        )
    found = Importance(baseline=Zero(), proposal=narrow, defensive=0.5).estimate(
        *problem, num_samples=20_000, generator=seeded()
    )
    assert ((found.mean - 2).abs() < 4 * found.standard_error).all()


def test_samples_outside_the_laws_support_weigh_nothing() -> None:
    """An exponential law under a normal proposal, whose cost is not even defined below 0."""
    law = Expectation(cost=torch.sqrt, law=lambda p: Exponential(p["rate"]))
    rate = {"rate": torch.tensor(2.0)}
    estimator = Importance(baseline=Zero(), proposal=Normal(torch.tensor(0.5), torch.tensor(1.5)), defensive=0.2)
    found = estimator.estimate(law, rate, num_samples=40_000, generator=seeded())
    exact = -0.5 * torch.pi**0.5 / 2 * 2.0**-1.5  # E√x = √π / (2 √rate)
    assert found.per_sample.isfinite().all()
    assert abs(float(found.mean) - exact) < 4 * float(found.standard_error)


def test_a_wider_proposal_serves_rare_costs() -> None:
    """1[x > 4] under N(0, 1): what the law itself hardly ever sees."""
    law = Expectation(cost=lambda x: (x > 4).double(), law=lambda p: Normal(p["mean"], 1.0))
    parameters = {"mean": torch.tensor(0.0)}
    found = Importance(baseline=Zero(), proposal=Normal(torch.tensor(4.0), torch.tensor(1.0)), defensive=0.1).estimate(
        law, parameters, num_samples=5000, generator=seeded()
    )
    exact = float(Normal(0.0, 1.0).log_prob(torch.tensor(4.0)).exp())
    assert abs(float(found.mean) - exact) < 4 * float(found.standard_error)
    assert float(found.standard_error) < 0.05 * exact


def test_the_errors_are_those_seen_over_many_batches() -> None:
    """Ratio of the mean squared error bar to the variance of 200 estimates: within .35 of 1, over 3 deviations."""
    problem = square()
    for estimator in (
        Importance(baseline=Zero()),
        Importance(baseline=LeaveOneOut()),
        Importance(baseline=Zero(), correction="self_normalised"),
        MultipleImportance(baseline=Zero(), proposals=[Normal(1.0, 1.0), Normal(0.0, 3.0), Normal(3.0, 2.0)]),
    ):
        generator = seeded()
        found = [estimator.estimate(*problem, num_samples=100, generator=generator) for _ in range(200)]
        seen = torch.stack([each.mean for each in found]).var(dim=0)
        told = torch.stack([each.standard_error.square() for each in found]).mean(dim=0)
        assert ((told / seen - 1).abs() < 0.35).all(), type(estimator).__name__


def test_a_gradient_that_never_varies_has_no_error_once_normalised() -> None:
    law = Expectation(cost=torch.zeros_like, law=square()[0].law, direct_cost=lambda x, p: 3 * p["mean"] + 0 * x)
    found = Importance(baseline=Zero(), correction="self_normalised").estimate(
        law, square()[1], num_samples=50, generator=seeded()
    )
    torch.testing.assert_close(found.mean, torch.tensor([3.0, 0.0]))
    assert found.standard_error.max() < 1e-12


def test_the_weights_are_told() -> None:
    found = Importance(baseline=Zero()).estimate(*square(), num_samples=1000, generator=seeded())
    assert set(found.metrics) == {"weights/ess_fraction", "weights/largest_share", "weights/pareto_k"}
    assert 0.5 < found.metrics["weights/ess_fraction"] < 1
    lost = of_batch(Importance(baseline=Zero(), defensive=0.0, proposal=OTHER), _one_armed(), [torch.tensor([1, 2])])
    assert lost.mean.abs().max() == 0 and lost.metrics["weights/ess_fraction"] == 0.0


def _one_armed() -> object:
    law = Expectation(cost=lambda x: x + 1.0, law=lambda p: Categorical(probs=p["probs"]))
    return law, {"probs": torch.tensor([1.0, 0.0, 0.0])}


def test_weights_that_overflow_are_refused_and_corrections_take_them() -> None:
    law = Expectation(cost=torch.square, law=lambda p: Normal(p["mean"], 1e-3))
    problem, far = (law, {"mean": torch.tensor(0.0)}), Normal(torch.tensor(100.0), torch.tensor(1.0))
    hit = torch.tensor([0.0, 100.0])
    with pytest.raises(UsageError, match=r"^weights: e\^50\d\d overflows"):
        of_batch(Importance(baseline=Zero(), proposal=far, defensive=0.0), problem, [torch.zeros(1), hit])
    for correction in ("self_normalised", "truncated", "power_mean"):
        estimator = Importance(baseline=Zero(), proposal=far, defensive=0.0, correction=correction)
        assert of_batch(estimator, problem, [torch.zeros(1), hit]).mean.isfinite().all()


@pytest.mark.parametrize("baseline", [LeaveOneOut(), Optimal()], ids=lambda b: type(b).__name__)
def test_several_proposals_refuse_a_baseline_of_the_batch(baseline: object) -> None:
    with pytest.raises(UsageError, match=r"^baseline: \w+ with multiple_importance, expected zero, constant"):
        MultipleImportance(baseline=baseline)


def test_fewer_samples_than_proposals_are_refused() -> None:
    with pytest.raises(UsageError, match=r"^num_samples: 1, expected at least one for each of 2 proposals"):
        MultipleImportance(baseline=Zero()).estimate(*square(), num_samples=1, generator=seeded())


WIDER = [
    (Normal(torch.tensor(1.0), torch.tensor(2.0)), Normal(torch.tensor(1.0), torch.tensor(6.0))),
    (
        Independent(Normal(torch.zeros(2), torch.ones(2)), 1),
        Independent(Normal(torch.zeros(2), 3 * torch.ones(2)), 1),
    ),
    (
        MultivariateNormal(torch.zeros(2), scale_tril=torch.eye(2)),
        MultivariateNormal(torch.zeros(2), scale_tril=3 * torch.eye(2)),
    ),
    (
        MultivariateNormal(torch.zeros(2), covariance_matrix=torch.eye(2)),
        MultivariateNormal(torch.zeros(2), covariance_matrix=9 * torch.eye(2)),
    ),
    (Categorical(logits=torch.tensor([0.0, 3.0])), Categorical(logits=torch.tensor([0.0, 1.0]))),
    (
        Categorical(probs=torch.tensor([1.0, 8.0, 27.0]) / 36),
        Categorical(probs=torch.tensor([1.0, 2.0, 3.0]) / 6),
    ),
    (
        OneHotCategorical(probs=torch.tensor([1.0, 8.0, 27.0]) / 36),
        OneHotCategorical(probs=torch.tensor([1.0, 2.0, 3.0]) / 6),
    ),
    (
        torch.distributions.Bernoulli(probs=torch.tensor(8 / 9)),
        torch.distributions.Bernoulli(probs=torch.tensor(2 / 3)),
    ),
]


@pytest.mark.parametrize(("law", "expected"), WIDER, ids=lambda law: type(law).__name__)
def test_a_wider_copy_is_of_the_same_kind(law: Distribution, expected: Distribution) -> None:
    assert type(widened(law, 3.0)) is type(expected)
    assert float(divergence(widened(law, 3.0), expected)) == pytest.approx(0.0, abs=1e-6)


def test_a_law_without_scale_or_logits_has_no_wider_copy() -> None:
    with pytest.raises(UsageError, match=r"^proposal: none for Beta, whose scale is not an argument; expected a law$"):
        widened(Beta(torch.tensor(1.0), torch.tensor(2.0)), 2.0)


def test_a_density_outside_the_support_is_zero() -> None:
    found = log_density(Uniform(torch.tensor(0.0), torch.tensor(2.0)), torch.tensor([-1.0, 1.0, 3.0]))
    assert found.exp().tolist() == pytest.approx([0.0, 0.5, 0.0])
