"""Variances of gradients against what enumeration says they are."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from pgkit.baselines.batch import LeaveOneOut
from pgkit.baselines.constant import Zero
from pgkit.core.moments import (
    GradientMoments,
    PairMoments,
    explained_variance,
    independent_moments,
    mean_pairs,
    pair_moments,
)
from pgkit.core.processes import BANDIT, CHAIN, GAMBLE, Process
from pgkit.estimators.score_function import ScoreFunction
from pgkit.protocols import Baseline
from pgkit.returns.discounted import RewardToGo
from tests.problems import Enumeration

pytestmark = [pytest.mark.exact, pytest.mark.usefixtures("float64")]


def true_variance(problem: Enumeration, num_columns: int, baseline: Baseline) -> float:
    """Returns the trace of the covariance of the estimate over all batches."""
    factors, estimator = problem.factors(RewardToGo(gamma=1.0)), ScoreFunction(gamma=1.0)
    square = 0.0
    for columns, probability in problem.batches(num_columns):
        square += probability * float(problem.estimate(columns, factors, baseline, estimator).square().sum())
    return square - float(problem.exact_gradient(1.0).square().sum())


def cross_gradients(problem: Enumeration) -> Tensor:
    """Returns Σ_t G_it s_jt for any two trajectories, `[K, K, P]`."""
    return torch.einsum("ti,tjp->ijp", problem.factors(RewardToGo(gamma=1.0)).signal, problem.scores)


def expected_pairs(problem: Enumeration, size: int) -> PairMoments:
    """Returns the expectation of the kernel moments over every group of `size` columns, in every order."""
    cross = cross_gradients(problem)
    expected = torch.zeros(3)
    for columns, probability in problem.batches(size):
        found = pair_moments(cross[columns][:, columns])
        expected += probability * torch.tensor([found.disjoint, found.sharing_one, found.same])
    disjoint, sharing_one, same = expected.tolist()
    return PairMoments(disjoint=disjoint, sharing_one=sharing_one, same=same)


@pytest.mark.parametrize(("process", "num_columns"), [(BANDIT, 2), (BANDIT, 5), (CHAIN, 2)])
def test_moments_of_independent_samples_are_unbiased(process: Process, num_columns: int) -> None:
    problem = Enumeration(process)
    own = cross_gradients(problem).diagonal(dim1=0, dim2=1).T
    per_sample = of_mean = signal = 0.0
    for columns, probability in problem.batches(num_columns):
        batch = own[columns]
        found = independent_moments(batch.mean(dim=0), float(batch.square().sum()), num_columns)
        per_sample += probability * found.per_sample_variance
        of_mean += probability * found.variance_of_mean
        signal += probability * found.signal
    assert per_sample == pytest.approx(true_variance(problem, 1, Zero()), abs=1e-10)
    assert of_mean == pytest.approx(true_variance(problem, num_columns, Zero()), abs=1e-10)
    assert signal == pytest.approx(float(problem.exact_gradient(1.0).square().sum()), abs=1e-10)


def test_the_variance_of_a_leave_one_out_estimate_is_unbiased_and_the_independent_formula_understates_it() -> None:
    problem = Enumeration(BANDIT, seed=4)
    truth = true_variance(problem, 4, LeaveOneOut())
    assert expected_pairs(problem, 4).variance_of_mean(4) == pytest.approx(truth, abs=1e-10)
    cross, naive = cross_gradients(problem), 0.0
    for columns, probability in problem.batches(4):
        own = leave_one_out_gradients(cross, columns[None])[0]
        naive += probability * independent_moments(own.mean(dim=0), float(own.square().sum()), 4).variance_of_mean
    assert naive < 0.7 * truth


@pytest.mark.parametrize("size", [4, 5])
def test_small_groups_foretell_the_variance_of_the_whole_batch(size: int) -> None:
    problem = Enumeration(BANDIT)
    moments = expected_pairs(problem, size)
    assert moments.disjoint == pytest.approx(float(problem.exact_gradient(1.0).square().sum()), abs=1e-10)
    for num_columns in (2, 6, 8):
        truth = true_variance(problem, num_columns, LeaveOneOut())
        assert moments.variance_of_mean(num_columns) == pytest.approx(truth, abs=1e-10)


def test_the_kernel_moments_are_those_of_loops() -> None:
    generator = torch.Generator().manual_seed(0)
    outcomes, scores = torch.randn(3, 5, generator=generator), torch.randn(3, 5, 2, generator=generator)
    kernel = {
        (i, j): 0.5 * ((outcomes[:, i] - outcomes[:, j])[:, None] * (scores[:, i] - scores[:, j])).sum(dim=0)
        for i, j in itertools.permutations(range(5), 2)
    }
    quadruples = [kernel[i, j] @ kernel[k, m] for i, j, k, m in itertools.permutations(range(5), 4)]
    triples = [kernel[i, j] @ kernel[i, k] for i, j, k in itertools.permutations(range(5), 3)]
    pairs = [each @ each for each in kernel.values()]
    found = pair_moments(torch.einsum("ti,tjp->ijp", outcomes, scores))
    assert found.disjoint == pytest.approx(float(sum(quadruples) / len(quadruples)), abs=1e-12)
    assert found.sharing_one == pytest.approx(float(sum(triples) / len(triples)), abs=1e-12)
    assert found.same == pytest.approx(float(sum(pairs) / len(pairs)), abs=1e-12)
    with pytest.raises(ValueError, match="3 samples, expected at least 4"):
        pair_moments(torch.zeros(3, 3, 1))


def leave_one_out_gradients(cross: Tensor, columns: Tensor) -> Tensor:
    """Returns each column's gradient against the mean of the others, `[B, N, P]`, for batches `[B, N]`."""
    block = cross[columns[:, :, None], columns[:, None, :]]
    own = block.diagonal(dim1=1, dim2=2).transpose(1, 2)
    return own - (block.sum(dim=1) - own) / (columns.shape[1] - 1)


