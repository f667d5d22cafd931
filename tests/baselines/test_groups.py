"""Episodes that begin alike: leave-one-out within their group is unbiased, and what the start brings about cancels."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from pgkit.baselines.base import MemorylessBaseline
from pgkit.baselines.batch import LeaveOneOut
from pgkit.core import score
from pgkit.core.processes import Process
from pgkit.errors import UsageError
from pgkit.estimators.score_function import ScoreFunction
from pgkit.returns.discounted import RewardToGo
from pgkit.types import Factors
from tests.problems import Enumeration, columns_of

pytestmark = [pytest.mark.exact, pytest.mark.usefixtures("float64")]

STARTS = Process(
    start=[0.5, 0.3, 0.2],
    outcomes={
        (0, 0): [(1.0, 10.0, None)],
        (0, 1): [(0.5, 11.0, None), (0.5, 9.5, 1)],
        (1, 0): [(1.0, -10.0, None)],
        (1, 1): [(1.0, -9.0, None)],
        (2, 0): [(1.0, 1.0, None)],
        (2, 1): [(1.0, 0.0, None)],
    },
    num_actions=2,
    horizon=2,
)
"""Where an episode starts matters ten times as much as what is done."""


class WithItself(MemorylessBaseline):
    """The mean of the group, a column's own outcome in it: the biased twin."""

    def value(self, factors: Factors) -> Tensor:
        assert factors.group is not None
        outcomes = torch.where(factors.mask, factors.signal, 0.0)
        return torch.stack([outcomes[:, factors.group == each].mean(dim=1) for each in factors.group], dim=1)


def moments(
    problem: Enumeration, estimator: ScoreFunction, baseline: MemorylessBaseline, *, shared: bool, gamma: float = 1.0
) -> tuple[Tensor, float]:
    """Returns mean `[P]` and summed variance of the estimate over all batches of two groups of two columns.

    Columns of a group share their start, or, without `shared`, the label alone.
    """
    chances = problem.probabilities().detach()
    starts = problem.trajectories.obs[0]
    factors = problem.factors(RewardToGo(gamma=gamma), estimator=estimator)
    pairs = []
    for pair in itertools.product(range(len(chances)), repeat=2):
        if shared and starts[pair[0]] != starts[pair[1]]:
            continue
        once = STARTS.start[int(starts[pair[0]])] if shared else 1.0
        pairs.append((pair, float(chances[list(pair)].prod()) / once))
    assert sum(chance for _, chance in pairs) == pytest.approx(1.0, abs=1e-12)
    mean, square = torch.zeros(problem.scores.shape[2]), 0.0
    for (first, one), (second, other) in itertools.product(pairs, repeat=2):
        batch = replace(columns_of(factors, torch.tensor(first + second)), group=torch.tensor([0, 0, 1, 1]))
        coefficients = estimator.coefficients(batch, baseline.value(batch))
        found = torch.einsum("tn,tnp->p", coefficients, problem.scores[:, list(first + second)]) / 4
        mean, square = mean + one * other * found, square + one * other * float(found.square().sum())
    return mean, square - float(mean.square().sum())


@pytest.mark.parametrize("ended", ["zero", "exclude"])
def test_leave_one_out_within_groups_is_unbiased_and_its_twin_is_not(ended: str) -> None:
    problem, estimator = Enumeration(STARTS, seed=1), ScoreFunction(gamma=1.0)
    truth = problem.exact_gradient(1.0)
    found, _ = moments(problem, estimator, LeaveOneOut(ended=ended), shared=True)  # type: ignore[arg-type]  # given
    torch.testing.assert_close(found, truth, rtol=0, atol=1e-10)
    biased, _ = moments(problem, estimator, WithItself(), shared=True)
    torch.testing.assert_close(biased, truth / 2, rtol=0, atol=1e-10)


def test_groups_lower_the_variance_where_starts_dominate() -> None:
    problem, estimator = Enumeration(STARTS, seed=1), ScoreFunction(gamma=1.0)
    _, grouped = moments(problem, estimator, LeaveOneOut(), shared=True)
    _, across = moments(problem, estimator, LeaveOneOut(within="batch"), shared=True)
    _, plain = moments(problem, estimator, LeaveOneOut(within="batch"), shared=False)
    # What docs/agents/rloo.md says.
    assert plain / grouped == pytest.approx(3.25, abs=0.01), (grouped, across, plain)
    assert grouped < across


def test_the_deviation_of_a_group_is_biased_and_has_no_scale() -> None:
    problem = Enumeration(STARTS, seed=1)
    normalised = ScoreFunction(gamma=1.0, normalise="group")
    assert not normalised.unbiased and normalised.coupling == "batch"
    found, _ = moments(problem, normalised, LeaveOneOut(), shared=True)
    truth = problem.exact_gradient(1.0)
    assert float((found / found.norm() - truth / truth.norm()).norm()) > 0.05
    coefficients, outcomes = torch.randn(3, 6), torch.randn(6)
    group = torch.tensor([0, 1, 0, 1, 1, 2])
    once = score.over_group_deviation(coefficients, outcomes, group)
    for each in (0, 1):
        mine = group == each
        expected = coefficients[:, mine] / outcomes[mine].std()
        torch.testing.assert_close(once[:, mine], expected, rtol=1e-12, atol=0)
    assert not once[:, group == 2].any()
    shifted = score.over_group_deviation(coefficients, 1e3 * outcomes + 7, group)
    torch.testing.assert_close(1e3 * shifted, once, rtol=1e-9, atol=1e-12)
    assert not score.over_group_deviation(coefficients, torch.full((6,), 0.1), group).any()


@pytest.mark.parametrize("ended", [True, False])
def test_it_is_the_mean_of_the_others_in_a_loop(ended: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    signal, mask = torch.randn(4, 7, generator=generator), torch.rand(4, 7, generator=generator) < 0.7
    group = torch.tensor([0, 2, 0, 1, 2, 2, 0])
    found = score.leave_one_out_of_group(signal, mask, group, ended=ended)
    for t, n in itertools.product(range(4), range(7)):
        others = [m for m in range(7) if m != n and group[m] == group[n] and (ended or mask[t, m])]
        expected = sum(float(signal[t, m]) * bool(mask[t, m]) for m in others) / max(len(others), 1)
        assert float(found[t, n]) == pytest.approx(expected, abs=1e-12)


def test_what_groups_cannot_go_with_is_named() -> None:
    factors = Enumeration(STARTS).factors(RewardToGo(gamma=1.0))
    with pytest.raises(UsageError, match=r"^estimator\.normalise: group without groups"):
        ScoreFunction(gamma=1.0, normalise="group").coefficients(factors, torch.zeros_like(factors.signal))
    labels = torch.zeros(factors.signal.shape[1], dtype=torch.long)
    with pytest.raises(UsageError, match=r"^baseline\.within: group"):
        LeaveOneOut().value(replace(factors, group=labels, strata=labels))
