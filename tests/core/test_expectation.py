"""Per-sample gradients reach the parameters by the chain rule, and their error bars are those of the sample."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch.distributions import Distribution, Independent, MultivariateNormal, Normal, StudentT

from pgkit.core import expectation as core
from pgkit.core.arguments import repeated
from pgkit.types import Expectation, Parameters

pytestmark = pytest.mark.usefixtures("float64")

Law = Callable[[Parameters], Distribution]
LAWS: dict[str, Law] = {
    "elementwise": lambda t: Independent(Normal(t["a"], t["b"].exp()), 1),
    "shared": lambda t: Independent(Normal(t["a"] * t["b"], t["a"].square() + 1), 1),
    "mixing": lambda t: Independent(Normal(t["c"] @ t["a"], (t["c"] @ t["b"]).exp()), 1),
    "scalar": lambda t: Normal(t["a"].sum(), 2.0),
    "factor": lambda t: MultivariateNormal(t["a"], scale_tril=t["c"].tril(-1) + t["b"].exp().diag()),
    "covariance": lambda t: MultivariateNormal(t["a"], t["c"] @ t["c"].T + torch.eye(3)),
    "precision": lambda t: MultivariateNormal(t["a"], precision_matrix=t["c"] @ t["c"].T + torch.eye(3)),
    "student": lambda t: Independent(StudentT(3.0, t["a"], t["b"].exp()), 1),
}


def parameters() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = {"a": (3,), "b": (3,), "c": (3, 3), "unused": (2, 1)}
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


@pytest.mark.equivalence
@pytest.mark.parametrize("name", LAWS)
def test_scores_are_the_gradients_of_one_log_density_after_another(name: str) -> None:
    law, theta = LAWS[name], parameters()
    samples = core.draw(law(theta), 7, torch.Generator().manual_seed(1))
    leaves = {key: value.requires_grad_() for key, value in parameters().items()}
    rows = [
        torch.autograd.grad(log_prob, list(leaves.values()), retain_graph=True, materialize_grads=True)
        for log_prob in law(leaves).log_prob(samples)
    ]
    expected = torch.stack([torch.cat([each.reshape(-1) for each in row]) for row in rows])
    found = core.scores(Expectation(cost=torch.sum, law=law), theta, samples)
    torch.testing.assert_close(found, expected, atol=1e-10, rtol=0)


@pytest.mark.parametrize(("name", "expected"), [("elementwise", {"loc", "scale"}), ("scalar", {"loc"})])
def test_what_is_learned_is_told_from_what_is_fixed(name: str, expected: set[str]) -> None:
    assert core.learned(Expectation(cost=torch.sum, law=LAWS[name]), parameters()) == expected


def test_nothing_flows_above_the_diagonal_of_a_factor() -> None:
    batch, leaves = repeated(MultivariateNormal(torch.zeros(3), scale_tril=torch.eye(3)), 4)
    (gradient,) = torch.autograd.grad(batch.rsample().sum(), leaves["scale_tril"])
    assert gradient.tril(-1).any() and not gradient.triu(1).any()


def test_the_variance_of_columns_is_that_of_the_sample() -> None:
    rows = 1e6 + torch.randn(50, 4, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(core.column_variance(rows), rows.var(dim=0))
    estimate = core.summarise(rows, {"a": torch.zeros(4)}, unbiased=True)
    assert estimate.standard_error is not None
    torch.testing.assert_close(estimate.standard_error, rows.std(dim=0) / 50**0.5)


def test_a_direct_cost_is_averaged_over_the_columns_of_pairs() -> None:
    theta, samples = {"a": torch.tensor([1.0, 2.0])}, torch.arange(6.0)
    expectation = Expectation(
        cost=lambda x: x, law=lambda t: Normal(t["a"].sum(), 1.0), direct_cost=lambda x, t: x * t["a"].sum()
    )
    found = core.add_direct(torch.ones(3, 2), expectation, theta, samples)
    torch.testing.assert_close(found, 1 + torch.tensor([[1.5], [2.5], [3.5]]).expand(3, 2))
    plain = Expectation(cost=lambda x: x, law=expectation.law)
    assert not core.direct_term(plain, theta, samples).any()
    assert core.direct_term(plain, theta, samples).shape == (6, 2)


@pytest.mark.parametrize("given", [torch.zeros(3), [0.0, 1.0], torch.zeros(2, 1), 0.0])
def test_a_cost_that_is_not_one_number_a_sample_is_refused(given: object) -> None:
    if isinstance(given, list):
        assert core.one_each(given, 2).dtype == torch.float64
        return
    with pytest.raises(ValueError, match=r"^cost: shape .*, expected \[N\] = \[2\], one number a sample$"):
        core.one_each(given, 2)


def test_a_block_leaves_the_global_generator_as_it_was_and_follows_its_own() -> None:
    before = torch.get_rng_state()
    drawn = []
    for seed in (1, 1, 2):
        with core.seeded_by(torch.Generator().manual_seed(seed)):
            drawn.append(torch.rand(3))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])
