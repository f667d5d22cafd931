"""Mean and variance of estimators through discrete choices, integrated over the noise they draw."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise

import pytest
import torch
from torch import Tensor
from torch.distributions import Bernoulli, Categorical, Distribution, Independent, Normal, OneHotCategorical, Poisson

from pgkit.baselines.batch import LeaveOneOut
from pgkit.baselines.constant import Zero
from pgkit.core import discrete, expectation
from pgkit.errors import UsageError
from pgkit.estimate import ESTIMATORS, estimate_gradient
from pgkit.estimators.discrete import ARM, REBAR, DisARM, Enumeration, GumbelSoftmax, StraightThrough
from pgkit.estimators.relax import RELAX
from pgkit.estimators.score import Score
from pgkit.protocols import GradientEstimator
from pgkit.types import Expectation, Parameters

pytestmark = [pytest.mark.exact, pytest.mark.usefixtures("float64")]

CUTOFF = 34.0
"""Logistic noise beyond this has less weight than a rounding error."""
PHI = 0.8
Nodes = tuple[Tensor, Tensor]
FAMILY = ["enumeration", "arm", "disarm", "rebar", "relax", "gumbel_softmax", "straight_through"]


def legendre(breaks: list[float], order: int) -> Nodes:
    """Returns nodes and weights of Gauss and Legendre's rule on each of the intervals between the breaks."""
    import numpy as np

    points, weights = (torch.as_tensor(each) for each in np.polynomial.legendre.leggauss(order))
    low, high = torch.tensor(breaks[:-1])[:, None], torch.tensor(breaks[1:])[:, None]
    half = (high - low) / 2
    return (low + half * (points + 1)).reshape(-1), (half * weights).reshape(-1)


def logistic(breaks: list[float]) -> Nodes:
    """Returns uniform noise and weights, from panels in its logit that do not straddle a break."""
    edges = [-CUTOFF, *breaks, CUTOFF]
    fine = [torch.linspace(low, high, 18)[:-1] for low, high in pairwise(edges)]
    nodes, weights = legendre([*torch.cat(fine).tolist(), CUTOFF], 16)
    noise = nodes.sigmoid()
    return noise.clamp(max=1 - 1e-16), weights * noise * (-nodes).sigmoid()


def pairs(first: Nodes, second: Nodes) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the product of two rules: both noises, and the weights."""
    grid = torch.cartesian_prod(first[0], second[0])
    return grid[:, 0], grid[:, 1], torch.cartesian_prod(first[1], second[1]).prod(dim=1)


@pytest.fixture
def prescribe(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Makes estimators draw the noise that is handed over, instead of random noise."""

    def set_noise(*noises: Tensor) -> None:
        turns: Iterator[Tensor] = iter(noises)
        monkeypatch.setattr(discrete, "uniform", lambda logits, num_samples, generator: next(turns))

    return set_noise


def toy(b: Tensor) -> Tensor:
    """Tucker et al.'s cost, on `[N]`."""
    return (b - 0.49) ** 2


def three(b: Tensor) -> Tensor:
    """A cost that couples three bits, on `[N, 3]`."""
    return (b[:, 0] - 0.49) ** 2 + 2 * b[:, 0] * b[:, 1] - 1.5 * b[:, 1] * b[:, 2] + b.prod(dim=1) + 0.7 * b[:, 2]


def one_bit(theta: Parameters) -> Distribution:
    return Bernoulli(logits=theta["phi"])


def bits(theta: Parameters) -> Distribution:
    return Independent(Bernoulli(logits=theta["phi"]), 1)


ONE = Expectation(cost=toy, law=one_bit), {"phi": torch.tensor(PHI, dtype=torch.float64)}
THREE = Expectation(cost=three, law=bits), {"phi": torch.tensor([0.3, -0.8, 1.1], dtype=torch.float64)}
SLOPE = 0.51**2 - 0.49**2


