"""Off-policy values against enumeration and dynamic programming."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from pgkit.core.off_policy_value import (
    Terms,
    direct_terms,
    doubly_robust_terms,
    missing_mass,
    per_decision_terms,
    step_log_ratios,
    trajectory_terms,
)
from pgkit.core.processes import CHAIN
from pgkit.errors import UsageError
from tests.off_policy import BEHAVIOR, GAMMA, TARGET, Paths, drawn, every_path, true_value

PATHS = every_path()
CHANCES = CHAIN.probabilities(BEHAVIOR)


def any_quality() -> Tensor:
    """Returns a Q `[T, S, A]` that is nobody's."""
    return 3 * torch.cos(torch.arange(12, dtype=torch.float64)).reshape(3, 2, 2)


def read_off(quality: Tensor, paths: Paths) -> dict[str, Tensor]:
    steps = torch.arange(len(quality))[:, None].expand_as(paths.states)
    values = (quality * TARGET).sum(dim=2)
    return {"values": values[steps, paths.states], "chosen": quality[steps, paths.states, paths.actions]}


def terms_of(name: str, paths: Paths, quality: Tensor | None = None) -> Terms:
    arguments = (paths.rewards, paths.log_ratio(), paths.mask)
    normalise = name.startswith("weighted")
    if name.endswith("doubly_robust"):
        known = read_off(any_quality() if quality is None else quality, paths)
        return doubly_robust_terms(*arguments, **known, gamma=GAMMA, normalise=normalise)
    function = per_decision_terms if name.endswith("per_decision") else trajectory_terms
    return function(*arguments, gamma=GAMMA, normalise=normalise)


@pytest.mark.parametrize("name", ["trajectory", "per_decision", "doubly_robust"])
def test_the_expectation_is_the_value_of_the_target(name: str) -> None:
    assert abs(float(CHANCES @ terms_of(name, PATHS).values[0]) - true_value()) < 1e-10


@pytest.mark.parametrize("name", ["trajectory", "per_decision"])
def test_without_the_ratios_it_is_the_value_of_the_behaviour(name: str) -> None:
    function = {"trajectory": trajectory_terms, "per_decision": per_decision_terms}[name]
    none = torch.zeros_like(PATHS.rewards)
    terms = function(PATHS.rewards, none, PATHS.mask, gamma=GAMMA, normalise=False)
    assert abs(float(CHANCES @ terms.values[0]) - true_value(target=BEHAVIOR)) < 1e-10


def test_with_the_true_q_doubly_robust_leaves_only_the_noise_of_the_dynamics() -> None:
    _, quality = CHAIN.values(TARGET, GAMMA)
    exact, plain = terms_of("doubly_robust", PATHS, quality), terms_of("per_decision", PATHS)
    mean = true_value()
    variance, usual = (float(CHANCES @ (terms.values[0] - mean).square()) for terms in (exact, plain))
    assert abs(float(CHANCES @ exact.values[0]) - mean) < 1e-10 and variance < 0.6 * usual
    direct = direct_terms(read_off(quality, PATHS)["values"])
    assert abs(float(CHANCES @ direct.values[0]) - mean) < 1e-10


def by_hand(name: str, pair: Paths) -> float:
    """Returns the self-normalised estimate from two episodes, by loops over the definition."""
    quality = any_quality() if name == "weighted_doubly_robust" else torch.zeros(3, 2, 2, dtype=torch.float64)
    weight = [1.0, 1.0]
    lengths = [int(each) for each in pair.mask.sum(dim=0)]
    total = 0.0
    if name == "weighted_trajectory":
        for n in range(2):
            for t in range(lengths[n]):
                s, a = int(pair.states[t, n]), int(pair.actions[t, n])
                weight[n] *= float(TARGET[s, a] / BEHAVIOR[s, a])
        gained = [sum(GAMMA**t * float(pair.rewards[t, n]) for t in range(lengths[n])) for n in range(2)]
        return (weight[0] * gained[0] + weight[1] * gained[1]) / (weight[0] + weight[1])
    for t in range(3):
        before = [each / sum(weight) for each in weight]
        for n in range(2):
            if t < lengths[n]:
                s, a = int(pair.states[t, n]), int(pair.actions[t, n])
                weight[n] *= float(TARGET[s, a] / BEHAVIOR[s, a])
        for n in range(2):
            if t < lengths[n]:
                s, a = int(pair.states[t, n]), int(pair.actions[t, n])
                value = float((TARGET[s] * quality[t, s]).sum())
                gap = float(pair.rewards[t, n]) - float(quality[t, s, a])
                total += GAMMA**t * (before[n] * value + weight[n] / sum(weight) * gap)
    return total


@pytest.mark.parametrize("name", ["weighted_trajectory", "weighted_per_decision", "weighted_doubly_robust"])
def test_the_bias_of_self_normalised_estimates_is_that_of_enumeration(name: str) -> None:
    count = len(CHANCES)
    expected = found = 0.0
    for i in range(count):
        for j in range(count):
            pair = PATHS.columns(torch.tensor([i, j]))
            chance = float(CHANCES[i] * CHANCES[j])
            expected += chance * by_hand(name, pair)
            found += chance * terms_of(name, pair).value()
    assert abs(found - expected) < 1e-10
    assert abs(found - true_value()) > 0.01, "two episodes leave a bias that is no rounding error"


