"""Laws of one action against torch's distributions, quadrature and their own samples."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from gymnasium import spaces
from scipy import integrate, stats

from pgkit.errors import UsageError
from pgkit.policies.laws import Categorical, DiagonalGaussian, IndependentCategorical, Law, law_of

pytestmark = [pytest.mark.equivalence, pytest.mark.usefixtures("float64")]


def parameters(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def box(*shape: int, low: float = -np.inf, high: float = np.inf) -> spaces.Box:
    return spaces.Box(low, high, shape)


def split(of: torch.Tensor) -> torch.distributions.Distribution:
    """Returns torch's distribution for the numbers of a Gaussian law."""
    mean, log_std = of.chunk(2, dim=-1)
    return torch.distributions.Independent(torch.distributions.Normal(mean, log_std.exp()), 1)


def test_a_categorical_is_torchs() -> None:
    law, logits, other = Categorical(spaces.Discrete(5)), 4 * parameters(3, 2, 5), parameters(3, 2, 5).flip(0)
    theirs, their_other = (torch.distributions.Categorical(logits=each) for each in (logits, other))
    actions = torch.arange(6).reshape(3, 2) % 5
    torch.testing.assert_close(law.log_prob(logits, actions), theirs.log_prob(actions), rtol=0, atol=1e-12)
    torch.testing.assert_close(law.entropy(logits), theirs.entropy(), rtol=0, atol=1e-12)
    kl = torch.distributions.kl_divergence(theirs, their_other)
    torch.testing.assert_close(law.kl(logits, other), kl, rtol=0, atol=1e-12)
    every = torch.stack([law.log_prob(logits, torch.full((3, 2), action)) for action in range(5)])
    torch.testing.assert_close(every.exp().sum(dim=0), torch.ones(3, 2), rtol=0, atol=1e-12)


def test_a_gaussian_is_torchs() -> None:
    law, ours, other = DiagonalGaussian(box(3)), parameters(4, 2, 6), parameters(4, 2, 6).flip(0)
    actions = 2 * parameters(4, 2, 3)
    torch.testing.assert_close(law.log_prob(ours, actions), split(ours).log_prob(actions), rtol=0, atol=1e-12)
    torch.testing.assert_close(law.entropy(ours), split(ours).entropy(), rtol=0, atol=1e-12)
    kl = torch.distributions.kl_divergence(split(ours), split(other))
    torch.testing.assert_close(law.kl(ours, other), kl, rtol=0, atol=1e-11)


def test_a_gaussian_of_actions_in_rows_and_columns_is_that_of_the_flat_ones() -> None:
    flat, square = DiagonalGaussian(box(4)), DiagonalGaussian(box(2, 2))
    ours, actions = parameters(3, 8), parameters(3, 4)
    assert torch.equal(square.log_prob(ours, actions.reshape(3, 2, 2)), flat.log_prob(ours, actions))
    noise = np.random.default_rng(0).standard_normal((3, 4))
    sampled = square.sample(ours.numpy(), noise)
    assert sampled.shape == (3, 2, 2)
    np.testing.assert_array_equal(sampled.reshape(3, 4), flat.sample(ours.numpy(), noise))


def test_densities_and_entropies_are_those_of_quadrature() -> None:
    law = DiagonalGaussian(box(1))
    ours, other = torch.tensor([0.3, -0.7]), torch.tensor([-0.2, 0.1])

    def integral(function: object) -> float:
        def integrand(x: float) -> float:
            action = torch.tensor([x])
            log_p, log_q = float(law.log_prob(ours, action)), float(law.log_prob(other, action))
            return math.exp(log_p) * function(log_p, log_q)

        return integrate.quad(integrand, -8, 8, epsabs=1e-12)[0]

    assert integral(lambda p, q: 1.0) == pytest.approx(1.0, abs=1e-10)
    assert integral(lambda p, q: -p) == pytest.approx(float(law.entropy(ours)), abs=1e-10)
    assert integral(lambda p, q: p - q) == pytest.approx(float(law.kl(ours, other)), abs=1e-10)


