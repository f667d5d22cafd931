"""The variance of a mean over groups of columns that began alike: exact, and what columns taken for draws would say."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from pgkit.baselines.base import MemorylessBaseline
from pgkit.baselines.batch import LeaveOneOut
from pgkit.baselines.constant import Zero
from pgkit.diagnostics.variance import GradientVariance
from pgkit.estimators.score_function import ScoreFunction
from pgkit.returns.discounted import RewardToGo
from pgkit.snapshot import Snapshot
from pgkit.types import Metrics
from tests.baselines.test_groups import STARTS, moments
from tests.diagnostics.snapshots import snapshot
from tests.end_to_end.runs import train_briefly
from tests.problems import Enumeration, columns_of

GROUPS = torch.tensor([0, 0, 1, 1])
TAGS = ("gradient/per_sample_variance", "gradient/variance_of_mean")


def shown(problem: Enumeration, columns: Tensor, estimator: ScoreFunction, baseline: MemorylessBaseline) -> Snapshot:
    """Returns what an instrument sees of two groups of two columns."""
    factors = columns_of(problem.factors(RewardToGo(gamma=1.0), estimator=estimator), columns)
    factors = replace(factors, group=GROUPS)
    reference = baseline.value(factors)
    return replace(
        snapshot(problem, columns, baseline, coupling="batch"),
        factors=factors,
        estimator=estimator,
        baseline=reference,
        coefficients=estimator.coefficients(factors, reference),
        groups=GROUPS,
    )


def expected(
    problem: Enumeration, estimator: ScoreFunction, baseline: MemorylessBaseline, *, as_groups: bool
) -> tuple[float, float, float]:
    """Returns the expectations of both variances over all batches, and the true variance of one column's gradient."""
    chances, starts = problem.probabilities().detach(), problem.trajectories.obs[0]
    pairs = [
        (pair, float(chances[list(pair)].prod()) / STARTS.start[int(starts[pair[0]])])
        for pair in itertools.product(range(len(chances)), repeat=2)
        if starts[pair[0]] == starts[pair[1]]
    ]
    instrument, found, square = GradientVariance(), [0.0, 0.0], 0.0
    mean = torch.zeros(problem.scores.shape[2])
    for (first, one), (second, other) in itertools.product(pairs, repeat=2):
        seen = shown(problem, torch.tensor(first + second), estimator, baseline)
        gradients = torch.einsum("tn,tnp->np", seen.coefficients, problem.scores[:, list(first + second)])
        mean, square = (
            mean + one * other * gradients.mean(0),
            square + one * other * float(gradients.square().sum()) / 4,
        )
        twin = replace(seen, groups=None, coupling="independent")
        measured = instrument.measure(seen if as_groups else twin)
        for place, tag in enumerate(TAGS):
            value = measured[tag]
            assert value is not None
            found[place] += one * other * value
    return found[0], found[1], square - float(mean.square().sum())


@pytest.mark.exact
@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(
    ("estimator", "baseline"),
    [
        (ScoreFunction(gamma=1.0), LeaveOneOut()),
        (ScoreFunction(gamma=1.0), Zero()),
        (ScoreFunction(gamma=1.0, normalise="group"), LeaveOneOut()),
    ],
    ids=["leave-one-out", "no baseline", "over the deviation"],
)
def test_the_variance_of_a_mean_over_groups_is_exact(estimator: ScoreFunction, baseline: MemorylessBaseline) -> None:
    problem = Enumeration(STARTS, seed=1)
    _, truth = moments(problem, estimator, baseline, shared=True)
    of_one, of_mean, one = expected(problem, estimator, baseline, as_groups=True)
    assert of_mean == pytest.approx(truth, rel=1e-10)
    assert of_one == pytest.approx(one, rel=1e-10)
    # Columns taken for independent draws are wrong, whichever way the start or the baseline ties them.
    assert abs(expected(problem, estimator, baseline, as_groups=False)[1] / truth - 1) > 5e-3


@pytest.mark.exact
@pytest.mark.usefixtures("float64")
def test_some_groups_stand_for_all() -> None:
    problem, baseline = Enumeration(STARTS, seed=1), LeaveOneOut()
    columns = torch.arange(8) % 4
    group = torch.tensor([0, 1, 0, 1, 2, 3, 2, 3])
    seen = replace(snapshot(problem, columns, baseline), groups=group)
    gradients = torch.einsum("tn,tnp->np", seen.coefficients, problem.scores[:, columns])
    means = torch.stack([gradients[group == each].mean(dim=0) for each in range(4)])
    whole = GradientVariance().measure(seen)["gradient/variance_of_mean"]
    assert whole == pytest.approx(float(means.var(dim=0).sum()) / 4, rel=1e-10)
    part = GradientVariance(max_columns=8).measure(seen)
    assert part == GradientVariance().measure(seen)
    one = replace(seen, groups=torch.zeros(8, dtype=torch.long))
    assert set(GradientVariance().measure(one).values()) == {None}


def latest(*overrides: str) -> Metrics:
    """Returns what a short run last logged."""
    measured = ("diagnostics=[variance]", "diagnostics.every=1", "total_steps=600")
    return train_briefly("env=CartPole", *overrides, *measured)[1].latest


@pytest.mark.parametrize("agent", ["rloo", "grpo"])
def test_agents_with_groups_log_the_noise_of_their_gradient(agent: str) -> None:
    found = latest(f"agent={agent}")
    assert all(found[tag] is not None and found[tag] > 0 for tag in TAGS)
    # The spread of two groups is too uncertain to divide by, that of four is not.
    assert "gradient/snr" not in found and "gradient/snr" in latest(f"agent={agent}", "collect.episodes=32")


@pytest.mark.parametrize("across", ["baseline.within=batch", "collect.episodes=8", "estimator.standardise=true"])
def test_what_ties_groups_leaves_it_blank(across: str) -> None:
    assert not set(TAGS) & set(latest("agent=rloo", across))
