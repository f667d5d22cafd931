"""Fisher instruments against matrices in full."""

from __future__ import annotations

import logging
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor, nn

from pgkit.baselines.batch import LeaveOneOut
from pgkit.baselines.constant import Zero
from pgkit.core import fisher as matrices
from pgkit.core.natural import solve_dense
from pgkit.core.processes import BANDIT, CHAIN
from pgkit.core.scores import Scores
from pgkit.diagnostics.fisher import FisherGeometry, expected_scores, thinned
from pgkit.policies.mlp import MLPPolicy
from pgkit.rl.factors import LogProbability
from pgkit.snapshot import Snapshot
from tests.diagnostics.snapshots import drawn, snapshot
from tests.problems import Enumeration

pytestmark = [pytest.mark.exact, pytest.mark.usefixtures("float64")]


def steps_of(seen: Snapshot) -> Tensor:
    """Returns the score of every step that counts, `[M, P]`, one backward pass each."""
    module: LogProbability = seen.scores.module  # type: ignore[attr-defined]  # of the concrete class
    log_prob = module(seen.trajectories.obs[:-1], seen.trajectories.actions)  # type: ignore[index]  # no dict here
    parameters = list(module.parameters())
    return torch.stack(
        [
            torch.cat([g.flatten() for g in torch.autograd.grad(value, parameters, retain_graph=True)])
            for value in log_prob[seen.factors.mask]
        ]
    )


@pytest.mark.parametrize("num_columns", [3, 40])
def test_everything_agrees_with_the_matrix_in_full(num_columns: int) -> None:
    problem = Enumeration(CHAIN)
    seen = snapshot(problem, drawn(problem, num_columns, seed=3), Zero())
    found = FisherGeometry(max_rows=10_000, damping=0.05, iterations=3).measure(seen)
    scores = steps_of(seen)
    full, gradient = matrices.empirical(scores), seen.scores.per_sample(seen.coefficients).mean(dim=0)
    damping = 0.05 * float(full.trace()) / len(scores)
    values = torch.linalg.eigvalsh(full).clamp(min=0)
    smallest = values[-min(scores.shape)]
    assert found["fisher/condition_number"] == pytest.approx(float((values[-1] + damping) / (smallest + damping)))
    natural = solve_dense(full, gradient, damping=damping)
    angle = math.degrees(math.acos(float(torch.cosine_similarity(gradient, natural, dim=0))))
    assert found["fisher/natural_angle"] == pytest.approx(angle, abs=1e-6) and angle > 1
    # Three steps of conjugate gradients are the best of their Krylov space in the norm of the matrix.
    damped = full + damping * torch.eye(len(full))
    krylov = torch.stack([torch.linalg.matrix_power(damped, k) @ gradient for k in range(3)], dim=1)
    krylov = torch.linalg.qr(krylov)[0]
    best = krylov @ torch.linalg.solve(krylov.T @ damped @ krylov, krylov.T @ gradient)
    residual = float((damped @ best - gradient).norm() / gradient.norm())
    assert found["fisher/cg_residual"] == pytest.approx(residual, abs=1e-8)


