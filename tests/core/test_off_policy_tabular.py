"""Marginal ratios and counted models against dynamic programming."""

from __future__ import annotations

import pytest
import torch

from pgkit.core.off_policy_tabular import marginal_terms, marginal_values, tabular_values
from pgkit.core.processes import CHAIN
from pgkit.errors import UsageError
from tests.off_policy import BEHAVIOR, GAMMA, TARGET, Paths, drawn, every_path, occupancy, true_value

PATHS = every_path()
CHANCES = CHAIN.probabilities(BEHAVIOR)


def test_with_true_ratios_the_expectation_is_the_value_of_the_target() -> None:
    ratios = occupancy(CHAIN, TARGET) / occupancy(CHAIN, BEHAVIOR)
    arguments = (PATHS.states, PATHS.log_ratio(), PATHS.rewards, PATHS.mask)
    terms = marginal_terms(*arguments, ratios=ratios, gamma=GAMMA)
    assert abs(float(CHANCES @ terms.values[0]) - true_value()) < 1e-10
    wrong = marginal_terms(*arguments, ratios=torch.ones_like(ratios), gamma=GAMMA)
    assert abs(float(CHANCES @ wrong.values[0]) - true_value()) > 0.01


def estimated(paths: Paths, counts: torch.Tensor) -> torch.Tensor:
    arguments = (paths.states, paths.log_ratio(), paths.rewards, paths.mask)
    return marginal_values(*arguments, counts, num_states=2, gamma=GAMMA)


def test_estimated_ratios_are_exact_at_the_true_frequencies() -> None:
    assert abs(float(estimated(PATHS, CHANCES[None])[0]) - true_value()) < 1e-10


def test_every_row_of_counts_is_a_data_set_of_its_own() -> None:
    paths = drawn(9, seed=0)
    counts = torch.tensor([[1.0] * 9, [3.0] + [0.0] * 4 + [2.0] + [0.0] * 3], dtype=torch.float64)
    few = paths.columns(torch.tensor([0, 0, 0, 5, 5]))
    both = estimated(paths, counts)
    assert float(both[1]) == pytest.approx(float(estimated(few, torch.ones(1, 5).double())[0]), abs=1e-12)


def test_counted_frequencies_that_are_the_true_ones_give_the_true_q() -> None:
    """Episodes repeated as often as their probabilities say are the process; only γ and the horizon remain."""
    counts = (CHANCES * 100_000).round().long()
    assert float((counts.double() / 100_000 - CHANCES).abs().max()) < 1e-12
    whole = PATHS.columns(torch.repeat_interleave(torch.arange(len(counts)), counts))
    quality = tabular_values(whole.states, whole.actions, whole.rewards, whole.mask, TARGET, gamma=GAMMA)
    _, exact = CHAIN.values(TARGET, GAMMA)
    assert float((quality - exact).abs().max()) < 1e-10


def test_a_pair_that_never_occurred_earns_nothing() -> None:
    paths = drawn(200, seed=1, behavior=torch.tensor([[1.0, 0.0], [0.0, 1.0]], dtype=torch.float64))
    quality = tabular_values(paths.states, paths.actions, paths.rewards, paths.mask, TARGET, gamma=GAMMA)
    assert not quality[:, 0, 1].any() and not quality[:, 1, 0].any() and quality[:, 0, 0].all()


def test_a_ratio_that_overflows_is_named() -> None:
    huge = torch.where(PATHS.mask, 1000.0, 0.0).double()
    with pytest.raises(UsageError, match=r"weights: e\^1000 overflows"):
        marginal_values(PATHS.states, huge, PATHS.rewards, PATHS.mask, CHANCES[None], num_states=2, gamma=GAMMA)
