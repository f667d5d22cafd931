"""Gradients of single samples are made when they are read, of the very samples that the mean came from."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.distributions import (
    Dirichlet,
    Distribution,
    ExpTransform,
    Gamma,
    Independent,
    LowRankMultivariateNormal,
    MultivariateNormal,
    Normal,
    StudentT,
    TransformedDistribution,
    VonMises,
)

from pgkit.baselines.batch import LeaveOneOut
from pgkit.baselines.constant import Zero
from pgkit.core import chain, pathwise
from pgkit.errors import UsageError
from pgkit.estimators.pathwise import Pathwise
from pgkit.estimators.score import Score
from pgkit.types import Expectation, GradientEstimate, Parameters

pytestmark = pytest.mark.usefixtures("float64")

Law = Callable[[Parameters], Distribution]
GAUSSIANS: dict[str, Law] = {
    "diagonal": lambda t: Independent(Normal(t["a"], t["b"].exp()), 1),
    "factor": lambda t: MultivariateNormal(t["a"], scale_tril=t["c"]),
    "made_factor": lambda t: MultivariateNormal(t["a"], scale_tril=t["c"].tril(-1) + t["b"].exp().diag()),
    "covariance": lambda t: MultivariateNormal(t["a"], t["c"] @ t["c"].T),
    "precision": lambda t: MultivariateNormal(t["a"], precision_matrix=t["c"] @ t["c"].T),
}
LAWS: dict[str, Law] = {
    **GAUSSIANS,
    "low_rank": lambda t: LowRankMultivariateNormal(t["a"], t["c"], t["b"].exp()),
    "gamma": lambda t: Independent(Gamma(t["b"].exp(), t["a"].exp()), 1),
    "dirichlet": lambda t: Dirichlet(t["a"].exp()),
    "student": lambda t: Independent(StudentT(t["b"].exp() + 3, t["a"]), 1),
    "von_mises": lambda t: Independent(VonMises(t["a"], t["b"].exp()), 1),
    "transformed": lambda t: TransformedDistribution(Independent(Normal(t["a"], t["b"].exp()), 1), [ExpTransform()]),
}


def parameters() -> dict[str, Tensor]:
    """Returns two vectors, and a lower triangular matrix with a positive diagonal."""
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(3, 3, generator=generator)
    vectors = {name: torch.randn(3, generator=generator) / 2 for name in ("a", "b")}
    return {**vectors, "c": matrix.tril(-1) / 2 + matrix.diagonal().exp().diag()}


def cost(samples: Tensor) -> Tensor:
    """Returns a smooth cost that ties the coordinates together."""
    return samples.sin().sum(1) * samples[:, 0] + samples.prod(1).tanh()


def moved_cost(samples: Tensor, theta: Parameters) -> Tensor:
    """Returns a cost that moves with the parameters."""
    return cost(samples) * theta["a"].sum().exp()


def run(
    estimator: Pathwise | Score,
    law: Law,
    theta: Parameters,
    *,
    num_samples: int = 40,
    generator: torch.Generator | None = None,
) -> GradientEstimate:
    """Returns an estimate of a cost that moves with the parameters."""
    generator = torch.Generator().manual_seed(3) if generator is None else generator
    expectation = Expectation(cost=cost, law=law, direct_cost=moved_cost)
    return estimator.estimate(expectation, theta, num_samples=num_samples, generator=generator)


def rows_of(estimate: GradientEstimate) -> Tensor:
    """Returns the gradients of single samples, which there must be."""
    assert estimate.per_sample is not None
    return estimate.per_sample


def estimators(law: str) -> list[Pathwise | Score]:
    """Returns the estimators, with the antithetic ones where the law is symmetric."""
    symmetric = law not in ("gamma", "dirichlet", "transformed")
    plain: list[Pathwise | Score] = [Pathwise(baseline=Zero()), Score(baseline=Zero()), Score(baseline=LeaveOneOut())]
    paired = [Pathwise(baseline=Zero(), antithetic=True), Score(baseline=Zero(), antithetic=True)]
    return [*plain, *(paired if symmetric else [])]


@pytest.mark.parametrize("name", LAWS)
def test_the_mean_of_the_rows_is_the_mean_that_was_made_without_them(name: str) -> None:
    for estimator in estimators(name):
        estimate = run(estimator, LAWS[name], parameters())
        torch.testing.assert_close(rows_of(estimate).mean(0), estimate.mean, atol=1e-12, rtol=1e-12)


@pytest.mark.equivalence
@pytest.mark.parametrize("name", LAWS)
def test_rows_through_samples_are_the_gradients_of_one_sample_after_another(name: str) -> None:
    """Whatever closed form a law has: each sample of one draw is differentiated on its own, at the same seed."""
    leaves = {key: value.requires_grad_() for key, value in parameters().items()}
    drawn: list[Tensor] = []
    law = LAWS[name]

    def seen(samples: Tensor) -> Tensor:
        drawn.append(samples.detach())
        return cost(samples)

    estimate = Pathwise(baseline=Zero()).estimate(
        Expectation(cost=seen, law=law), parameters(), num_samples=12, generator=torch.Generator().manual_seed(5)
    )
    seed = int(torch.randint(2**62, (), generator=torch.Generator().manual_seed(5)))
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        # Nothing of a factor's upper triangle is a parameter of the law.
        lower = {**leaves, "c": leaves["c"].tril()} if name == "factor" else leaves
        moving = pathwise.rsample(law(lower), 12)
    torch.testing.assert_close(moving.detach(), drawn[0], atol=1e-12, rtol=1e-12)
    expected = [
        torch.autograd.grad(each, list(leaves.values()), retain_graph=True, materialize_grads=True)
        for each in cost(moving)
    ]
    rows = torch.stack([torch.cat([each.reshape(-1) for each in row]) for row in expected])
    torch.testing.assert_close(rows_of(estimate), rows, atol=1e-11, rtol=1e-11)


@pytest.mark.parametrize("name", LAWS)
def test_rows_are_those_of_the_call_though_the_parameters_moved_on(name: str) -> None:
    for estimator in estimators(name):
        generator, theta = torch.Generator().manual_seed(3), parameters()
        late = run(estimator, LAWS[name], theta, generator=generator)
        prompt = rows_of(run(estimator, LAWS[name], parameters()))
        for value in theta.values():
            value.mul_(1.5)
        generator.manual_seed(4)
        before, ours = torch.get_rng_state(), generator.get_state()
        torch.testing.assert_close(rows_of(late), prompt, atol=0, rtol=0)
        assert late.standard_error is not None
        assert torch.equal(torch.get_rng_state(), before) and torch.equal(generator.get_state(), ours)


@pytest.mark.parametrize("name", GAUSSIANS)
def test_blocks_of_any_size_make_the_same_rows(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for estimator in estimators(name):
        whole = rows_of(run(estimator, GAUSSIANS[name], parameters()))
        for numbers in (1, 7 * 15, 39 * 15):
            monkeypatch.setattr(chain, "BLOCK", numbers)
            torch.testing.assert_close(
                rows_of(run(estimator, GAUSSIANS[name], parameters())), whole, atol=1e-13, rtol=1e-13
            )
        monkeypatch.undo()


class Wilful(Normal):
    """A normal law with a generator of its own."""

    generator = torch.Generator()

    def rsample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008 - torch's own default
        shape = self._extended_shape(sample_shape)
        return self.loc + self.scale * torch.randn(shape, generator=self.generator, dtype=self.loc.dtype)


def test_a_law_that_does_not_follow_the_seed_has_a_mean_but_no_rows() -> None:
    estimate = run(Pathwise(baseline=Zero()), lambda t: Independent(Wilful(t["a"], t["b"].exp()), 1), parameters())
    assert estimate.mean[:6].all()
    with pytest.raises(UsageError, match=r"^law: draws other samples from the same seed, expected one that "):
        _ = estimate.per_sample


def test_a_cost_that_changes_its_samples_is_refused() -> None:
    expectation = Expectation(cost=lambda x: x.mul_(2).sum(1), law=GAUSSIANS["diagonal"])
    with pytest.raises(UsageError, match=r"^cost: changes its samples in place, expected one that leaves them as"):
        Pathwise(baseline=Zero()).estimate(
            expectation, parameters(), num_samples=5, generator=torch.Generator().manual_seed(0)
        )


def test_a_transformed_law_without_forward_derivatives_has_a_mean_but_no_rows() -> None:
    def law(theta: Parameters) -> Distribution:
        return TransformedDistribution(Independent(Gamma(theta["a"].exp(), 1.0), 1), [ExpTransform()])

    estimate = run(Pathwise(baseline=Zero()), law, parameters())
    assert estimate.mean[:3].all()
    with pytest.raises(UsageError, match=r"^per_sample: not known for a transformed law .*, expected estimator score"):
        _ = estimate.standard_error


def test_an_estimate_is_shown_without_its_rows() -> None:
    estimate = run(Score(baseline=Zero()), GAUSSIANS["factor"], parameters(), num_samples=1000)
    _ = estimate.per_sample
    assert len(repr(estimate)) < 1000