@pytest.mark.statistical
def test_over_ten_thousand_batches_of_a_process_the_mean_estimate_is_the_enumerated_variance() -> None:
    # Four standard errors: a false alarm once in 16,000 seeds. The twin takes the columns for independent.
    problem, num_columns, num_batches = Enumeration(GAMBLE, seed=4), 4, 10_000
    probabilities, cross = problem.probabilities().detach(), cross_gradients(problem)
    pairs = torch.cartesian_prod(*[torch.arange(len(probabilities))] * 2)
    weight = probabilities[pairs].prod(dim=1)
    own = cross.diagonal(dim1=0, dim2=1).T
    kernel = 0.5 * (own[:, None] + own[None, :] - cross - cross.transpose(0, 1))
    projected = torch.einsum("j,ijp->ip", probabilities, kernel)
    signal = float(problem.exact_gradient(1.0).square().sum())
    one = float(probabilities @ projected.square().sum(dim=1)) - signal
    both = float(weight @ kernel.square().sum(dim=2).flatten()) - signal
    n = num_columns
    truth = (4 * (n - 2) * one + 2 * both) / (n * (n - 1))

    generator = torch.Generator().manual_seed(0)
    columns = torch.multinomial(probabilities, num_batches * n, replacement=True, generator=generator).reshape(-1, n)
    gradients = leave_one_out_gradients(cross, columns)
    ours, naive = torch.empty(num_batches), torch.empty(num_batches)
    for index, (batch, own) in enumerate(zip(columns, gradients, strict=True)):
        ours[index] = pair_moments(cross[batch][:, batch]).variance_of_mean(n)
        naive[index] = independent_moments(own.mean(dim=0), float(own.square().sum()), n).variance_of_mean

    def standard_errors(estimates: Tensor) -> float:
        return abs(float(estimates.mean()) - truth) / (float(estimates.std()) / math.sqrt(num_batches))

    measured = float(gradients.mean(dim=1).var(dim=0).sum())
    assert measured == pytest.approx(truth, rel=0.1)
    assert standard_errors(ours) < 4
    assert not standard_errors(naive) < 4


def test_groups_are_averaged() -> None:
    first = PairMoments(disjoint=1.0, sharing_one=2.0, same=3.0)
    second = PairMoments(disjoint=3.0, sharing_one=6.0, same=9.0)
    assert mean_pairs([first, second]) == PairMoments(disjoint=2.0, sharing_one=4.0, same=6.0)


def test_ratios_without_meaning_are_null() -> None:
    still = GradientMoments(per_sample_variance=0.0, variance_of_mean=0.0, signal=4.0)
    assert still.snr is None and still.expected_cosine is None
    lost = GradientMoments(per_sample_variance=8.0, variance_of_mean=2.0, signal=-1.0)
    assert lost.snr == -0.5 and lost.expected_cosine is None
    clear = GradientMoments(per_sample_variance=8.0, variance_of_mean=1.0, signal=3.0)
    assert clear.snr == 3.0 and clear.expected_cosine == pytest.approx(0.75**0.5)


def test_explained_variance_is_1_for_a_perfect_prediction_and_0_for_a_constant() -> None:
    target = torch.tensor([1.0, 2.0, 4.0])
    assert explained_variance(target + 7, target) == pytest.approx(1.0)
    assert explained_variance(torch.full((3,), 5.0), target) == pytest.approx(0.0)
    assert explained_variance(-target, target) == pytest.approx(-3.0)


@pytest.mark.parametrize("count", [0, 1, 7, 1000])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_explained_variance_is_null_where_nothing_varies(count: int, dtype: torch.dtype) -> None:
    target = torch.full((count,), 0.1, dtype=dtype)
    assert explained_variance(torch.arange(count, dtype=dtype), target) is None