def rows(estimator: GradientEstimator, problem: tuple[Expectation, Parameters], num_samples: int) -> Tensor:
    """Returns the per-sample gradients `[N, P]`."""
    generator = torch.Generator().manual_seed(0)
    per_sample = estimator.estimate(*problem, num_samples=num_samples, generator=generator).per_sample
    assert per_sample is not None
    return per_sample


def moments(per_sample: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Returns mean and variance `[P]`."""
    mean = weights @ per_sample
    return mean, weights @ per_sample.square() - mean.square()


def exact(problem: tuple[Expectation, Parameters]) -> Tensor:
    """Returns the gradient by automatic differentiation of the sum over all bits, apart from `Enumeration`."""
    theta = {name: value.clone().requires_grad_() for name, value in problem[1].items()}
    values = torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * theta["phi"].numel())
    chances = torch.where(values > 0, theta["phi"].sigmoid(), (-theta["phi"]).sigmoid())
    chances = chances.prod(dim=1) if chances.ndim > 1 else chances
    (gradient,) = torch.autograd.grad((chances * problem[0].cost(values)).sum(), theta["phi"])
    return gradient.reshape(-1)


def test_enumeration_is_the_gradient() -> None:
    for problem in (ONE, THREE):
        found = Enumeration(baseline=Zero()).estimate(*problem, num_samples=1, generator=torch.Generator())
        torch.testing.assert_close(found.mean, exact(problem), rtol=0, atol=1e-12)
        assert found.unbiased and found.per_sample is None
        assert found.standard_error is not None and not found.standard_error.any()
    chance = torch.tensor(PHI).sigmoid()
    torch.testing.assert_close(exact(ONE)[0], SLOPE * chance * (1 - chance), rtol=0, atol=1e-12)


@pytest.mark.parametrize("estimator", [ARM, DisARM])
def test_mean_and_variance_from_one_bit_are_the_closed_forms(
    estimator: Callable[..., GradientEstimator], prescribe: Callable[..., None]
) -> None:
    larger = float(torch.tensor(PHI).sigmoid())
    noise, weights = legendre([0.0, 1 - larger, larger, 1.0], 4)
    prescribe(noise)
    mean, variance = moments(rows(estimator(baseline=Zero()), ONE, len(noise)), weights)
    torch.testing.assert_close(mean, exact(ONE), rtol=0, atol=1e-12)
    square = 2 / 3 * (1 / 8 - (larger - 0.5) ** 3) if estimator is ARM else larger**2 * (1 - larger) / 2
    assert float(variance) == pytest.approx(SLOPE**2 * square - float(mean) ** 2, abs=1e-12)


def test_disarm_is_the_mean_of_arm_given_the_pair_and_varies_less(prescribe: Callable[..., None]) -> None:
    larger = THREE[1]["phi"].abs().sigmoid().tolist()
    rules = [legendre([0.0, 1 - each, each, 1.0], 3) for each in larger]
    noise = torch.cartesian_prod(*[nodes for nodes, _ in rules])
    weights = torch.cartesian_prod(*[weights for _, weights in rules]).prod(dim=1)
    found = {}
    for estimator in (ARM, DisARM):
        prescribe(noise)
        found[estimator] = moments(rows(estimator(baseline=Zero()), THREE, len(noise)), weights)
        torch.testing.assert_close(found[estimator][0], exact(THREE), rtol=0, atol=1e-12)
    assert (found[DisARM][1] < found[ARM][1]).all()
    # E[g²] of DisARM is a sum over the 27 cells of antithetic pairs: no quadrature is needed.
    cells = torch.cartesian_prod(*[torch.tensor([-1.0, 0.0, 1.0])] * 3)
    ends = torch.tensor(larger)
    chance = torch.where(cells == 0, 2 * ends - 1, 1 - ends).prod(dim=1)
    agreed = (THREE[1]["phi"] > 0).double()
    first, second = (torch.where(cells == 0, agreed, (cells == sign).double()) for sign in (1, -1))
    gradients = 0.5 * (three(first) - three(second))[:, None] * cells * ends
    torch.testing.assert_close(moments(gradients, chance)[1], found[DisARM][1], rtol=0, atol=1e-12)


def test_leave_one_out_score_is_exact_over_every_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two samples make it half of the difference of costs times that of scores: mean and variance in closed form."""
    for problem in (ONE, THREE):
        expected, theta = exact(problem), problem[1]["phi"]
        values = discrete.support(problem[0].law(problem[1]), 8)
        chance = problem[0].law(problem[1]).log_prob(values).exp()
        means, weights = [], []
        for first, second in torch.cartesian_prod(torch.arange(len(values)), torch.arange(len(values))).tolist():
            batch = values[[first, second]]
            monkeypatch.setattr(expectation, "draw", lambda law, num_samples, generator, batch=batch: batch)
            means.append(rows(Score(baseline=LeaveOneOut()), problem, 2).mean(dim=0))
            weights.append(chance[first] * chance[second])
        mean, variance = moments(torch.stack(means), torch.stack(weights))
        torch.testing.assert_close(mean, expected, rtol=0, atol=1e-12)
        score = (values - theta.sigmoid()).reshape(len(values), -1)
        cost = problem[0].cost(values)
        gap = (cost[:, None] - cost)[..., None] * (score[:, None] - score) / 2
        square = (chance[:, None, None] * chance[:, None] * gap**2).sum(dim=(0, 1))
        torch.testing.assert_close(variance, square - expected**2, rtol=0, atol=1e-12)


def noises() -> tuple[list[Tensor], Tensor]:
    """Returns the two noises that a relaxed control of one bit draws, over which its mean is taken, and weights."""
    first, second, weights = pairs(logistic([-PHI]), logistic([]))
    return [first, second], weights


@pytest.mark.parametrize("temperature", [0.4, 1.3])
def test_rebar_is_unbiased_at_every_weight_and_its_variance_is_least_at_the_best(
    temperature: float, prescribe: Callable[..., None]
) -> None:
    drawn, weights = noises()

    def measured(eta: float) -> tuple[Tensor, Tensor]:
        prescribe(*drawn)
        estimator = REBAR(baseline=Zero(), temperature=temperature, eta=eta)
        return moments(rows(estimator, ONE, len(weights)), weights)

    assert float(weights.sum()) == pytest.approx(1, abs=1e-12)
    found = {eta: measured(eta) for eta in (-1.0, 0.0, 0.3, 1.0)}
    for mean, _ in found.values():
        torch.testing.assert_close(mean, exact(ONE), rtol=0, atol=1e-10)
    # A parabola in η through three points; a fourth lies on it, and its vertex is the least.
    low, none, high = (float(found[eta][1]) for eta in (-1.0, 0.0, 1.0))
    bend, slope = (low + high) / 2 - none, (high - low) / 2
    assert float(found[0.3][1]) == pytest.approx(none + 0.3 * slope + 0.09 * bend, abs=1e-12)
    best = -slope / (2 * bend)
    mean, least = measured(best)
    torch.testing.assert_close(mean, exact(ONE), rtol=0, atol=1e-10)
    assert float(least) == pytest.approx(none - slope**2 / (4 * bend), abs=1e-12)
    assert float(least) < none
    # At η = 0 it is the score function, whose variance is a sum of two terms.
    chance = torch.tensor(PHI).sigmoid()
    square = chance * (0.51**2 * (1 - chance)) ** 2 + (1 - chance) * (0.49**2 * chance) ** 2
    assert none == pytest.approx(float(square - exact(ONE)[0] ** 2), abs=1e-10)


def test_relax_starts_as_the_score_function_and_stays_unbiased_while_it_learns(
    prescribe: Callable[..., None],
) -> None:
    estimator = RELAX(baseline=Zero(), hidden=4, lr=0.05)
    start = rows(estimator, ONE, 50)
    score = torch.Generator().manual_seed(0)
    torch.randint(2**62, (), generator=score)
    drawn = (torch.rand(50, generator=score) > 1 / (1 + torch.tensor(PHI).exp())).double()
    torch.testing.assert_close(start[:, 0], toy(drawn) * (drawn - torch.tensor(PHI).sigmoid()), rtol=0, atol=1e-12)
    for _ in range(150):
        rows(estimator, ONE, 200)
    grid, weights = noises()
    prescribe(*grid)
    mean, variance = moments(rows(estimator, ONE, len(weights)), weights)
    torch.testing.assert_close(mean, exact(ONE), rtol=0, atol=1e-10)
    prescribe(*grid)
    plain = moments(rows(REBAR(baseline=Zero(), eta=0.0), ONE, len(weights)), weights)[1]
    assert float(variance) < 0.5 * float(plain)


def test_relax_goes_on_bit_for_bit_from_a_saved_state() -> None:
    one = RELAX(baseline=Zero(), hidden=4)
    assert one.state_dict() == {}
    rows(one, THREE, 20)
    rows(one, THREE, 20)
    other = RELAX(baseline=Zero(), hidden=4)
    other.load_state_dict(one.state_dict())
    for _ in range(2):
        assert torch.equal(rows(one, THREE, 20), rows(other, THREE, 20))
    with pytest.raises(UsageError, match="relax for 1 logits, expected the 3 it knows"):
        rows(one, ONE, 20)


@pytest.mark.parametrize("estimator", [GumbelSoftmax, StraightThrough])
def test_softened_samples_are_biased_and_gumbel_softmax_less_so_when_colder(
    estimator: Callable[..., GradientEstimator], prescribe: Callable[..., None]
) -> None:
    noise, weights = logistic([-PHI])
    means = {}
    for temperature in (1.0, 0.25):
        prescribe(noise)
        means[temperature] = float(weights @ rows(estimator(baseline=Zero(), temperature=temperature), ONE, len(noise)))
        z = torch.tensor(PHI) + noise.logit()
        soft = (z / temperature).sigmoid()
        at = soft if estimator is GumbelSoftmax else (z > 0).double()
        expected = weights @ (2 * (at - 0.49) * soft * (1 - soft) / temperature)
        assert means[temperature] == pytest.approx(float(expected), abs=1e-12)
    errors = {temperature: abs(mean - float(exact(ONE)[0])) for temperature, mean in means.items()}
    assert min(errors.values()) > 1e-4
    assert estimator is StraightThrough or errors[0.25] < errors[1.0]


@pytest.mark.parametrize("name", ["rebar", "relax", "score"])
def test_one_hot_gradients_are_unbiased(name: str) -> None:
    """Statistical: |z| under 4.5 in each of three coordinates, false alarms 2e-5; a biased twin is far out."""
    costs = torch.tensor([1.0, -2.0, 0.5])
    theta = torch.tensor([0.3, -0.8, 1.1])

    def z(estimator: str) -> Tensor:
        found = estimate_gradient(
            lambda x: (x @ costs) ** 2, lambda p: OneHotCategorical(logits=p), theta, estimator=estimator,
            num_samples=40_000,
        )  # fmt: skip
        assert found.standard_error is not None
        return (found.mean - truth).abs() / found.standard_error

    def law(p: Tensor) -> Distribution:
        return OneHotCategorical(logits=p)

    truth = estimate_gradient(lambda x: (x @ costs) ** 2, law, theta, estimator="enumeration").mean
    assert float(z(name).max()) < 4.5
    assert float(z("gumbel_softmax").max()) > 20


@pytest.mark.parametrize("name", [name for name in FAMILY if ESTIMATORS[name].unbiased])
def test_a_cost_that_moves_with_the_parameters_adds_its_own_gradient(name: str) -> None:
    """Statistical: |z| under 4.5, false alarms 2e-5; without the direct term z is above 20."""
    theta = {"phi": torch.tensor([0.3, -0.8])}
    moving = Expectation(
        cost=lambda b: b.sum(dim=1) * theta["phi"].sum(),
        law=bits,
        direct_cost=lambda b, values: b.sum(dim=1) * values["phi"].sum(),
    )
    chance = theta["phi"].sigmoid()
    truth = chance * (1 - chance) * theta["phi"].sum() + chance.sum()
    generator = torch.Generator().manual_seed(3)
    found = ESTIMATORS[name](baseline=Zero()).estimate(moving, theta, num_samples=20_000, generator=generator)
    assert found.standard_error is not None
    error = found.standard_error + 1e-12
    assert float(((found.mean - truth).abs() / error).max()) < 4.5
    assert float(((found.mean - truth + chance.sum()).abs() / error).max()) > 20


@pytest.mark.parametrize("name", FAMILY)
def test_each_takes_probabilities_leaves_the_global_generator_and_says_what_it_is(name: str) -> None:
    before = torch.random.get_rng_state()
    found = estimate_gradient(
        three, lambda p: Independent(Bernoulli(probs=p.sigmoid()), 1), THREE[1]["phi"], estimator=name, num_samples=50
    )
    again = estimate_gradient(three, lambda p: bits({"phi": p}), THREE[1]["phi"], estimator=name, num_samples=50)
    assert torch.equal(before, torch.random.get_rng_state())
    torch.testing.assert_close(found.mean, again.mean, rtol=0, atol=1e-12)
    assert found.unbiased == ESTIMATORS[name].unbiased == (name not in ("gumbel_softmax", "straight_through"))
    assert found.per_sample is None or found.per_sample.shape == (50, 3)


@pytest.mark.parametrize("name", ["enumeration", "score"])
def test_costs_see_indices_of_a_categorical_and_rows_of_a_one_hot_one(name: str) -> None:
    table, theta, seen = torch.tensor([1.0, -2.0, 0.5]), torch.tensor([0.3, -0.8, 1.1]), []

    def of_indices(x: Tensor) -> Tensor:
        seen.append(x)
        return table[x]

    by_index = estimate_gradient(of_indices, lambda p: Categorical(logits=p), theta, estimator=name)
    by_row = estimate_gradient(lambda x: x @ table, lambda p: OneHotCategorical(logits=p), theta, estimator=name)
    assert seen[0].ndim == 1 and not seen[0].is_floating_point()
    torch.testing.assert_close(by_index.mean, by_row.mean, rtol=0, atol=1e-12)


def no_gradient(b: Tensor) -> Tensor:
    return (b.detach() > 0.5).double()


@pytest.mark.parametrize(
    ("name", "law", "cost", "said"),
    [
        ("arm", Normal(0.0, 1.0), toy, "estimator: arm for Normal, expected a Bernoulli law"),
        ("disarm", Categorical(torch.ones(3)), toy, "estimator: disarm for Categorical"),
        ("rebar", Categorical(torch.ones(3)), toy, "expected OneHotCategorical and a cost of one-hot rows"),
        ("gumbel_softmax", Categorical(torch.ones(3)), toy, "samples are indices"),
        ("straight_through", Categorical(torch.ones(3)), toy, "samples are indices"),
        ("relax", Poisson(torch.tensor(1.0)), toy, "relaxation of Poisson, expected Bernoulli or OneHotCategorical"),
        ("gumbel_softmax", Bernoulli(torch.tensor(0.5)), no_gradient, "cost: no gradient in its samples, expected"),
        ("rebar", Bernoulli(torch.tensor(0.5)), no_gradient, "cost: no gradient in its samples, expected"),
        ("enumeration", Poisson(torch.tensor(1.0)), toy, "support of Poisson, expected a finite one"),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(
    name: str, law: Distribution, cost: Callable[[Tensor], Tensor], said: str
) -> None:
    with pytest.raises(UsageError, match=said) as caught:
        estimate_gradient(cost, lambda p: law, torch.tensor(0.0), estimator=name, num_samples=3)
    assert "\n" not in str(caught.value)


def test_costs_without_a_gradient_do_for_arm_and_relax() -> None:
    for name in ("arm", "disarm", "relax"):
        assert estimate_gradient(no_gradient, lambda p: Bernoulli(logits=p), torch.tensor(0.3), estimator=name).unbiased
