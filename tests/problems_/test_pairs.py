"""Every unbiased estimator on every problem: mean and variance at 1e-10, integrated over whatever it draws.

An estimator is handed all the noise there is as one batch, each row with its weight; its variance is held to a formula
written out here or told by the problem. What cannot be integrated is listed in `NOT_HERE` with the reason, so that a
pair that is in neither fails.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import Independent, Normal, Poisson

from pgkit.baselines.constant import Zero
from pgkit.config import build
from pgkit.core import discrete, measure_valued, pathwise, proposals
from pgkit.core import expectation as core
from pgkit.core.discrete import base_of
from pgkit.errors import UsageError
from pgkit.problems.gaussian import hermite, hermite_grid
from pgkit.problems.known import scores
from pgkit.protocols import GradientEstimator
from pgkit.types import Parameters
from pgkit.verifying.pairs import options
from tests.pairs import FITTING, NOT_HERE, Pair, made, moments, moved

pytestmark = pytest.mark.exact

Found = tuple[Tensor, Tensor, Tensor | None]
"""Mean and variance of an estimator, and the variance that it shall have; None for that which the problem tells."""


def by_samples(pair: Pair, patch: pytest.MonkeyPatch) -> Found:
    x, weights = pair.nodes()
    patch.setattr(core, "draw", lambda law, num_samples, generator: x)
    return *moments(pair.rows(len(x)), weights), None


def of_free_law(pair: Pair, patch: pytest.MonkeyPatch) -> Found:
    x, weights = pair.nodes()
    patch.setattr(core, "draw", lambda law, num_samples, generator: x)
    patch.setattr(pathwise, "rsample", lambda law, *sizes: x.clone().requires_grad_())
    return *moments(pair.rows(len(x)), weights), None


def by_path(pair: Pair, patch: pytest.MonkeyPatch) -> Found:
    noise, weights = pair.noise()
    patch.setattr(pathwise, "rsample", lambda law, *sizes: moved(law, noise))
    mean, variance = moments(pair.rows(len(noise)), weights)

    def along(theta: Parameters, each: Tensor) -> Tensor:
        return pair.problem.expectation().cost(moved(pair.problem.expectation().law(theta), each)[None])[0]

    slopes = torch.func.vmap(torch.func.grad(along), in_dims=(None, 0))(pair.theta, noise)
    whole = torch.cat([slopes[key].reshape(len(noise), -1) for key in pair.theta], dim=1)
    return mean, variance, moments(whole, weights)[1]


def enumerated(pair: Pair, patch: pytest.MonkeyPatch) -> Found:
    node = options("estimator")["enumeration"].node
    estimator = build(node, expects=GradientEstimator, baseline=Zero())
    found = estimator.estimate(pair.problem.expectation(), pair.theta, num_samples=1, generator=torch.Generator())
    return found.mean, found.standard_error.square(), torch.zeros_like(found.mean)


def summed_out(pair: Pair, patch: pytest.MonkeyPatch) -> Found:
    """The conditional mean of the score function, given all but the first factor."""
    x, weights = pair.nodes()
    mean, variance, _ = by_samples(pair, patch)
    if not isinstance(pair.law, Independent):
        return mean, variance, torch.zeros_like(mean)
    known, plain = weights.clone(), pair.plain(x)
    partner = torch.stack([(x[:, 1:] == row[1:]).all(1).double() for row in x])
    given = (partner * known) @ plain / (partner @ known)[:, None]
    return mean, variance, moments(given, weights)[1]


def by_expansion(pair: Pair, patch: pytest.MonkeyPatch) -> Found:
    mean, variance, _ = by_samples(pair, patch)
    x, weights = pair.nodes()
    centre = pair.law.mean
    one = lambda at: pair.problem.expectation().cost(at[None])[0]  # noqa: E731
    slope, curve = torch.func.grad(one)(centre), torch.func.hessian(one)(centre)
    away = (x - centre).reshape(len(x), -1)
    value = one(centre) + away @ slope.reshape(-1) + (away @ curve.reshape(away.shape[1], -1) * away).sum(1) / 2
    rest = (pair.cost(x) - value)[:, None] * scores(pair.problem, pair.theta, x)
    return mean, variance, moments(rest, weights)[1]


def by_curvature(pair: Pair, patch: pytest.MonkeyPatch) -> Found:
    """∇f in the mean, and in the root of the covariance L its product with ∇²f: ½ ∇²f is the gradient in Σ = L Lᵀ."""
    mean, variance, _ = by_samples(pair, patch)
    x, weights = pair.nodes()
    leaves = {key: value.clone().requires_grad_() for key, value in pair.theta.items()}

    def moments_of(theta: Parameters) -> tuple[Tensor, Tensor]:
        law = pair.problem.expectation().law(theta)
        root = law.scale_tril.tril() if hasattr(law, "scale_tril") else torch.diag(law.stddev.reshape(-1))
        return law.mean.reshape(-1), root @ root.T

    in_mean, in_covariance = (
        torch.autograd.functional.jacobian(
            lambda *values, part=part: moments_of(dict(zip(leaves, values, strict=True)))[part], tuple(leaves.values())
        )
        for part in (0, 1)
    )
    size = x[0].numel()
    flat = lambda at: pair.problem.expectation().cost(at.reshape(1, *x.shape[1:]))[0]  # noqa: E731
    points = x.reshape(len(x), -1)
    slopes, curves = (torch.func.vmap(each(flat))(points) for each in (torch.func.grad, torch.func.hessian))
    parts = []
    for index in range(len(leaves)):
        first = slopes @ in_mean[index].reshape(size, -1)
        second = curves.reshape(len(x), -1) @ in_covariance[index].reshape(size * size, -1) / 2
        parts.append(first + second)
    return mean, variance, moments(torch.cat(parts, dim=1), weights)[1]


def wide_nodes(pair: Pair) -> tuple[Tensor, Tensor]:
    """Returns samples and volumes over which any density near the law may be integrated, or every value and 1."""
    if getattr(pair.law.support, "is_discrete", False):
        x = pair.nodes()[0]
        return x, torch.ones(len(x), dtype=torch.float64)
    size, line = pair.law.event_shape.numel(), torch.arange(-13.2, 13.2, 0.4, dtype=torch.float64)
    noise = torch.cartesian_prod(*[line] * size).reshape(len(line) ** size, size)
    noise = noise if pair.law.event_shape else noise[:, 0]
    base = pair.law.base_dist if isinstance(pair.law, Independent) else pair.law
    root = base.scale_tril.diagonal() if hasattr(base, "scale_tril") else base.scale
    return moved(pair.law, noise), torch.full((len(noise),), 0.4**size, dtype=torch.float64) * root.prod()


def densities(pair: Pair, x: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the densities of the law and of the wider copy of it that proposals are made of."""
    wide = proposals.widened(pair.law, 1.5)
    return pair.law.log_prob(x).exp().detach(), wide.log_prob(x).exp().detach()