@pytest.mark.statistical
def test_the_largest_noisy_logit_is_a_draw_from_the_softmax() -> None:
    # Chi-square on 200,000 draws at a false-alarm rate of 1e-4; the twin draws with noise one tenth too wide.
    law, logits, size = Categorical(spaces.Discrete(4)), np.array([0.3, -1.0, 1.5, 0.0]), 200_000
    probabilities = np.exp(logits) / np.exp(logits).sum()
    noise = law.noise(np.random.default_rng(0), (size,))
    assert noise.shape == (size, 4) and noise.dtype == np.float32 and np.isfinite(noise).all()

    def p_value(actions: np.ndarray) -> float:
        return float(stats.chisquare(np.bincount(actions, minlength=4), size * probabilities).pvalue)

    assert p_value(law.sample(logits, noise)) > 1e-4
    assert not p_value(law.sample(logits, 1.1 * noise)) > 1e-4


@pytest.mark.statistical
def test_a_gaussian_sample_is_normal_about_its_mean() -> None:
    # Kolmogorov and Smirnov on 100,000 draws a dimension at a false-alarm rate of 1e-4; the twin is 5 % too wide.
    law, size = DiagonalGaussian(box(2)), 100_000
    ours = np.broadcast_to(np.array([1.0, -2.0, 0.5, -1.0]), (size, 4))
    noise = law.noise(np.random.default_rng(0), (size,))
    sampled = law.sample(ours, noise)
    standardised = (sampled - ours[:, :2]) / np.exp(ours[:, 2:])
    for dimension in standardised.T:
        assert stats.kstest(dimension, "norm").pvalue > 1e-4
        assert not stats.kstest(1.05 * dimension, "norm").pvalue > 1e-4
    assert abs(np.corrcoef(sampled.T)[0, 1]) < 4 / math.sqrt(size)


def test_the_same_noise_is_the_same_action_and_the_mode_needs_none() -> None:
    for law, size in ((Categorical(spaces.Discrete(3)), 3), (DiagonalGaussian(box(2)), 4)):
        ours = parameters(6, size).numpy()
        first, second = (law.noise(np.random.default_rng(4), (6,)) for _ in range(2))
        np.testing.assert_array_equal(law.sample(ours, first), law.sample(ours, second))
        mode = torch.from_numpy(law.mode(ours))
        nearby = torch.from_numpy(law.sample(ours, first))
        assert (law.log_prob(torch.from_numpy(ours), mode) >= law.log_prob(torch.from_numpy(ours), nearby)).all()


def test_actions_start_where_the_space_does_and_indices_where_the_law_does() -> None:
    law = Categorical(spaces.Discrete(3, start=-1))
    sampled = law.sample(np.array([[9.0, 0.0, 0.0], [0.0, 0.0, 9.0]]), np.zeros((2, 3)))
    assert sampled.tolist() == [0, 2] and law.to_environment(sampled).tolist() == [-1, 1]
    assert sampled.tolist() == [0, 2]


def test_clipping_is_for_the_environment_alone() -> None:
    law = DiagonalGaussian(spaces.Box(np.array([-1.0, -np.inf]), np.array([1.0, 2.0]), dtype=np.float64))
    sampled = np.array([[3.0, -50.0], [-0.5, 7.0]])
    given = law.to_environment(sampled)
    assert given.tolist() == [[1.0, -50.0], [-0.5, 2.0]]
    assert sampled.tolist() == [[3.0, -50.0], [-0.5, 7.0]]


def test_other_action_spaces_are_refused_by_name() -> None:
    with pytest.raises(UsageError, match=r"^env\.id: action space Text.*, expected Discrete, Multi.*, Multi.* or Box$"):
        law_of(spaces.Text(2))
    every = (spaces.Discrete(2), spaces.MultiDiscrete([2, 3]), spaces.MultiBinary(2), box(1))
    assert all(isinstance(law_of(space), Law) for space in every)


