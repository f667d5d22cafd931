"""Gradients of evidence bounds: right on average, exactly, and as noisy as theory says."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import Normal

from pgkit.baselines.constant import Constant, Zero
from pgkit.core.expectation import scores
from pgkit.core.pathwise import location_scale
from pgkit.errors import UsageError
from pgkit.estimators.pathwise import Pathwise
from pgkit.estimators.score import Score
from pgkit.problems.conjugate_gaussian import ConjugateGaussian
from pgkit.problems.vae import VAE
from pgkit.protocols import GradientEstimator
from pgkit.types import Expectation, Parameters
from pgkit.vi.elbo import Elbo, elbo, with_prior
from pgkit.vi.estimators import BlanketScore, DoublyReparameterised, ImportanceWeighted, StickingTheLanding
from pgkit.vi.particles import doubly_reparameterised_weights, importance_bound, importance_weights

POINTS, WEIGHTS = (torch.from_numpy(each) for each in np.polynomial.hermite_e.hermegauss(60))
WEIGHTS = WEIGHTS / WEIGHTS.sum()
CENTRE = torch.tensor(0.2, dtype=torch.float64)
HERE = {"mean": torch.tensor(0.6, dtype=torch.float64), "scale": torch.tensor(1.3, dtype=torch.float64)}


def law(theta: Parameters) -> Normal:
    return Normal(theta["mean"], theta["scale"], validate_args=False)


def log_joint(x: Tensor, theta: Parameters) -> Tensor:
    """A posterior N(0.2, 1) times a constant."""
    return Normal(CENTRE, 1.0).log_prob(x) + 0.7


def exact(theta: Parameters) -> Tensor:
    """Returns ∇ELBO `[2]` of this one-dimensional problem: −∇KL(q ‖ N(0.2, 1))."""
    return torch.stack([0.2 - theta["mean"], 1 / theta["scale"] - theta["scale"]])


def by_quadrature(bound: Expectation, *, path: bool) -> Tensor:
    """Returns the mean gradient, the estimator integrated over its own noise."""
    x = location_scale(POINTS, HERE["mean"], HERE["scale"])
    if path:
        leaf = x.clone().requires_grad_()
        (slope,) = torch.autograd.grad(bound.cost(leaf).sum(), leaf)
        rows = torch.stack([slope, slope * POINTS], dim=1)
    else:
        rows = bound.cost(x)[:, None] * scores(bound, HERE, x)
    if bound.direct_cost is not None:
        leaves = {name: value.clone().requires_grad_() for name, value in HERE.items()}
        value = (WEIGHTS * bound.direct_cost(x, leaves)).sum()
        direct = torch.autograd.grad(value, list(leaves.values()), allow_unused=True, materialize_grads=True)
        return WEIGHTS @ rows + torch.stack(direct)
    return WEIGHTS @ rows


@pytest.mark.parametrize("entropy", ["sampled", "detached", "analytic"])
@pytest.mark.parametrize("path", [True, False])
def test_every_form_of_the_bound_has_the_same_gradient(entropy: str, path: bool) -> None:
    bound = elbo(log_joint, law, HERE, entropy=entropy)  # type: ignore[arg-type]
    assert by_quadrature(bound, path=path) == pytest.approx(exact(HERE), abs=1e-10)


@pytest.mark.parametrize("path", [True, False])
def test_a_divergence_in_closed_form_has_the_same_gradient(path: bool) -> None:
    prior = Normal(torch.tensor(0.0).double(), torch.tensor(2.0).double())
    bound = with_prior(
        lambda x, theta: log_joint(x, theta) - prior.log_prob(x),
        lambda theta: torch.distributions.kl_divergence(law(theta), prior),
        law,
        HERE,
    )
    assert by_quadrature(bound, path=path) == pytest.approx(exact(HERE), abs=1e-10)


def gradients(estimator: GradientEstimator, bound: Expectation, theta: Parameters, num_samples: int = 4000) -> Tensor:
    estimate = estimator.estimate(bound, theta, num_samples=num_samples, generator=torch.Generator().manual_seed(1))
    assert estimate.per_sample is not None
    return estimate.per_sample


@pytest.mark.parametrize(
    "make",
    [
        lambda: Pathwise(baseline=Zero()),
        lambda: StickingTheLanding(baseline=Zero()),
        lambda: Score(baseline=Constant(value=-0.2)),
        lambda: DoublyReparameterised(baseline=Zero(), particles=1),
        lambda: ImportanceWeighted(baseline=Zero(), particles=1),
    ],
)
@pytest.mark.statistical
def test_every_estimator_finds_the_gradient_of_the_bound(make: object) -> None:
    # Ten comparisons at 4.5 standard errors: a false alarm in 15,000 runs of this file.
    rows = gradients(make(), elbo(log_joint, law, HERE), HERE, 40_000)  # type: ignore[operator]
    error = rows.std(0) / math.sqrt(len(rows))
    assert ((rows.mean(0) - exact(HERE)).abs() < 4.5 * error).all()
    assert not ((0.8 * rows.mean(0) - exact(HERE)).abs() < 4.5 * error).all(), "a biased twin passes"


def at_posterior(family: str = "full_rank", entropy: str = "sampled") -> tuple[Elbo, dict[str, Tensor]]:
    problem = ConjugateGaussian(dimension=3, family=family, entropy=entropy)  # type: ignore[arg-type]
    optimum = problem.optimum()
    return problem.at(optimum), optimum


def test_sticking_the_landing_has_no_variance_at_the_posterior() -> None:
    bound, optimum = at_posterior()
    assert gradients(StickingTheLanding(baseline=Zero()), bound, optimum, 50).abs().max() < 1e-10
    assert gradients(DoublyReparameterised(baseline=Zero(), particles=5), bound, optimum, 50).abs().max() < 1e-10
    assert gradients(Pathwise(baseline=Zero()), bound, optimum, 50).var(0).sum() > 1


def test_a_detached_entropy_is_sticking_the_landing() -> None:
    problem = ConjugateGaussian(dimension=3, entropy="detached")
    start = problem.parameters()
    detached = gradients(Pathwise(baseline=Zero()), problem.at(start), start, 20)
    assert detached == pytest.approx(gradients(StickingTheLanding(baseline=Zero()), problem.at(start), start, 20))


def test_variance_of_the_path_and_of_the_total_derivative() -> None:
    # q = N(μ, 1) against a posterior N(0, 1): the path is −μ for every sample, the total derivative −μ − ε.
    theta = {"mean": HERE["mean"], "scale": torch.tensor(1.0, dtype=torch.float64)}
    bound = elbo(lambda x, _: Normal(0.0, 1.0).log_prob(x), law, theta)
    path = gradients(StickingTheLanding(baseline=Zero()), bound, theta)[:, 0]
    assert path == pytest.approx(torch.full_like(path, -0.6), abs=1e-12)
    total = gradients(Pathwise(baseline=Zero()), bound, theta)[:, 0]
    assert float(total.var()) == pytest.approx(1.0, rel=0.1)  # 4000 samples: the standard error is 2 %


def importance_weighted_by_quadrature(mean: Tensor) -> Tensor:
    """Returns L₂, the bound of two particles, as a function of the mean of q."""
    x = mean + HERE["scale"] * POINTS
    log_weight = log_joint(x, {}) - Normal(mean, HERE["scale"]).log_prob(x)
    pairs = torch.stack(torch.broadcast_tensors(log_weight[:, None], log_weight[None, :]), dim=-1)
    return (WEIGHTS[:, None] * WEIGHTS * importance_bound(pairs.reshape(-1, 2)).reshape(60, 60)).sum()


def group_gradients(first: Tensor, second: Tensor, *, doubly: bool) -> Tensor:
    """Returns the estimate of d L₂/dμ from pairs of noise, as the estimators combine it."""
    x = HERE["mean"] + HERE["scale"] * torch.stack([first, second], dim=1)
    leaf = x.clone().requires_grad_()
    log_weights = log_joint(leaf, HERE) - law(HERE).log_prob(leaf)
    (path,) = torch.autograd.grad(log_weights.sum(), leaf)
    if doubly:
        return (doubly_reparameterised_weights(log_weights.detach()) * path).sum(1)
    score = (x - HERE["mean"]) / HERE["scale"] ** 2
    return (importance_weights(log_weights.detach()) * (path - score)).sum(1)


@pytest.mark.parametrize("doubly", [False, True])
def test_importance_weighted_gradients_are_exact_on_average(doubly: bool) -> None:
    mean = HERE["mean"].clone().requires_grad_()
    (truth,) = torch.autograd.grad(importance_weighted_by_quadrature(mean), mean)
    first, second = (each.reshape(-1) for each in torch.meshgrid(POINTS, POINTS, indexing="ij"))
    weights = (WEIGHTS[:, None] * WEIGHTS).reshape(-1)
    assert float(weights @ group_gradients(first, second, doubly=doubly)) == pytest.approx(float(truth), abs=1e-8)


@pytest.mark.parametrize("kind", [ImportanceWeighted, DoublyReparameterised])
def test_the_estimators_combine_groups_in_that_way(kind: type) -> None:
    bound = elbo(log_joint, law, HERE)
    rows = gradients(kind(baseline=Zero(), particles=2), bound, HERE, 40)
    batch = StickingTheLanding(baseline=Zero())  # the same noise, one particle a row
    slopes = gradients(batch, bound, HERE, 40)
    noise = slopes[:, 1] / slopes[:, 0]
    pairs = noise.unflatten(0, (20, 2))
    wanted = group_gradients(pairs[:, 0], pairs[:, 1], doubly=kind is DoublyReparameterised)
    assert rows[:, 0] == pytest.approx(wanted, abs=1e-10)


def test_doubly_reparameterised_gradients_are_less_noisy() -> None:
    bound = elbo(log_joint, law, HERE)
    plain = gradients(ImportanceWeighted(baseline=Zero(), particles=4), bound, HERE).var(0).sum()
    assert gradients(DoublyReparameterised(baseline=Zero(), particles=4), bound, HERE).var(0).sum() < 0.5 * plain


def test_a_model_that_is_learnt_gets_its_gradient_under_every_estimator() -> None:
    problem = VAE(observations=4, width=3, hidden=2, latents=1, batch_size=None)
    theta = problem.parameters()
    means = [
        gradients(kind, problem.at(theta), theta, 3000).mean(0)
        for kind in (StickingTheLanding(baseline=Zero()), DoublyReparameterised(baseline=Zero(), particles=1))
    ]
    assert means[0] == pytest.approx(means[1], abs=1e-10)
    decoder = sum(value.numel() for name, value in theta.items() if name.startswith("decoder"))
    assert means[0][-decoder:].abs().min() > 0


@pytest.mark.parametrize("kind", [StickingTheLanding, ImportanceWeighted, DoublyReparameterised])
def test_what_is_no_bound_is_refused(kind: type) -> None:
    plain = Expectation(cost=lambda x: x**2, law=law)
    with pytest.raises(UsageError, match=r"^estimator: \w+ for an expectation that is no evidence bound, expected "):
        kind(baseline=Zero()).accepts(plain, HERE)


def test_a_batch_that_does_not_divide_into_groups_is_refused() -> None:
    with pytest.raises(UsageError, match=r"^num_samples: 7, expected a multiple of estimator.particles=5"):
        gradients(ImportanceWeighted(baseline=Zero()), elbo(log_joint, law, HERE), HERE, 7)


@pytest.mark.statistical
def test_blankets_keep_the_mean_and_lower_the_variance() -> None:
    # Ten coordinates at 4.5 standard errors of the difference: a false alarm in 15,000 runs.
    problem = ConjugateGaussian(dimension=5, family="mean_field", observations=1, noise=3.0)
    start = {"mean": torch.ones(5).double(), "log_scale": torch.ones(5).double()}
    found = problem.at(start)
    x = torch.randn(7, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert found.terms is not None
    assert found.terms(x).sum(1) == pytest.approx(found.cost(x), abs=1e-12)
    plain = gradients(Score(baseline=Zero()), found, start, 40_000)
    apart = gradients(BlanketScore(baseline=Zero()), found, start, 40_000)
    error = (plain - apart).std(0) / math.sqrt(40_000)
    assert ((plain - apart).mean(0).abs() < 4.5 * error).all()
    assert not ((plain - 0.8 * apart).mean(0).abs() < 4.5 * error).all(), "a biased twin passes"
    assert float(apart.var(0).sum()) < 0.6 * float(plain.var(0).sum())


def test_blankets_are_refused_where_factors_are_not_apart() -> None:
    bound, optimum = at_posterior()
    with pytest.raises(UsageError, match=r"^estimator: blanket_score for a bound that is not apart by factors"):
        BlanketScore(baseline=Zero()).accepts(bound, optimum)
