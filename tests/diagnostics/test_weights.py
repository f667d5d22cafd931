"""The instrument of importance weights: what it says of known weights, and of those that no batch should have."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from pgkit.core import weight_health
from pgkit.diagnostics.weights import WeightHealth
from pgkit.experience import Weights
from pgkit.snapshot import Facts, Snapshot
from pgkit.types import Factors, Trajectories, WeightKind
from pgkit.weights.mixtures import Balance
from pgkit.weights.on_policy import OnPolicy
from pgkit.weights.ratios import OneStep, PerDecision, Trajectory

pytestmark = [pytest.mark.exact, pytest.mark.usefixtures("float64")]


class Says:
    """A policy that says what a test wants it to."""

    def __init__(self, log_prob: Tensor) -> None:
        self.table = log_prob

    def log_prob(self, obs: Tensor, actions: Tensor) -> Tensor:
        return self.table.flatten()[actions]


def facts(kind: WeightKind | None = "prefix", batches: int = 4, *, whole_episodes: bool = True) -> Facts:
    return Facts(
        env="Toy", columns=4, whole_episodes=whole_episodes, has_values=False, layout={}, batches=batches, weights=kind
    )


def seen(
    log_target: Any,
    log_behavior: Any,
    weights: Weights,
    *,
    age: Sequence[int] | None = None,
    mask: Any = None,
    others: Any = None,
) -> Snapshot:
    """Returns what an instrument sees of a batch `[T, N]` of such log-probabilities."""
    target, behavior = torch.as_tensor(log_target).double(), torch.as_tensor(log_behavior).double()
    steps, columns = behavior.shape
    never = torch.zeros(steps, columns, dtype=torch.bool)
    ages = None if age is None else torch.tensor(age)
    batch = Trajectories(
        obs=torch.zeros(steps + 1, columns), actions=torch.arange(steps * columns).reshape(steps, columns),
        rewards=torch.ones(steps, columns), behavior_log_prob=behavior, terminated=never, truncated=never, starts=never,
        behavior_id=torch.zeros(columns, dtype=torch.long) if ages is None or others is None else ages, age=ages,
        mask=torch.ones(steps, columns, dtype=torch.bool) if mask is None else torch.as_tensor(mask),
        lane=torch.zeros(columns, dtype=torch.long), whole_episodes=True,
        log_densities=None if others is None else torch.as_tensor(others).double(),
    )  # fmt: skip
    policy = cast(Any, Says(target))
    factors = Factors(signal=batch.rewards, log_weight=weights.log_weight(policy, batch), mask=batch.mask)
    nothing = cast(Any, None)
    return Snapshot(
        trajectories=batch, factors=factors, baseline=nothing, coefficients=nothing, estimator=nothing,
        coupling="independent", before=policy, policy=policy, scores=nothing,
    )  # fmt: skip


def test_equal_and_unequal_weights_count_as_they_should() -> None:
    instrument = WeightHealth(facts=facts(batches=1))
    weights = [4.0, 1.0, 1.0, 2.0]
    found = instrument.measure(seen([[math.log(w) for w in weights]], torch.zeros(1, 4), Trajectory()))
    assert set(found) == set(instrument.tags)
    assert found["weights/ess_fraction"] == pytest.approx(64 / 22 / 4)
    assert found["weights/largest_share"] == pytest.approx(0.5)
    entropy = -sum(w / 8 * math.log(w / 8) for w in weights)
    assert found["weights/perplexity_fraction"] == pytest.approx(math.exp(entropy) / 4)
    assert found["weights/renyi_divergence"] == pytest.approx(math.log(22 / 4))
    assert found["weights/missing_mass"] == pytest.approx(1 - 2.0)
    assert found["weights/log_weight_high"] == pytest.approx(math.log(4)) and found["weights/log_weight_low"] == 0
    assert found["weights/alarm"] == 0 and found["weights/pareto_k"] is None


def test_lags_and_times_are_told_apart() -> None:
    """Two steps; columns of the lags 0, 0, 1, 1, 2, the second step of the last outside the mask."""
    ratio = torch.tensor([[0.0, 0.0, 0.1, 0.3, 0.7], [0.0, 0.0, 0.2, -0.4, 99.0]])
    mask = torch.tensor([[True] * 5, [True] * 4 + [False]])
    batch = seen(ratio, torch.zeros(2, 5), PerDecision(), age=(0, 0, 1, 1, 2), mask=mask)
    found = WeightHealth(facts=facts(batches=4)).measure(batch)

    def share(*logs: float) -> float:
        weights = [math.exp(each) for each in logs]
        return sum(weights) ** 2 / sum(w * w for w in weights) / len(weights)

    assert found["weights/lag_1/ess_fraction"] == pytest.approx(share(0.3, -0.1))
    assert found["weights/lag_2/ess_fraction"] == 1 and found["weights/lag_3/ess_fraction"] is None
    assert found["weights/time_25/ess_fraction"] == pytest.approx(share(0.1, 0.3, 0.7))
    assert found["weights/time_50/ess_fraction"] == found["weights/time_25/ess_fraction"]
    assert found["weights/time_100/ess_fraction"] == pytest.approx(share(0.3, -0.1, 0.7))
    assert found["weights/time_100/log_weight"] == pytest.approx(0.3)
    assert found["weights/ess_fraction"] == pytest.approx(share(0, 0, 0.3, -0.1, 0.7))


def test_rows_are_looked_at_one_by_one_where_they_are_weighted_so() -> None:
    ratio = torch.tensor([[0.0, 0.5], [-0.5, 99.0]])
    mask = torch.tensor([[True, True], [True, False]])
    found = WeightHealth(facts=facts("step", 2)).measure(
        seen(ratio, torch.zeros(2, 2), OneStep(), age=(0, 1), mask=mask)
    )
    weights = [1.0, math.exp(0.5), math.exp(-0.5)]
    assert found["weights/ess_fraction"] == pytest.approx(sum(weights) ** 2 / sum(w * w for w in weights) / 3)
    assert found["weights/lag_1/log_weight"] == pytest.approx(0.5)
    assert found["weights/time_100/ess_fraction"] is None


def test_what_the_data_never_show_is_measured_and_said_once(caplog: pytest.LogCaptureFixture) -> None:
    """The behaviour always takes an action to which the policy gives .7: three tenths of it are out of sight."""
    instrument = WeightHealth(facts=facts(batches=1))
    batch = seen(torch.full((1, 8), math.log(0.7)), torch.zeros(1, 8), Trajectory())
    with caplog.at_level(logging.WARNING, "pgkit"):
        for _ in range(2):
            found = instrument.measure(batch)
    assert found["weights/missing_mass"] == pytest.approx(0.3) and found["weights/alarm"] == 1
    assert found["weights/ess_fraction"] == pytest.approx(1.0)
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 1 and "missing_mass is 0.3" in said[0] and "effective sample size is 1 of the batch" in said[0]


def test_a_mixture_with_the_policy_itself_misses_nothing() -> None:
    """The old policy never takes what the new one took in its own columns."""
    half, inf = math.log(0.5), math.inf
    others = [[[half, half, half, half]], [[-inf, 0.0, 0.0, 0.0]]]
    batch = seen([[half] * 4], [[half, half, 0.0, 0.0]], Balance(), age=(0, 0, 1, 1), others=others)
    found = WeightHealth(facts=facts(batches=2)).measure(batch)
    weights = [2.0, 2 / 3, 2 / 3, 2 / 3]
    assert found["weights/missing_mass"] == pytest.approx(1 - sum(weights) / 4) and found["weights/alarm"] == 0
    assert found["weights/lag_1/log_weight"] == pytest.approx(half)


def test_weights_that_are_all_zero_are_worth_nothing_and_alarm() -> None:
    batch = seen(torch.full((2, 3), -math.inf), torch.zeros(2, 3), Trajectory(), age=(1, 1, 1))
    found = WeightHealth(facts=facts(batches=2)).measure(batch)
    assert found["weights/ess_fraction"] == found["weights/lag_1/ess_fraction"] == 0
    assert found["weights/alarm"] == 1 and found["weights/missing_mass"] == 1 and found["weights/clamped"] == 6
    assert found["weights/log_weight"] is None and found["weights/renyi_divergence"] is None


@pytest.mark.parametrize("size", [1000.0, -1000.0, -math.inf])
@pytest.mark.parametrize("kind", ["prefix", "step"])
@pytest.mark.parametrize("columns", [1, 2, 40])
def test_nothing_is_ever_nan_and_what_was_clamped_is_counted(size: float, kind: WeightKind, columns: int) -> None:
    ratio = torch.zeros(3, columns)
    ratio[1, 0] = size
    weights: Weights = OneStep() if kind == "step" else PerDecision()
    found = WeightHealth(facts=facts(kind)).measure(seen(ratio, torch.zeros(3, columns), weights))
    assert all(value is None or math.isfinite(value) for value in found.values())
    assert found["weights/clamped"] == (1 if kind == "step" else 2)


def test_rows_outside_the_mask_are_not_counted_as_clamped() -> None:
    mask = torch.tensor([[True, True], [False, True]])
    batch = seen([[1000.0, 0.0], [0.0, 0.0]], torch.zeros(2, 2), Trajectory(), mask=mask)
    assert WeightHealth(facts=facts(batches=1)).measure(batch)["weights/clamped"] == 1


def test_data_of_the_policy_itself_have_no_weights_and_the_reason_is_said(caplog: pytest.LogCaptureFixture) -> None:
    instrument = WeightHealth(facts=facts(None, 1))
    with caplog.at_level(logging.WARNING, "pgkit"):
        found = instrument.measure(seen(torch.zeros(2, 2), torch.zeros(2, 2), OnPolicy()))
    assert set(found) == set(instrument.tags) and not any(value is not None for value in found.values())
    assert "the policy's own" in caplog.text


def test_reused_batches_without_weights_are_still_told_by_lag() -> None:
    """A clipped update takes ratios of its own: what its old batches are worth is known all the same."""
    batch = seen([[0.0, 0.5]], torch.zeros(1, 2), OnPolicy(), age=(0, 1))
    found = WeightHealth(facts=facts(None, 2)).measure(batch)
    assert found["weights/lag_1/log_weight"] == pytest.approx(0.5) and found["weights/ess_fraction"] is None


def test_an_empty_batch_has_no_answer() -> None:
    batch = seen(torch.zeros(1, 2), torch.zeros(1, 2), Trajectory())
    empty = replace(batch, factors=replace(batch.factors, mask=torch.zeros(1, 2, dtype=torch.bool)))
    assert not any(value is not None for value in WeightHealth(facts=facts()).measure(empty).values())


def test_a_heavy_tail_alarms() -> None:
    draws = torch.distributions.Pareto(1.0, 0.8).icdf((torch.arange(200) + 0.5) / 200).log()
    found = WeightHealth(facts=facts(batches=1), least=0.0).measure(
        seen(draws[None], torch.zeros(1, 200), Trajectory())
    )
    assert found["weights/pareto_k"] is not None and found["weights/pareto_k"] > weight_health.TRUSTED
    assert found["weights/alarm"] == 1