@pytest.mark.parametrize("name", ["weighted_trajectory", "weighted_per_decision", "weighted_doubly_robust"])
def test_the_bias_of_self_normalised_estimates_goes_as_one_over_n(name: str) -> None:
    """In the limit of many episodes, each occurring in proportion to its probability, nothing of it is left."""
    assert abs(float(terms_of(name, PATHS).resampled(CHANCES[None])[0]) - true_value()) < 1e-10


def test_leaving_one_out_and_resampling_are_what_they_say() -> None:
    paths = drawn(12, seed=0)
    for name in ("per_decision", "weighted_per_decision", "weighted_doubly_robust"):
        terms, keep = terms_of(name, paths), torch.arange(1, 12)
        fewer = terms_of(name, paths.columns(keep)).value()
        assert abs(float(terms.without_each()[0]) - fewer) < 1e-10
        twice = terms_of(name, paths.columns(torch.tensor([3, 3, 5])))
        counts = torch.zeros(1, 12, dtype=torch.float64)
        counts[0, 3], counts[0, 5] = 2, 1
        assert abs(float(terms.resampled(counts)[0]) - twice.value()) < 1e-10


def test_the_standard_error_of_a_mean_is_the_usual_one() -> None:
    terms = terms_of("trajectory", drawn(50, seed=1))
    assert terms.standard_error() == pytest.approx(float(terms.values.std()) / math.sqrt(50), rel=1e-10)


def test_a_behaviour_probability_of_zero_is_named() -> None:
    logged = PATHS.log_prob(BEHAVIOR)
    logged[1, 2] = -torch.inf
    with pytest.raises(UsageError, match=r"behavior_log_prob: probability 0 .* step 1 of episode 2"):
        step_log_ratios(PATHS.log_prob(TARGET), logged, PATHS.mask)


def test_padding_may_hold_anything() -> None:
    target, logged = PATHS.log_prob(TARGET), PATHS.log_prob(BEHAVIOR)
    target[~PATHS.mask], logged[~PATHS.mask] = torch.nan, -torch.inf
    assert torch.equal(step_log_ratios(target, logged, PATHS.mask), PATHS.log_ratio())


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_densities_that_are_no_numbers_are_named(bad: float) -> None:
    target = PATHS.log_prob(TARGET)
    target[0, 0] = bad
    with pytest.raises(UsageError, match="target policy: log-probabilities that are nan or inf"):
        step_log_ratios(target, PATHS.log_prob(BEHAVIOR), PATHS.mask)


@pytest.mark.parametrize("size", [1000.0, -1000.0])
def test_ratios_of_a_thousand_nats_are_finite_or_named(size: float) -> None:
    ratio = torch.where(PATHS.mask, size, 0.0).double()
    arguments = {"gamma": GAMMA, "normalise": True}
    for function in (trajectory_terms, per_decision_terms):
        assert math.isfinite(function(PATHS.rewards, ratio, PATHS.mask, **arguments).value())
        if size < 0:
            assert abs(function(PATHS.rewards, ratio, PATHS.mask, gamma=GAMMA, normalise=False).value()) < 1e-300
            continue
        with pytest.raises(UsageError, match=r"weights: e\^[123]000 overflows"):
            function(PATHS.rewards, ratio, PATHS.mask, gamma=GAMMA, normalise=False)


def test_weights_that_multiply_nothing_may_overflow() -> None:
    ratio = torch.where(PATHS.mask, 1000.0, 0.0).double()
    terms = per_decision_terms(torch.zeros_like(PATHS.rewards), ratio, PATHS.mask, gamma=GAMMA, normalise=False)
    assert terms.value() == 0


def test_weights_that_are_all_zero_are_named_where_they_normalise_and_give_zero_where_not() -> None:
    nowhere = torch.where(PATHS.mask, -torch.inf, 0.0).double()
    assert trajectory_terms(PATHS.rewards, nowhere, PATHS.mask, gamma=GAMMA, normalise=False).value() == 0
    for function in (trajectory_terms, per_decision_terms):
        with pytest.raises(UsageError, match="weights: all 0 at step 0"):
            function(PATHS.rewards, nowhere, PATHS.mask, gamma=GAMMA, normalise=True)


def test_the_mass_outside_the_support_is_measured() -> None:
    narrow = torch.tensor([[1.0, 0.0], [0.5, 0.5]], dtype=torch.float64)
    paths = drawn(4000, seed=2, behavior=narrow)
    found = missing_mass(paths.log_ratio(behavior=narrow), paths.mask)
    in_first = float((paths.mask & (paths.states == 0)).sum() / paths.mask.sum())
    assert found.mass == pytest.approx(0.3 * in_first, abs=4 * found.standard_error) and found.is_evident
    covered = [drawn(400, seed) for seed in range(20)]
    assert not any(missing_mass(each.log_ratio(), each.mask).is_evident for each in covered)
    assert not missing_mass(torch.where(PATHS.mask, 1000.0, 0.0).double(), PATHS.mask).is_evident
