"""What multiplies the advantages, and what an estimator says of itself."""

from __future__ import annotations

import pytest
import torch

from pgkit.estimators.score_function import ScoreFunction
from pgkit.types import Factors

pytestmark = pytest.mark.exact


def factors(time: torch.Tensor | None) -> Factors:
    mask = torch.tensor([[True, True], [True, False]])
    return Factors(signal=torch.tensor([[1.0, 2.0], [6.0, 999.0]]), log_weight=torch.zeros(2, 2), mask=mask, time=time)


def test_coefficients_are_the_scale_times_the_advantage() -> None:
    read = factors(torch.tensor([[0.0, 0.0], [1.0, 1.0]]))
    baseline = torch.tensor([[0.5, 1.0], [2.0, 777.0]])
    for discount, expected in ((False, [[0.5, 1.0], [4.0, 0.0]]), (True, [[0.5, 1.0], [2.0, 0.0]])):
        estimator = ScoreFunction(gamma=0.5, discount_states=discount)
        assert estimator.coefficients(read, baseline).tolist() == expected
        assert torch.equal(estimator.scale(read) * (read.signal - baseline), torch.tensor(expected))


def test_discounting_states_needs_their_time() -> None:
    with pytest.raises(ValueError, match="time: None"):
        ScoreFunction(gamma=0.5, discount_states=True).scale(factors(None))


def test_a_lone_sample_standardises_to_nothing() -> None:
    one = Factors(signal=torch.tensor([[3.0]]), log_weight=torch.zeros(1, 1), mask=torch.ones(1, 1, dtype=torch.bool))
    found = ScoreFunction(gamma=1.0, standardise=True).coefficients(one, torch.zeros(1, 1))
    assert found.tolist() == [[0.0]]
