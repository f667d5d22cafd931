"""Regression onto weighted actions: where its maximum lies, and how far the weights go."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from scipy.optimize import minimize_scalar
from torch import Tensor

from pgkit.core.processes import BANDIT
from pgkit.core.relative_entropy import exponential_weights, relative_entropy, temperature_within
from pgkit.errors import RunFault
from pgkit.rl.objective import PolicyObjective
from pgkit.updates.weighted_likelihood import AdvantageWeighted, RelativeEntropy, WeightedLikelihood
from tests.problems import Enumeration
from tests.updates.batches import chain, drawn, objective_of, parameters_of, sgd

pytestmark = [pytest.mark.exact, pytest.mark.usefixtures("float64")]
PLAIN: dict[str, Any] = {"average": "columns", "epochs": 1, "minibatches": 1, "max_grad_norm": None}
KINDS = [AdvantageWeighted, RelativeEntropy]


def made(kind: Any, *, lr: float = 0.1, size: int = 40, **options: Any) -> tuple[Any, PolicyObjective, Any]:
    problem = chain()
    objective = objective_of(problem, drawn(problem, size), baseline=0.5, average=options.get("average", "columns"))
    return problem, objective, updating(kind, problem, lr=lr, **options)


def updating(kind: Any, problem: Enumeration, *, lr: float = 0.1, **options: Any) -> WeightedLikelihood:
    if kind is AdvantageWeighted:
        options = {"normalise_advantages": "none", **options}
    generator = torch.Generator().manual_seed(1)
    made: WeightedLikelihood = kind(optimizer=sgd(problem, lr=lr), generator=generator, **{**PLAIN, **options})
    return made


def test_the_temperature_is_the_minimum_of_the_dual() -> None:
    advantages = torch.randn(300, generator=torch.Generator().manual_seed(0))
    for bound in (1e-6, 0.1, 1.0, 4.0):

        def dual(logarithm: float, bound: float = bound) -> float:
            scale = math.exp(logarithm)
            return scale * bound + scale * float(torch.logsumexp(advantages / scale, 0) - math.log(300))

        found = temperature_within(advantages, bound)
        least = minimize_scalar(dual, bounds=(-10, 10), method="bounded", options={"xatol": 1e-12})
        assert dual(math.log(found)) <= least.fun + 1e-12
        weights = exponential_weights(advantages, found)
        assert relative_entropy(weights) == pytest.approx(bound, rel=1e-8)
        assert float(weights.mean()) == pytest.approx(1.0, abs=1e-12)
        # Duality: the mean advantage under the weights is the minimum of the dual.
        assert float((weights * advantages).mean()) == pytest.approx(dual(math.log(found)), abs=1e-8)


def test_weights_are_the_best_of_all_within_the_bound() -> None:
    generator = torch.Generator().manual_seed(1)
    advantages = torch.randn(30, generator=generator)
    weights = exponential_weights(advantages, temperature_within(advantages, 0.3))
    best = float((weights * advantages).mean())
    for _ in range(500):
        other = weights * (1 + 0.3 * torch.randn(30, generator=generator)).clamp(min=0)
        other = other / other.mean()
        if relative_entropy(other) <= 0.3:
            assert float((other * advantages).mean()) <= best + 1e-12


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e8])
def test_the_weights_know_no_scale(scale: float) -> None:
    advantages = scale * (3 + torch.randn(100, generator=torch.Generator().manual_seed(0)))
    weights = exponential_weights(advantages, temperature_within(advantages, 0.5))
    assert relative_entropy(weights) == pytest.approx(0.5, rel=1e-6)


def test_degenerate_advantages_have_weights_too() -> None:
    equal = torch.full((5,), 3.3)
    assert temperature_within(equal, 0.5) == math.inf
    assert exponential_weights(equal, math.inf).tolist() == [1.0] * 5
    two = torch.tensor([0.0, 1.0])  # log 2 = 0.69 is as far as two can go
    weights = exponential_weights(two, temperature_within(two, 0.8))
    assert weights.tolist() == pytest.approx([0.0, 2.0], abs=1e-12)
    assert temperature_within(torch.zeros(0), 0.5) == math.inf


def weights_of(kind: Any, advantages: Tensor, **options: Any) -> Tensor:
    if kind is AdvantageWeighted:
        return (advantages / options.get("temperature", 1.0)).exp().clamp(max=options.get("largest_weight", 20.0))
    return exponential_weights(advantages, temperature_within(advantages, options.get("epsilon", 0.5)))


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (AdvantageWeighted, {"temperature": 2.0}),
        (AdvantageWeighted, {"temperature": 0.5, "largest_weight": 3.0}),
        (AdvantageWeighted, {"average": "steps", "entropy_coefficient": 0.2}),
        (RelativeEntropy, {"epsilon": 0.1}),
        (RelativeEntropy, {"epsilon": 0.1, "average": "steps", "entropy_coefficient": 0.2}),
    ],
)
def test_a_step_is_that_of_the_weighted_likelihood(kind: Any, options: dict[str, Any]) -> None:
    problem, objective, update = made(kind, **options)
    table, batch = problem.table(), objective.trajectories
    rows = batch.mask.reshape(-1).nonzero().squeeze(-1)
    weights = weights_of(kind, objective.coefficients[rows], **options)
    states, actions = batch.obs[:-1].reshape(-1)[rows], batch.actions.reshape(-1)[rows]
    entropy = -(table * table.log()).sum(dim=1)[states]
    value = (weights * table[states, actions].log() + options.get("entropy_coefficient", 0.0) * entropy).sum()
    expected = 0.1 * problem.gradient(value / (len(rows) if options.get("average") == "steps" else 40))
    before = parameters_of(problem)
    metrics = update.step(objective, progress=0.0)
    torch.testing.assert_close(parameters_of(problem) - before, expected, rtol=0, atol=1e-12)
    share = float(weights.sum()) ** 2 / float(weights.square().sum()) / len(rows)
    assert metrics["update/effective_share"] == pytest.approx(share, abs=1e-12)
    assert set(metrics) == set(update.tags)
    if kind is AdvantageWeighted:
        clipped = float((weights == options.get("largest_weight", 20.0)).double().mean())
        assert metrics["update/clip_fraction"] == pytest.approx(clipped) and clipped < 1
    else:
        assert metrics["update/relative_entropy"] == pytest.approx(0.1, rel=1e-8)


@pytest.mark.parametrize(("kind", "options"), [(AdvantageWeighted, {"temperature": 4.0}), (RelativeEntropy, {})])
def test_fitted_to_the_end_it_is_the_policy_that_acted_tilted_by_the_weights(kind: Any, options: Any) -> None:
    """On a bandit with as many rows of each arm as the policy that acted promises, π ∝ μ w."""
    problem = Enumeration(BANDIT, seed=0)
    counts = torch.tensor([50, 30, 20])
    objective = objective_of(problem, torch.arange(3).repeat_interleave(counts))
    update = updating(kind, problem, lr=1.0, epochs=500, **options)
    update.step(objective, progress=0.0)
    rewards = torch.tensor([0.0, 1.0, 5.0])
    weights = weights_of(kind, rewards.repeat_interleave(counts), **options)
    tilted = torch.stack([each.sum() for each in weights.split(counts.tolist())])
    torch.testing.assert_close(problem.table()[0], tilted / tilted.sum(), rtol=0, atol=1e-8)


@pytest.mark.parametrize("kind", KINDS)
def test_who_acted_makes_no_difference(kind: Any) -> None:
    """Other log-probabilities at sampling time, and the ratios that go with them, leave the step as it is."""
    moved = []
    for foreign in (False, True):
        problem, objective, update = made(kind)
        if foreign:
            batch = objective.trajectories
            object.__setattr__(batch, "behavior_log_prob", batch.behavior_log_prob - 1.0)
        update.step(objective, progress=0.0)
        moved.append(parameters_of(problem))
    assert torch.equal(*moved)


@pytest.mark.parametrize("scale", [1.0, 1000.0])
def test_normalised_advantages_have_no_scale(scale: float) -> None:
    moved = []
    for factor in (1.0, scale):
        problem, objective, update = made(AdvantageWeighted, normalise_advantages="batch")
        objective.coefficients = factor * objective.coefficients + factor - 1
        update.step(objective, progress=0.0)
        moved.append(parameters_of(problem))
    torch.testing.assert_close(*moved, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_a_gradient_that_is_none_changes_nothing(kind: Any) -> None:
    problem, objective, update = made(kind)
    before = parameters_of(problem)
    update.weighed = lambda advantages: (advantages * math.nan, {})
    with pytest.raises(RunFault, match=r"^gradient/norm: nan"):
        update.step(objective, progress=0.0)
    assert torch.equal(parameters_of(problem), before)


@pytest.mark.parametrize("kind", KINDS)
def test_it_goes_on_from_its_state_as_it_would_have(kind: Any) -> None:
    runs, sizes = [], {"minibatches": 6, "epochs": 2}
    for resumed in (False, True):
        problem, objective, update = made(kind, **sizes)
        update.step(objective, progress=0.0)
        if resumed:
            again = updating(kind, problem, lr=9.0, **sizes)
            again.load_state_dict(update.state_dict())
            update = again
        update.step(objective, progress=0.0)
        runs.append(parameters_of(problem))
    assert torch.equal(*runs)