def by_proposal(pair: Pair, patch: pytest.MonkeyPatch) -> Found:
    x, volume = wide_nodes(pair)
    law, wide = densities(pair, x)
    mixture = 0.1 * law + 0.9 * wide
    patch.setattr(proposals.Defensive, "draw", lambda self, num_samples, generator: x)
    mean, variance = moments(pair.rows(len(x)), mixture * volume)
    second = (volume * law**2 / mixture) @ pair.plain(x).square()
    return mean, variance, second - mean.square()


def by_strata(pair: Pair, patch: pytest.MonkeyPatch) -> Found:
    """Half of the samples from each of two laws: the variance of the mean of a pair, times two."""
    x, volume = wide_nodes(pair)
    law, wide = densities(pair, x)
    patch.setattr(core, "draw", lambda law, num_samples, generator: x)
    first, second = (
        moments(rows, density * volume)
        for rows, density in zip(pair.rows(2 * len(x)).split(len(x)), (law, wide), strict=True)
    )
    balanced = (2 * law / (law + wide))[:, None] * pair.plain(x)
    own = [(density * volume) @ balanced.square() - ((density * volume) @ balanced).square() for density in (law, wide)]
    return (first[0] + second[0]) / 2, (first[1] + second[1]) / 2, (own[0] + own[1]) / 2


