"""Control variates on the score estimator: no bias, and no noise where the cost is in their span."""

from __future__ import annotations

import pytest
import torch
from torch.distributions import Cauchy, Normal, OneHotCategorical, VonMises

from pgkit.baselines.batch import LeaveOneOut
from pgkit.baselines.constant import Zero
from pgkit.errors import UsageError
from pgkit.estimate import estimate_gradient
from pgkit.estimators.control_variates import ControlVariates, Variates
from pgkit.estimators.score import Score
from pgkit.problems.horizon import InfiniteHorizon
from pgkit.types import Expectation
from tests.laws import bandit, batches, exact_gradient, given, square

pytestmark = [pytest.mark.exact, pytest.mark.usefixtures("float64")]


def test_a_square_is_differentiated_without_noise() -> None:
    law, parameters = square()
    found = estimate_gradient(law.cost, law.law, parameters, estimator="control_variates", num_samples=40)
    torch.testing.assert_close(found.mean, torch.tensor([2.0, 2.0]), rtol=0, atol=1e-10)
    assert found.standard_error.max() < 1e-10 and found.unbiased and not found.independent


@pytest.mark.parametrize("shared", [False, True])
def test_the_estimate_is_unbiased_over_all_batches(shared: bool) -> None:
    law, parameters = bandit()
    variates = Variates(function=lambda x: (x == 2).double()[:, None], mean=lambda p: p["logits"].softmax(dim=0)[2:])
    estimator = ControlVariates(baseline=Zero(), variates=variates, folds=2, shared=shared)
    drawn = [(given(estimator, law, parameters, x).mean, chance) for x, chance in batches(law, parameters, 6)]
    mean = sum(chance * each for each, chance in drawn)
    torch.testing.assert_close(mean, exact_gradient(law, parameters), rtol=0, atol=1e-10)


def test_every_order_more_takes_variance_away() -> None:
    """e^x under N(0, 1), 2000 samples; without a constant even the score estimator has more."""
    law = Expectation(cost=torch.exp, law=lambda p: Normal(p["mean"], 1.0))
    parameters = {"mean": torch.tensor(0.0)}
    x = torch.randn(2000, generator=torch.Generator().manual_seed(0))
    orders = [ControlVariates(baseline=Zero(), order=order) for order in (0, 1, 2)]
    found = [float(given(each, law, parameters, x).standard_error) for each in (Score(baseline=Zero()), *orders)]
    assert found[0] > 1.2 * found[1] and found[1] > 1.3 * found[2] and found[2] > 1.3 * found[3]


def test_the_error_is_that_seen_over_many_batches() -> None:
    """Ratio of the mean squared error bar to the variance of 300 estimates, within .3 of 1."""
    law, parameters = square()
    cost = Expectation(cost=torch.sin, law=law.law)
    generator = torch.Generator().manual_seed(0)
    estimator = ControlVariates(baseline=Zero(), order=1)
    found = [estimator.estimate(cost, parameters, num_samples=200, generator=generator) for _ in range(300)]
    seen = torch.stack([each.mean for each in found]).var(dim=0)
    told = torch.stack([each.standard_error.square() for each in found]).mean(dim=0)
    assert ((told / seen - 1).abs() < 0.3).all()


def test_laws_of_vectors_have_variates_of_every_coordinate() -> None:
    law = Expectation(
        cost=lambda x: x @ torch.tensor([1.0, 2.0, 4.0]), law=lambda p: OneHotCategorical(logits=p["logits"])
    )
    parameters = {"logits": torch.tensor([0.1, -0.4, 0.2])}
    found = ControlVariates(baseline=Zero(), order=1).estimate(
        law, parameters, num_samples=30, generator=torch.Generator().manual_seed(0)
    )
    p = parameters["logits"].softmax(dim=0)
    f = torch.tensor([1.0, 2.0, 4.0])
    torch.testing.assert_close(found.mean, p * (f - p @ f), rtol=0, atol=1e-8)


def test_a_law_without_moments_is_refused() -> None:
    law = Expectation(cost=torch.sin, law=lambda p: Cauchy(p["at"], 1.0))
    with pytest.raises(
        UsageError, match=r"control_variates of order 2 for Cauchy, whose moments are not known; expected"
    ):
        ControlVariates(baseline=Zero()).accepts(law, {"at": torch.tensor(0.0)})
    ControlVariates(baseline=Zero(), order=0).accepts(law, {"at": torch.tensor(0.0)})


def test_a_law_on_the_circle_is_refused_for_its_moments_are_not_those_of_the_angle() -> None:
    law = Expectation(cost=torch.cos, law=lambda p: VonMises(p["at"], 1.5))
    with pytest.raises(UsageError, match="for VonMises, whose moments are not known"):
        ControlVariates(baseline=Zero(), order=1).accepts(law, {"at": torch.tensor(0.7)})
    ControlVariates(baseline=Zero(), order=0).accepts(law, {"at": torch.tensor(0.7)})


def test_a_law_that_tells_no_moments_is_refused() -> None:
    problem = InfiniteHorizon()
    with pytest.raises(UsageError, match="for Trajectories, whose moments are not known"):
        ControlVariates(baseline=Zero()).accepts(problem.expectation(), problem.parameters())


def test_too_few_samples_are_refused_and_few_have_no_error() -> None:
    law, parameters = square()
    generator = torch.Generator().manual_seed(0)
    with pytest.raises(UsageError, match=r"^num_samples: 7, expected at least 8 to fit 3 variates$"):
        ControlVariates(baseline=Zero()).estimate(law, parameters, num_samples=7, generator=generator)
    found = ControlVariates(baseline=Zero()).estimate(law, parameters, num_samples=31, generator=generator)
    assert found.standard_error is None


def test_another_baseline_is_refused() -> None:
    with pytest.raises(UsageError, match=r"^baseline: LeaveOneOut, expected zero with ControlVariates$"):
        ControlVariates(baseline=LeaveOneOut())