def test_several_choices_are_as_many_categoricals() -> None:
    law, logits = IndependentCategorical(spaces.MultiDiscrete([2, 4, 3])), parameters(5, 9)
    other = logits.flip(0)
    alone = [Categorical(spaces.Discrete(count)) for count in (2, 4, 3)]
    actions = torch.tensor([[0, 3, 2], [1, 0, 0], [1, 1, 1], [0, 2, 0], [0, 0, 2]])
    parts, others = logits.split([2, 4, 3], dim=-1), other.split([2, 4, 3], dim=-1)
    each = torch.stack([one.log_prob(part, a) for one, part, a in zip(alone, parts, actions.T, strict=True)], dim=-1)
    torch.testing.assert_close(law.log_prob_of_dimensions(logits, actions), each, rtol=0, atol=1e-12)
    torch.testing.assert_close(law.log_prob(logits, actions), each.sum(dim=-1), rtol=0, atol=1e-12)
    entropy = sum(one.entropy(part) for one, part in zip(alone, parts, strict=True))
    torch.testing.assert_close(law.entropy(logits), entropy, rtol=0, atol=1e-12)
    kl = sum(one.kl(p, q) for one, p, q in zip(alone, parts, others, strict=True))
    torch.testing.assert_close(law.kl(logits, other), kl, rtol=0, atol=1e-12)
    noise = law.noise(np.random.default_rng(0), (5,))
    sampled = law.sample(logits.numpy(), noise)
    for d, (one, part, gumbel) in enumerate(zip(alone, parts, np.split(noise, [2, 6], axis=-1), strict=True)):
        np.testing.assert_array_equal(sampled[:, d], one.sample(part.numpy(), gumbel))


def test_choices_without_a_chance_leave_finite_gradients() -> None:
    law = IndependentCategorical(spaces.MultiDiscrete([1, 3]))
    logits, other = parameters(4, 4).requires_grad_(), parameters(4, 4).flip(0)
    (law.entropy(logits) + law.kl(logits, other) + law.mean(logits).sum(dim=-1)).sum().backward()
    assert logits.grad is not None and torch.isfinite(logits.grad).all()


def test_bits_and_tables_of_choices_reach_the_environment_in_its_own_form() -> None:
    bits, table = spaces.MultiBinary((2, 2)), spaces.MultiDiscrete([[2, 3], [4, 5]], start=[[0, 1], [-2, 0]])
    for space in (bits, table):
        law = law_of(space)
        sampled = law.sample(parameters(6, law.num_parameters).numpy(), law.noise(np.random.default_rng(0), (6,)))
        assert sampled.shape == (6, 2, 2)
        assert all(space.contains(given) for given in law.to_environment(sampled))
        assert law.log_prob(parameters(6, law.num_parameters), torch.from_numpy(sampled)).shape == (6,)


def test_encoded_actions_have_the_mean_that_they_say() -> None:
    law = IndependentCategorical(spaces.MultiDiscrete([2, 3]))
    logits = parameters(5)
    every = torch.cartesian_prod(torch.arange(2), torch.arange(3))
    chances = law.log_prob(logits.expand(6, -1), every).exp()
    assert float(chances.sum()) == pytest.approx(1.0, abs=1e-12)
    torch.testing.assert_close(chances @ law.encode(every), law.mean(logits), rtol=0, atol=1e-12)
    one = Categorical(spaces.Discrete(3))
    chances = one.log_prob(logits[:3].expand(3, -1), torch.arange(3)).exp()
    torch.testing.assert_close(chances @ one.encode(torch.arange(3)), one.mean(logits[:3]), rtol=0, atol=1e-12)
    square, actions = DiagonalGaussian(box(2, 2)), parameters(3, 2, 2)
    assert torch.equal(square.encode(actions), actions.reshape(3, 4))
    for each in (law, one, square):
        modes = torch.from_numpy(each.mode(parameters(7, each.num_parameters).numpy()))
        assert each.encode(modes).shape == (7, sum(each.dimensions))
