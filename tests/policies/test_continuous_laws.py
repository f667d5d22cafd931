"""Laws of continuous actions against torch's distributions, quadrature over what the environment gets, and samples."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from gymnasium import spaces
from scipy import integrate, stats
from torch import Tensor
from torch.distributions import AffineTransform, Independent, Normal, TanhTransform, TransformedDistribution
from torch.func import grad, vmap

from pgkit.errors import UsageError
from pgkit.policies.laws import Beta, ClippedGaussian, GaussianMixture, Law, SquashedGaussian, law_of

pytestmark = [pytest.mark.equivalence, pytest.mark.usefixtures("float64")]

LOW, HIGH = -0.5, 1.5
ONE = spaces.Box(LOW, HIGH, (1,), np.float64)
TWO = spaces.Box(np.array([-1.0, 0.0]), np.array([1.0, 5.0]), dtype=np.float64)
NAMES = ("gaussian", "clipped_gaussian", "squashed_gaussian", "beta", "mixture")
SOME = {
    "gaussian": [[0.3, -0.7], [-0.2, 0.1]],
    "clipped_gaussian": [[0.3, -0.7], [1.2, 0.4]],
    "squashed_gaussian": [[0.3, -0.7], [-0.9, 0.5]],
    "beta": [[0.3, 1.7], [2.5, -1.0]],
    "mixture": [[0.2, -0.4, -0.8, 0.9, -0.7, 0.2], [-0.3, 0.4, 0.1, 1.2, 0.3, -0.6]],
}
"""Two sets of parameters of every law in one dimension, two components in a mixture."""


def one(name: str) -> Law:
    return law_of(ONE, name, components=2)  # type: ignore[arg-type]  # a name of the list


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def expectation(name: str, parameters: Tensor, function: Callable[[float, Tensor], float]) -> float:
    """Returns ∫ p(a) f(log p(a), a as sampled) da over what the environment gets, atoms included, by quadrature."""
    law = one(name)

    def sampled(a: float) -> Tensor:
        share = (a - LOW) / (HIGH - LOW)
        if name == "squashed_gaussian":
            return torch.tensor([math.atanh(2 * share - 1)])
        return torch.tensor([math.log(share) - math.log1p(-share)]) if name == "beta" else torch.tensor([a])

    def integrand(a: float) -> float:
        action = sampled(a)
        log_prob = float(law.log_prob(parameters, action))
        return math.exp(log_prob) * function(log_prob, action) if log_prob > -700 else 0.0

    inside = name in ("squashed_gaussian", "beta", "clipped_gaussian")
    low, high = (LOW + 1e-13, HIGH - 1e-13) if inside else (-12, 14)
    total = integrate.quad(integrand, low, high, epsabs=1e-12, epsrel=1e-11, limit=400, points=[0.0, 0.5, 1.0])[0]
    return total + (sum(integrand(bound) for bound in (LOW, HIGH)) if name == "clipped_gaussian" else 0.0)


@pytest.mark.parametrize("name", NAMES)
def test_densities_of_what_the_environment_gets_integrate_to_1(name: str) -> None:
    for values in SOME[name]:
        assert expectation(name, torch.tensor(values), lambda log_prob, a: 1.0) == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "mixture"])
def test_entropies_and_divergences_are_those_of_quadrature(name: str) -> None:
    law, (ours, other) = one(name), torch.tensor(SOME[name])
    entropy = expectation(name, ours, lambda log_prob, a: -log_prob)
    assert float(law.entropy(ours)) == pytest.approx(entropy, abs=1e-8)
    divergence = expectation(name, ours, lambda log_prob, a: log_prob - float(law.log_prob(other, a)))
    assert float(law.kl(ours, other)) == pytest.approx(divergence, abs=1e-8)
    assert abs(float(law.kl(ours, ours))) < 1e-14


@pytest.mark.parametrize(("log_std", "tolerance"), [(0.0, 1e-8), (math.log(2), 1e-6), (math.log(4), 1e-3)])
def test_the_entropy_of_a_squashed_normal_is_as_exact_as_it_says(log_std: float, tolerance: float) -> None:
    law = SquashedGaussian(ONE)
    for mean in (-3.0, 0.0, 0.4, 8.0):
        ours = torch.tensor([mean, log_std])

        def integrand(z: float, mean: float = mean) -> float:
            return stats.norm.pdf(z) * 2 * (math.log(2) - np.logaddexp(u := mean + math.exp(log_std) * z, -u))

        points = [-mean / math.exp(log_std)]
        stretch = integrate.quad(integrand, -12, 12, points=points, epsabs=1e-12, limit=200)[0]
        exact = 0.5 * math.log(2 * math.pi * math.e) + log_std + stretch + math.log((HIGH - LOW) / 2)
        assert float(law.entropy(ours)) == pytest.approx(exact, abs=tolerance)


def test_bounds_of_a_mixtures_entropy_and_divergence_hold_and_meet_where_components_lie_apart() -> None:
    law, (ours, other) = one("mixture"), torch.tensor(SOME["mixture"])
    entropy = expectation("mixture", ours, lambda log_prob, a: -log_prob)
    divergence = expectation("mixture", ours, lambda log_prob, a: log_prob - float(law.log_prob(other, a)))
    assert entropy - 0.2 < float(law.entropy(ours)) < entropy
    # The bound itself: Σ w_i (H_i − log Σ_j w_j ∫ √(p_i p_j)), the integral by quadrature.
    weights, scales = ours[:2].softmax(0).tolist(), ours[4:].exp().tolist()
    parts = [stats.norm(mean, scale) for mean, scale in zip(ours[2:4].tolist(), scales, strict=True)]
    overlap = integrate.quad(lambda a: math.sqrt(parts[0].pdf(a) * parts[1].pdf(a)), -9, 9, epsabs=1e-12)[0]
    bound = sum(
        w * (part.entropy() - math.log(w + v * overlap))
        for w, v, part in zip(weights, weights[::-1], parts, strict=True)
    )
    assert float(law.entropy(ours)) == pytest.approx(bound, abs=1e-10)
    assert divergence < float(law.kl(ours, other)) < divergence + 0.4
    apart, moved = torch.tensor([[0.2, -0.4, -5.0, 6.0, -2.0, -1.5], [0.0, -0.1, -5.1, 6.1, -1.8, -1.6]])
    entropy = expectation("mixture", apart, lambda log_prob, a: -log_prob)
    divergence = expectation("mixture", apart, lambda log_prob, a: log_prob - float(law.log_prob(moved, a)))
    assert float(law.entropy(apart)) == pytest.approx(entropy, abs=1e-8)
    assert float(law.kl(apart, moved)) == pytest.approx(divergence, abs=1e-8)
    # Where all components are one, the entropy is that of the one.
    single = torch.tensor([0.2, -0.4, 0.5, 0.5, -1.0, -1.0])
    assert float(law.entropy(single)) == pytest.approx(0.5 * math.log(2 * math.pi * math.e) - 1, abs=1e-12)


def test_a_squashed_normal_is_torchs() -> None:
    law, ours = SquashedGaussian(TWO), 0.5 * numbers(6, 3, 4)
    low, width = torch.as_tensor(TWO.low), torch.as_tensor(TWO.high - TWO.low)
    before = Normal(ours[..., :2], ours[..., 2:].exp())
    theirs = Independent(
        TransformedDistribution(before, [TanhTransform(), AffineTransform(low + width / 2, width / 2)]), 1
    )
    sampled = numbers(6, 3, 2, seed=1)
    given = torch.as_tensor(law.to_environment(sampled.numpy()))
    torch.testing.assert_close(law.log_prob(ours, sampled), theirs.log_prob(given), rtol=0, atol=1e-9)


def test_a_beta_law_is_torchs() -> None:
    law, ours, other = Beta(TWO), numbers(6, 3, 4), numbers(6, 3, 4, seed=2)
    low, width = torch.as_tensor(TWO.low), torch.as_tensor(TWO.high - TWO.low)
    theirs, others = (
        torch.distributions.Beta(*(1 + torch.nn.functional.softplus(each)).chunk(2, dim=-1)) for each in (ours, other)
    )
    sampled = numbers(6, 3, 2, seed=1)
    given = torch.as_tensor(law.to_environment(sampled.numpy()))
    stretched = TransformedDistribution(theirs, [AffineTransform(low, width)])
    torch.testing.assert_close(law.log_prob(ours, sampled), stretched.log_prob(given).sum(-1), rtol=0, atol=1e-9)
    torch.testing.assert_close(law.entropy(ours), (theirs.entropy() + width.log()).sum(-1), rtol=0, atol=1e-11)
    kl = torch.distributions.kl_divergence(theirs, others).sum(-1)
    torch.testing.assert_close(law.kl(ours, other), kl, rtol=0, atol=1e-11)
    torch.testing.assert_close(law.mean(ours), theirs.mean, rtol=0, atol=1e-12)
    mode = torch.as_tensor(law.to_environment(law.mode(ours.numpy())))
    torch.testing.assert_close((mode - low) / width, theirs.mode, rtol=0, atol=1e-12)


def test_a_mixture_is_torchs() -> None:
    law, ours = GaussianMixture(spaces.Box(-np.inf, np.inf, (2,)), components=3), numbers(6, 4, 15)
    logits, means, log_stds = ours.split((3, 6, 6), dim=-1)
    parts = Independent(Normal(means.unflatten(-1, (3, 2)), log_stds.unflatten(-1, (3, 2)).exp()), 1)
    theirs = torch.distributions.MixtureSameFamily(torch.distributions.Categorical(logits=logits), parts)
    actions = numbers(6, 4, 2, seed=1)
    torch.testing.assert_close(law.log_prob(ours, actions), theirs.log_prob(actions), rtol=0, atol=1e-12)
    torch.testing.assert_close(law.mean(ours), theirs.mean, rtol=0, atol=1e-12)
    modes = torch.as_tensor(law.mode(ours.numpy()))
    candidates = torch.stack([theirs.log_prob(mean) for mean in means.unflatten(-1, (3, 2)).unbind(-2)])
    torch.testing.assert_close(law.log_prob(ours, modes), candidates.amax(dim=0), rtol=0, atol=1e-12)


def test_one_component_is_a_gaussian() -> None:
    gaussian, mixture = law_of(TWO), GaussianMixture(TWO, components=1)
    ours, other, actions = numbers(5, 4), numbers(5, 4, seed=1), numbers(5, 2, seed=2)
    wide = [torch.cat([torch.zeros(5, 1), each], dim=-1) for each in (ours, other)]
    torch.testing.assert_close(mixture.log_prob(wide[0], actions), gaussian.log_prob(ours, actions))
    torch.testing.assert_close(mixture.entropy(wide[0]), gaussian.entropy(ours))
    torch.testing.assert_close(mixture.kl(*wide), gaussian.kl(ours, other))


def test_a_clipped_gaussian_without_mass_beyond_its_bounds_is_a_gaussian() -> None:
    far = spaces.Box(np.array([-np.inf, -1e3]), np.array([1e3, np.inf]), dtype=np.float64)
    clipped, gaussian = ClippedGaussian(far), law_of(far)
    ours, other, actions = numbers(5, 4), numbers(5, 4, seed=1), numbers(5, 2, seed=2)
    for name in ("entropy", "mean"):
        torch.testing.assert_close(getattr(clipped, name)(ours), getattr(gaussian, name)(ours))
    torch.testing.assert_close(clipped.log_prob(ours, actions), gaussian.log_prob(ours, actions))
    torch.testing.assert_close(clipped.kl(ours, other), gaussian.kl(ours, other))
    # Everything beyond one bound: the law is a point there, its entropy 0, and nothing is nan.
    beyond = torch.tensor([0.0, 0.0, -3.0, -3.0]) + torch.tensor([5e3, -5e3, 0.0, 0.0])
    assert float(clipped.log_prob(beyond, beyond[:2])) == 0.0 and float(clipped.entropy(beyond)) == 0.0
    assert clipped.mean(beyond).tolist() == [1e3, -1e3]


def test_the_mean_of_a_clipped_gaussian_is_that_of_what_the_environment_gets() -> None:
    law = one("clipped_gaussian")
    assert law.encode(torch.tensor([[-9.0], [0.7], [9.0]])).flatten().tolist() == [LOW, 0.7, HIGH]
    for values in SOME["clipped_gaussian"]:
        mean = expectation("clipped_gaussian", torch.tensor(values), lambda log_prob, a: float(law.encode(a)))
        assert float(law.mean(torch.tensor(values))) == pytest.approx(mean, abs=1e-9)


def test_the_score_of_clipped_actions_is_unbiased_and_less_noisy() -> None:
    # E[f(clip a) ∇log p] by quadrature over the unclipped normal, under both log-probabilities.
    clipped, gaussian = one("clipped_gaussian"), one("gaussian")
    ours = torch.tensor([1.2, 0.0])
    z, weights = np.polynomial.legendre.leggauss(2000)
    actions = torch.as_tensor(1.2 + 10 * z)[:, None]
    mass = torch.as_tensor(10 * weights) * gaussian.log_prob(ours.expand(2000, -1), actions).exp()
    payoff = torch.as_tensor(gaussian.to_environment(actions.numpy())[:, 0]).square()

    def moments(law: Law) -> tuple[Tensor, Tensor]:
        scores = vmap(grad(lambda parameters, action: law.log_prob(parameters, action)), (None, 0))(ours, actions)
        first = ((mass * payoff)[:, None] * scores).sum(dim=0)
        return first, ((mass * payoff.square())[:, None] * scores.square()).sum(dim=0) - first.square()

    (ours_mean, ours_variance), (plain_mean, plain_variance) = moments(clipped), moments(gaussian)
    torch.testing.assert_close(ours_mean, plain_mean, rtol=0, atol=2e-3)  # the bounds lie between nodes
    assert (ours_variance < 0.9 * plain_variance).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("pre_activation", [20.0, -20.0, 60.0])
def test_a_squashed_normal_is_finite_where_tanh_is_1(pre_activation: float, dtype: torch.dtype) -> None:
    law, action = SquashedGaussian(ONE), torch.full((1,), pre_activation, dtype=dtype)
    ours = torch.tensor([pre_activation - 1, 0.0], dtype=dtype, requires_grad=True)
    log_prob = law.log_prob(ours, action)
    value = float(log_prob.detach())
    # log (1 − tanh² x) = 2 log 2 − 2 |x| + O(exp(−4 |x|)) so far out.
    exact = -0.5 - 0.5 * math.log(2 * math.pi) - 2 * math.log(2) + 2 * abs(pre_activation) - math.log((HIGH - LOW) / 2)
    assert value == pytest.approx(exact, rel=1e-6)
    (score,) = torch.autograd.grad(log_prob, ours)
    assert score.tolist() == pytest.approx([1.0, 0.0])
    given = law.to_environment(action.numpy())
    assert (
        given == pytest.approx(HIGH if pre_activation > 0 else LOW) and (given >= LOW).all() and (given <= HIGH).all()
    )


@pytest.mark.parametrize("name", NAMES)
def test_scores_go_through_vmap_and_single_precision_is_near_double(name: str) -> None:
    law = law_of(TWO, name, components=3)  # type: ignore[arg-type]  # a name of the list
    ours, other = numbers(20, law.num_parameters), numbers(20, law.num_parameters, seed=1)
    noise = law.noise(np.random.default_rng(0), (20,))
    actions = torch.as_tensor(law.sample(ours.numpy(), noise))
    scores = vmap(grad(law.log_prob))(ours, actions)
    leaf = ours.clone().requires_grad_()
    torch.testing.assert_close(torch.autograd.grad(law.log_prob(leaf, actions).sum(), leaf)[0], scores)
    assert scores.isfinite().all()
    for function in (law.entropy, lambda p: law.kl(p, other.to(p)), lambda p: law.mean(p).sum(-1)):
        exact, rounded = function(ours), function(ours.float())
        assert rounded.dtype == torch.float32
        torch.testing.assert_close(rounded.double(), exact, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(
        law.log_prob(ours.float(), actions.float()).double(), law.log_prob(ours, actions), rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("name", NAMES)
def test_the_divergence_is_smallest_and_flat_at_the_law_itself(name: str) -> None:
    law = law_of(TWO, name, components=3)  # type: ignore[arg-type]  # a name of the list
    ours = numbers(law.num_parameters).abs()  # means inside the bounds
    slope = grad(lambda other: law.kl(ours, other))(ours)
    assert slope.abs().max() < 1e-10
    curvature = torch.func.hessian(lambda other: law.kl(ours, other))(ours)
    assert torch.linalg.eigvalsh(curvature).min() > -1e-9
    # The Fisher matrix E[s sᵀ] from samples: below the curvature of a bound, equal to that of an exact divergence.
    size = 40_000
    many = ours.expand(size, -1)
    actions = torch.as_tensor(law.sample(many.numpy(), law.noise(np.random.default_rng(0), (size,))))
    scores = vmap(grad(law.log_prob), (None, 0))(ours, actions)
    # In coordinates in which the curvature is the identity.
    values, vectors = torch.linalg.eigh(curvature)
    root = vectors[:, values > 1e-3] * values[values > 1e-3].rsqrt()
    fisher = torch.linalg.eigvalsh((scores @ root).T @ (scores @ root) / size)
    assert fisher.max() < 1.1
    assert name == "mixture" or fisher.min() > 0.9


@pytest.mark.statistical
@pytest.mark.parametrize("name", NAMES)
def test_samples_follow_their_density(name: str) -> None:
    # Kolmogorov and Smirnov on 50,000 draws against the integrated density, at a false-alarm rate of 1e-4; the twin
    # has noise 5 % too wide.
    law, ours = one(name), np.array(SOME[name][0])
    noise = law.noise(np.random.default_rng(0), (50_000,))
    assert noise.dtype == np.float32
    many = np.broadcast_to(ours, (50_000, len(ours)))

    def p_value(noise: np.ndarray) -> float:
        sampled = law.sample(many, noise)[:, 0]
        grid = np.linspace(sampled.min() - 4, sampled.max() + 4, 20_001)
        unclipped = one("gaussian") if name == "clipped_gaussian" else law
        log_prob = unclipped.log_prob(torch.tensor(ours).expand(len(grid), -1), torch.tensor(grid)[:, None]).numpy()
        # From the density of what the environment gets to that of the number as sampled.
        slope = {
            "squashed_gaussian": lambda u: (HIGH - LOW) / 2 / np.cosh(u) ** 2,
            "beta": lambda u: (HIGH - LOW) / 4 / np.cosh(u / 2) ** 2,
        }.get(name, np.ones_like)(grid)
        distribution = integrate.cumulative_simpson(np.exp(log_prob) * slope, x=grid, initial=0)
        assert distribution[-1] == pytest.approx(1, abs=1e-6)
        return float(stats.kstest(np.interp(sampled, grid, distribution), "uniform").pvalue)

    assert p_value(noise) > 1e-4
    assert not p_value(1.05 * noise) > 1e-4


@pytest.mark.parametrize("name", NAMES)
def test_the_same_noise_is_the_same_action_inside_the_bounds(name: str) -> None:
    law = law_of(TWO, name, components=3)  # type: ignore[arg-type]  # a name of the list
    ours = 3 * numbers(500, law.num_parameters).numpy()
    noise = law.noise(np.random.default_rng(4), (500,))
    first, second = (law.to_environment(law.sample(ours, noise)) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert first.shape == (500, 2) and (first >= TWO.low).all() and (first <= TWO.high).all()
    assert law.sample(ours.astype(np.float32), noise).dtype == np.float32
    # Noise far out, and parameters far out, still give numbers.
    wild = law.sample((5 * ours).astype(np.float32), 3 * noise)
    assert np.isfinite(law.to_environment(wild)).all()


@pytest.mark.parametrize("name", ["gaussian", "beta"])
def test_a_temperature_is_a_power_of_the_density(name: str) -> None:
    law, ours = one(name), torch.tensor(SOME[name][0])
    hot = law.tempered(ours, 2.0)
    actions = numbers(50, 1)
    # log π^(1/τ) and the tempered log-probability differ by a constant.
    differences = law.log_prob(hot.expand(50, -1), actions) - law.log_prob(ours.expand(50, -1), actions) / 2
    assert differences.std() < 1e-12
    torch.testing.assert_close(law.tempered(hot, 0.5), ours)


@pytest.mark.parametrize("name", NAMES)
def test_a_temperature_above_1_is_bolder(name: str) -> None:
    law, ours = one(name), torch.tensor([[0.0, 0.0, 0.0, 0.5, -2.0, -2.0]] if name == "mixture" else [[0.4, -2.0]])
    if name == "beta":
        ours = torch.tensor([[4.0, 3.0]])
    assert law.entropy(law.tempered(ours, 2.0)) > law.entropy(ours) > law.entropy(law.tempered(ours, 0.5))


@pytest.mark.parametrize("bounds", [(-np.inf, np.inf), (0.0, np.inf), (-np.inf, 1.0)])
def test_infinite_bounds_are_for_gaussians(bounds: tuple[float, float]) -> None:
    low, high = ([-1.0, bounds[0]], [1.0, bounds[1]])
    space = spaces.Box(np.array(low), np.array(high), dtype=np.float64)
    for name in ("squashed_gaussian", "beta"):
        with pytest.raises(UsageError, match=rf"^policy\.law: {name} for actions Box.* of infinite bounds, expected g"):
            law_of(space, name)
    for name in ("auto", "gaussian", "clipped_gaussian", "mixture"):
        law = law_of(space, name)  # type: ignore[arg-type]  # a name of the list
        ours = numbers(3, law.num_parameters)
        actions = torch.as_tensor(law.sample(ours.numpy(), law.noise(np.random.default_rng(0), (3,))))
        for result in (law.log_prob(ours, actions), law.entropy(ours), law.mean(ours), vmap(grad(law.entropy))(ours)):
            assert result.isfinite().all()


def test_laws_are_refused_by_name() -> None:
    with pytest.raises(UsageError, match=r"^policy\.law: beta for actions Discrete\(3\), expected auto"):
        law_of(spaces.Discrete(3), "beta")
    with pytest.raises(
        UsageError, match=r"^policy\.law: clipped_gaussian for actions Box.* without bounds, expected g"
    ):
        law_of(spaces.Box(-np.inf, np.inf, (2,)), "clipped_gaussian")
    with pytest.raises(UsageError, match=r"^policy\.law: beta for actions Box.* of equal bounds, expected g"):
        law_of(spaces.Box(np.zeros(2, np.float32), np.array([0, 1], np.float32)), "beta")


def test_components_start_apart_and_as_likely() -> None:
    law = GaussianMixture(TWO, components=3)
    logits, means, log_stds = law.initial(-1.0).split((3, 6, 6))
    assert logits.tolist() == [0, 0, 0] and set(log_stds.tolist()) == {-1.0}
    spread = math.exp(-1) * stats.norm.ppf(5 / 6)
    assert means.reshape(3, 2).tolist() == pytest.approx(np.array([[-spread] * 2, [0, 0], [spread] * 2]))
