"""Relaxations have the laws they claim, and a support is every value once."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from torch import Tensor
from torch.distributions import (
    Bernoulli,
    Binomial,
    Categorical,
    Distribution,
    Geometric,
    Independent,
    Normal,
    OneHotCategorical,
    Poisson,
)

from pgkit.core import discrete
from pgkit.core import relaxation as relaxed
from pgkit.errors import UsageError

pytestmark = [pytest.mark.exact, pytest.mark.usefixtures("float64")]

STEP = 0.35


def gumbel_grid(dimensions: int) -> tuple[Tensor, Tensor]:
    """Returns uniform noise `[Q, K]` and weights `[Q]` of the trapezoidal rule in standard Gumbel variables."""
    nodes = torch.arange(-4.0, 31.0, STEP)
    density = (-nodes - (-nodes).exp()).exp() * STEP
    grid = torch.cartesian_prod(*[nodes] * dimensions)
    return (-(-grid).exp()).exp(), torch.cartesian_prod(*[density] * dimensions).prod(dim=-1)


def test_a_one_hot_variable_given_its_argmax_has_the_law_of_the_whole() -> None:
    logits, relaxation = torch.tensor([0.4, -0.7, 0.1]), relaxed.OneHotRelaxation()
    noise, weights = gumbel_grid(3)

    def expected(z: Tensor) -> Tensor:
        return weights @ (relaxation.soft(z, 2.0) * torch.tensor([1.0, 2.0, -3.0])).sum(dim=-1).square()

    whole = expected(relaxation.continuous(logits, relaxation.base(noise)))
    pieces = [
        expected(relaxation.conditional(logits, hard.expand_as(noise), relaxation.base(noise))) * chance
        for hard, chance in zip(torch.eye(3), logits.softmax(dim=0), strict=True)
    ]
    assert float(weights.sum()) == pytest.approx(1, abs=1e-10)
    assert float(sum(pieces)) == pytest.approx(float(whole), abs=1e-9)


@pytest.mark.parametrize("relaxation", [relaxed.BinaryRelaxation(), relaxed.OneHotRelaxation()], ids=["bits", "hot"])
def test_what_is_drawn_given_a_step_takes_that_step(relaxation: relaxed.Relaxation) -> None:
    generator, logits = torch.Generator().manual_seed(1), torch.tensor([3.0, -2.0, 0.0])
    noise = [relaxation.base(discrete.uniform(logits, 500, generator)) for _ in range(2)]
    z = relaxation.continuous(logits, noise[0])
    hard = relaxation.hard(z)
    assert torch.equal(relaxation.hard(relaxation.conditional(logits, hard, noise[1])), hard)
    assert len(hard.unique(dim=0)) > 2


@pytest.mark.parametrize("relaxation", [relaxed.BinaryRelaxation(), relaxed.OneHotRelaxation()], ids=["bits", "hot"])
def test_scores_are_those_of_torch(relaxation: relaxed.Relaxation) -> None:
    logits = torch.tensor([0.3, -1.0, 0.2], requires_grad=True)
    hard = torch.tensor([0.0, 1.0, 0.0])
    law = Bernoulli(logits=logits) if isinstance(relaxation, relaxed.BinaryRelaxation) else None
    log_prob = law.log_prob(hard).sum() if law else OneHotCategorical(logits=logits).log_prob(hard)
    (expected,) = torch.autograd.grad(log_prob, logits)
    torch.testing.assert_close(relaxation.score(logits.detach(), hard), expected, rtol=0, atol=1e-12)


def test_softened_samples_tend_to_discrete_ones() -> None:
    z = torch.tensor([[0.3, -0.2, 0.1]])
    for relaxation in (relaxed.BinaryRelaxation(), relaxed.OneHotRelaxation()):
        torch.testing.assert_close(relaxation.soft(z, 1e-3), relaxation.hard(z), rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    ("law", "size"),
    [
        (Bernoulli(torch.tensor(0.2)), 2),
        (Independent(Bernoulli(torch.tensor([0.2, 0.5, 0.9])), 1), 8),
        (Independent(Bernoulli(torch.tensor([[0.2, 0.5], [0.9, 0.1]])), 2), 16),
        (Categorical(torch.tensor([0.2, 0.3, 0.5])), 3),
        (Independent(Categorical(torch.tensor([[0.2, 0.3, 0.5], [0.1, 0.1, 0.8]])), 1), 9),
        (OneHotCategorical(torch.tensor([0.2, 0.3, 0.5])), 3),
        (Independent(OneHotCategorical(torch.tensor([[0.2, 0.8], [0.1, 0.9]])), 1), 4),
        (Binomial(4, torch.tensor(0.3)), 5),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_a_support_is_every_value_once(law: Distribution, size: int) -> None:
    values = discrete.support(law, largest=size)
    assert values.shape == (size, *law.event_shape)
    assert len({tuple(row.reshape(-1).tolist()) for row in values}) == size
    assert float(law.log_prob(values).exp().sum()) == pytest.approx(1, abs=1e-6)  # float32 laws


@pytest.mark.parametrize(
    ("law", "said"),
    [
        (Poisson(torch.tensor(1.0)), "support of Poisson, expected a finite one"),
        (Geometric(torch.tensor(0.5)), "support of Geometric"),
        (Normal(0.0, 1.0), "support of Normal"),
        (Independent(Bernoulli(torch.full((30,), 0.5)), 1), "over 1073741824 values of the law, expected at most 1000"),
        (Independent(Bernoulli(torch.full((300,), 0.5)), 1), r"over 2\^300 values"),
        (Categorical(torch.ones(1001)), "over 1001 values"),
        (Binomial(10**9, torch.tensor(0.5)), "over 1000000001 values"),
        (Independent(Binomial(torch.tensor([3.0, 4.0]), torch.full((2,), 0.5)), 1), "different total_count"),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_supports_without_end_or_measure_are_refused_with_their_size(law: Distribution, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        discrete.support(law, largest=1000)


def test_noise_has_finite_logarithms() -> None:
    for dtype, ends in product((torch.float32, torch.float64), (0.0, 1.0)):
        logits = torch.zeros(2, dtype=dtype)
        drawn = discrete.uniform(logits, 10, torch.Generator().manual_seed(0))
        assert drawn.dtype == dtype and drawn.shape == (10, 2)
        margin = torch.finfo(dtype).eps / 2
        edge = torch.tensor(ends, dtype=dtype).clamp(margin, 1 - margin)
        assert edge.logit().isfinite() and (-(-edge.log()).log()).isfinite()