class Linear(nn.Module):
    """Something whose scores are its inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 1, bias=False)

    def forward(self, features: Tensor, actions: Tensor) -> Tensor:
        result: Tensor = self.layer(features).squeeze(-1)
        return result


def test_with_more_steps_than_parameters_the_matrix_itself_is_conditioned() -> None:
    problem = Enumeration(BANDIT)
    seen = snapshot(problem, drawn(problem, 20, seed=0), Zero())
    features = torch.randn(1, 20, 2, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 5.0])
    scores = Scores(Linear(), (features, seen.trajectories.actions), seen.factors.mask)
    found = FisherGeometry(damping=1e-9).measure(replace(seen, scores=scores))["fisher/condition_number"]
    assert found == pytest.approx(float(torch.linalg.cond(features[0].T @ features[0])), rel=1e-5)


def test_the_exact_matrix_is_the_sum_over_actions() -> None:
    problem = Enumeration(CHAIN)
    seen = snapshot(problem, drawn(problem, 5, seed=1), Zero())
    index = thinned(seen, 10_000)
    rows = expected_scores(seen, index)
    pieces = rows.of_steps(torch.arange(rows.mask.numel()))
    found = pieces.T @ pieces
    states, table = seen.trajectories.obs[:-1][seen.factors.mask], problem.table()  # type: ignore[index]  # no dict
    expected = torch.zeros_like(found)
    for state in states.tolist():
        for action in range(2):
            score = problem.gradient(table[state, action].log())
            expected += float(table[state, action].detach()) * torch.outer(score, score)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)
    empirical = float(steps_of(seen).square().sum())
    ratio = FisherGeometry(max_rows=10_000).measure(seen)["fisher/empirical_over_exact"]
    assert ratio == pytest.approx(empirical / float(expected.trace()), abs=1e-10)


def test_the_exact_matrix_of_a_gaussian_is_that_of_its_law() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(2)
        policy = MLPPolicy(
            observation_space=spaces.Box(-1, 1, (3,)), action_space=spaces.Box(-1, 1, (2,)), hidden_sizes=[4],
            init="default", initial_log_std=-0.4,
        )  # fmt: skip
        obs, actions = torch.randn(4, 1, 3), torch.randn(3, 1, 2)
    batch = Enumeration(BANDIT).trajectories.columns(torch.tensor([0]))
    blank = snapshot(Enumeration(BANDIT), torch.tensor([0]), Zero())
    mask = torch.ones(3, 1, dtype=torch.bool)
    zeros = dict.fromkeys(("signal", "log_weight", "rewards", "behavior_log_prob"), torch.zeros(3, 1))
    factors = replace(blank.factors, signal=zeros["signal"], log_weight=zeros["log_weight"], mask=mask)
    batch = replace(
        batch, obs=obs, actions=actions, mask=mask, rewards=zeros["rewards"], starts=mask, terminated=mask,
        truncated=mask, behavior_log_prob=zeros["behavior_log_prob"],
    )  # fmt: skip
    seen = replace(blank, trajectories=batch, factors=factors, before=policy)
    rows = expected_scores(seen, torch.arange(3))
    pieces = rows.of_steps(torch.arange(rows.mask.numel()))
    names = {name: p.detach() for name, p in policy.named_parameters()}
    expected = torch.zeros(pieces.shape[1], pieces.shape[1])
    for row in range(3):

        def law(parameters: dict[str, Tensor], row: int = row) -> torch.distributions.Distribution:
            out = torch.func.functional_call(policy, dict(parameters), (obs[row, 0],))
            return torch.distributions.Independent(torch.distributions.Normal(out[:2], out[2:].exp()), 1)

        expected += matrices.exact(law, names)
    torch.testing.assert_close(pieces.T @ pieces, expected, rtol=0, atol=1e-10)


def test_the_trace_of_many_steps_is_the_exact_one_and_that_of_a_wrong_law_is_not() -> None:
    # Seeded. Actions that the policy did not draw: always the less likely one.
    problem = Enumeration(CHAIN)
    seen = snapshot(problem, drawn(problem, 3000, seed=0), Zero())
    instrument = FisherGeometry(max_rows=400)
    assert instrument.measure(seen)["fisher/empirical_over_exact"] == pytest.approx(1.0, abs=0.15)
    least = problem.table().detach().argmin(dim=1)
    actions = least[seen.trajectories.obs[:-1]]  # type: ignore[index]  # no dict
    scores = Scores(LogProbability(problem.policy), (seen.trajectories.obs[:-1], actions), seen.factors.mask)  # type: ignore[index]  # no dict
    wrong = instrument.measure(replace(seen, scores=scores))["fisher/empirical_over_exact"]
    assert wrong is not None and wrong > 1.5


def test_thinning_is_even_and_keeps_within_its_limit() -> None:
    problem = Enumeration(CHAIN)
    seen = snapshot(problem, drawn(problem, 30, seed=0), Zero())
    valid = np.flatnonzero(seen.factors.mask.numpy())
    for limit in (1, 7, 20, len(valid), 10_000):
        index = thinned(seen, limit).numpy()
        assert 0 < len(index) <= limit and set(index) <= set(valid)
        assert len(set(np.diff(np.searchsorted(valid, index)))) <= 1
    assert len(thinned(seen, 10_000)) == len(valid)


def test_what_a_batch_cannot_answer_is_null_with_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    problem, instrument = Enumeration(BANDIT), FisherGeometry()
    equal = snapshot(problem, torch.zeros(6, dtype=torch.long), LeaveOneOut())
    with caplog.at_level(logging.WARNING, logger="pgkit"):
        for _ in range(2):
            found = instrument.measure(equal)
            assert found["fisher/condition_number"] is not None and found["fisher/empirical_over_exact"] is not None
            assert found["fisher/natural_angle"] is found["fisher/cg_residual"] is None
        nothing = replace(equal, factors=replace(equal.factors, mask=torch.zeros_like(equal.factors.mask)))
        assert [instrument.measure(nothing) for _ in range(2)] == 2 * [dict.fromkeys(instrument.tags)]
    assert [record.getMessage() for record in caplog.records] == [
        "fisher/natural_angle is null: the gradient is 0",
        "fisher/condition_number is null: every score is 0",
    ]
