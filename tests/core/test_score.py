"""Coefficients, and the surrogate that they make."""

from __future__ import annotations

import pytest
import torch

from pgkit.core.score import coefficients, scale, standardise, state_discount, surrogate

pytestmark = pytest.mark.exact


def test_the_gradient_of_the_surrogate_is_in_the_log_probabilities_alone() -> None:
    log_prob = torch.tensor([[0.5, -1.0]], requires_grad=True)
    signal = torch.tensor([[3.0, 4.0]], requires_grad=True)
    weight = torch.tensor([[0.0, 1.0]], requires_grad=True)
    made = coefficients(signal, torch.ones(1, 2), scale(weight, torch.ones(1, 2, dtype=torch.bool)))
    assert not made.requires_grad
    surrogate(log_prob, made, num_samples=2).backward()
    torch.testing.assert_close(log_prob.grad, torch.tensor([[1.0, 1.5 * torch.e]]))
    assert signal.grad is None and weight.grad is None
    # Even coefficients that someone forgot to detach.
    surrogate(log_prob, signal, num_samples=1).backward()
    assert signal.grad is None


@pytest.mark.parametrize("wild", [float("inf"), float("nan"), 1e30])
def test_what_is_outside_the_mask_is_exactly_nothing(wild: float) -> None:
    mask = torch.tensor([[True, False]])
    made = coefficients(
        torch.tensor([[2.0, wild]]), torch.tensor([[0.5, wild]]), scale(torch.tensor([[0.0, wild]]), mask)
    )
    assert made.tolist() == [[1.5, 0.0]]


def test_weights_stay_in_log_space() -> None:
    mask = torch.ones(1, 3, dtype=torch.bool)
    assert scale(torch.tensor([[-1000.0, 0.0, -torch.inf]]), mask).tolist() == [[0.0, 1.0, 0.0]]


def test_standardising_gives_mean_0_and_deviation_1_over_what_is_valid() -> None:
    mask = torch.tensor([[True, True], [True, False]])
    found = standardise(torch.tensor([[1.0, 2.0], [6.0, 999.0]]), mask)
    assert float(found[1, 1]) == 0.0
    assert float(found[mask].mean()) == pytest.approx(0, abs=1e-6)
    assert float(found[mask].std()) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("value", [0.0, 0.1, -1000.1])
@pytest.mark.parametrize("count", [1, 2, 7, 100, 1000])
def test_equal_advantages_standardise_to_nothing(value: float, count: int) -> None:
    # Their mean is off by a rounding error, and so is their deviation: the quotient of the two would be ±1.
    mask = torch.ones(count, 1, dtype=torch.bool)
    assert standardise(torch.full((count, 1), value), mask).abs().max() == 0


def test_states_are_discounted_by_their_time() -> None:
    time = torch.tensor([[0.0], [1.0], [3.0]])
    assert state_discount(time, 0.5).tolist() == [[1.0], [0.5], [0.125]]
    assert state_discount(time, 0.0).tolist() == [[1.0], [0.0], [0.0]]