def antithetic(pair: Pair, patch: pytest.MonkeyPatch) -> Found:
    """Three intervals of every u, of which the middle one has equal bits; (u − ½)² is integrated in closed form."""
    logits = discrete.logits_of(pair.law).reshape(-1)
    ends = logits.abs().sigmoid()
    points, weights = (torch.tensor(each) for each in np.polynomial.legendre.leggauss(3))
    axes, volumes = [], []
    for end in ends:
        edges = torch.stack([torch.zeros(()), 1 - end, end, torch.ones(())]).double()
        half = edges.diff()[:, None] / 2
        axes.append((edges[:-1, None] + half * (points + 1)).reshape(-1))
        volumes.append((half * weights).reshape(-1))
    size = len(logits)
    noise = torch.cartesian_prod(*axes).reshape(-1, size)
    chance = torch.cartesian_prod(*volumes).reshape(-1, size).prod(1)
    shaped = noise.reshape(-1, *pair.law.event_shape)
    patch.setattr(discrete, "uniform", lambda logits, num_samples, generator: shaped)
    mean, variance = moments(pair.rows(len(noise)), chance)
    cells = torch.tensor(list(itertools.product((-1.0, 0.0, 1.0), repeat=size)), dtype=torch.float64)
    share = torch.where(cells == 0, 2 * ends - 1, 1 - ends)
    agreed = (logits > 0).double()
    bits = [torch.where(cells == 0, agreed, (cells == sign).double()) for sign in (1, -1)]
    gap = pair.cost(bits[0].reshape(-1, *pair.law.event_shape)) - pair.cost(bits[1].reshape(-1, *pair.law.event_shape))
    squares = torch.where(cells == 0, (ends - 0.5) ** 2 / 3, ((1 - (2 * ends - 1) ** 3) / (24 * (1 - ends))))
    if pair.estimator == "disarm":
        squares = cells.square() * ends**2 / 4
    return mean, variance, share.prod(1) @ (gap.square()[:, None] * squares) - mean.square()


def likeliest(pair: Pair, patch: pytest.MonkeyPatch) -> Found:
    chances = discrete.logits_of(pair.law).softmax(-1).reshape(-1)
    best = int(chances.argmax())
    others = torch.tensor([k for k in range(len(chances)) if k != best])
    patch.setattr(torch, "multinomial", lambda *args, **keywords: others)
    rest = chances[others].sum()
    mean, variance = moments(pair.rows(len(others)), chances[others] / rest)
    values = pair.law.enumerate_support()
    return mean, variance, moments(rest * pair.plain(values)[others], chances[others] / rest)[1]


def weak(pair: Pair, patch: pytest.MonkeyPatch) -> Found:
    """Bits and counts are enumerated; Gaussian noise is Rayleigh for a mean, Maxwell and uniform for a scale."""
    base = base_of(pair.law)
    if isinstance(base, Normal):
        return weak_of_normal(pair, patch)
    x, weights = pair.nodes()
    patch.setattr(core, "draw", lambda law, num_samples, generator: x)
    patch.setitem(measure_valued.KNOWN, (Poisson, "rate"), lambda law, n: measure_valued.poisson_rate(x))
    mean, variance = moments(pair.rows(len(x)), weights)
    if isinstance(base, Poisson):
        return mean, variance, moments((pair.cost(x + 1) - pair.cost(x))[:, None], weights)[1]
    chance, flat = base.probs.reshape(-1), x.reshape(len(x), -1)
    gaps = []
    for index in range(len(chance)):
        one, zero = (flat.index_fill(1, torch.tensor(index), end).reshape(x.shape) for end in (1.0, 0.0))
        gaps.append(chance[index] * (1 - chance[index]) * (pair.cost(one) - pair.cost(zero)))
    return mean, variance, moments(torch.stack(gaps, dim=1), weights)[1]


def weak_of_normal(pair: Pair, patch: pytest.MonkeyPatch) -> Found:
    """Every parameter in turn: its own noise on one axis or two, that of the other coordinates on theirs."""
    theta, shape, size = pair.theta, pair.law.event_shape, pair.law.event_shape.numel()
    radius, radial = (6 * torch.tensor(each) for each in np.polynomial.legendre.leggauss(100))
    line, normal = hermite(60)
    uniform, half = (torch.tensor(each) for each in np.polynomial.legendre.leggauss(40))
    radius = radius + 6
    rayleigh = radius[:, None], radial * radius * (-radius.square() / 2).exp()
    maxwell = torch.cartesian_prod(line, (uniform + 1) / 2), torch.outer(normal * line**2, half / 2).reshape(-1)
    others, chance = hermite_grid(size - 1, 12) if size > 1 else (torch.zeros(1, 0).double(), torch.ones(1).double())
    found = []
    for column in range(sum(value.numel() for value in theta.values())):
        index = column % size
        noise, volume = rayleigh if column < theta["mean"].numel() else maxwell
        rest = others.repeat(len(noise), 1)
        free = torch.cat([rest[:, :index], torch.zeros(len(rest), 1).double(), rest[:, index:]], dim=1)
        x = moved(pair.law, free.reshape(-1, *shape))
        each = noise.repeat_interleave(len(others), 0)[..., None]
        wide, narrow = (each[:, end].expand(-1, size).reshape(-1, *shape) for end in (0, -1))
        patch.setattr(core, "draw", lambda law, n, generator, x=x: x)
        known = {
            "loc": lambda law, n, wide=wide: measure_valued.gaussian_mean(law.loc, law.scale, wide),
            "scale": lambda law, n, wide=wide, narrow=narrow: measure_valued.gaussian_scale(
                law.loc, law.scale, wide, narrow
            ),
        }
        for name, made_of in known.items():
            patch.setitem(measure_valued.KNOWN, (Normal, name), made_of)
        mean, variance = moments(pair.rows(len(x)), torch.outer(volume, chance).reshape(-1))
        found.append(torch.stack([mean[column], variance[column]]))
    means, variances = torch.stack(found).T
    return means, variances, weak_variance(pair) if "log_scale" in theta else None


def weak_variance(pair: Pair) -> Tensor:
    """Returns the variance for a quadratic cost in a mean field, with the moments of M and U written out.

    With S its slope in x_d where x_d is the mean, and H its curvature: f(x⁺) − f(x⁻) is 2σRS for the mean, E[R²] = 2,
    and σM(1 − U)S + ½Hσ²M²(1 − U²) for log σ, E[M²] = 3, E[M⁴] = 15, E[(1 − U)²] = ⅓, E[(1 − U²)²] = 8/15.
    """
    scale, mean = pair.law.stddev, pair.law.mean
    one = lambda at: pair.problem.expectation().cost(at[None])[0]  # noqa: E731
    slope, curve = torch.func.grad(one)(mean), torch.func.hessian(one)(mean)
    spread = (curve * scale).square()
    square = slope.square() + spread.sum(1) - spread.diagonal()
    bend = scale**2 * curve.diagonal()
    return torch.cat([4 / math.pi * square - slope**2, scale**2 * square + bend**2])


RULES: dict[str, Callable[[Pair, pytest.MonkeyPatch], Found]] = {
    "arm": antithetic,
    "blanket_score": by_samples,
    "bonnet_price": by_curvature,
    "disarm": antithetic,
    "enumeration": enumerated,
    "importance": by_proposal,
    "marginalised_score": summed_out,
    "measure_valued": weak,
    "multiple_importance": by_strata,
    "pathwise": by_path,
    "score": by_samples,
    "score_delta": by_expansion,
    "sticking_the_landing": by_path,
    "sum_and_sample": likeliest,
    "termwise_score": by_samples,
}


def fitting() -> Iterator[tuple[str, str]]:
    """Yields every problem with a known gradient and every unbiased estimator that takes it."""
    for name, each in options("problem").items():
        if "???" in str(each.node) or name == "gym_policy" or not hasattr(made(name), "exact_gradient"):
            continue
        problem = made(name)
        for estimator, option in options("estimator").items():
            if "${" in str(option.node):
                continue
            try:
                built = build(option.node, expects=GradientEstimator, baseline=Zero())
                if (
                    not built.unbiased
                    or getattr(built, "wrong_on_purpose", False)
                    or getattr(built, "particles", 1) > 1
                ):
                    continue
                built.accepts(problem.expectation(), problem.parameters())
                built.estimate(problem.expectation(), problem.parameters(), num_samples=32, generator=torch.Generator())
            except UsageError:
                continue
            yield name, estimator


PAIRS = [(name, estimator) for name, listed in FITTING.items() for estimator in listed.split()]


def test_the_pairs_are_all_that_fit_and_no_reason_is_given_for_what_is_not_one() -> None:
    assert set(PAIRS) == set(fitting())
    of_all = ("control_variates", "rebar", "relax")
    assert not [pair for pair in NOT_HERE if pair not in PAIRS and pair[1] not in of_all]


@pytest.mark.parametrize(("name", "estimator"), [pair for pair in PAIRS if pair not in NOT_HERE])
def test_mean_and_variance_are_exact(name: str, estimator: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pair = Pair(name, estimator)
    rule = of_free_law if name == "maximum_likelihood" else RULES[estimator]
    mean, variance, expected = rule(pair, monkeypatch)
    truth = pair.problem.exact_gradient(pair.theta)  # type: ignore[attr-defined]  # those in PROBLEMS have one
    known = pair.problem.exact_variance if hasattr(pair.problem, "exact_variance") else lambda *_: None
    told = known(estimator, pair.theta)
    if expected is None and told is None and estimator == "score":
        x, weights = pair.nodes()
        expected = moments(pair.plain(x), weights)[1]
    assert expected is not None or told is not None
    for found, reference in ((mean, truth), (variance, expected), (variance, told)):
        if reference is not None:
            assert float(((found - reference).abs() / (1 + reference.abs())).max()) < 1e-10
