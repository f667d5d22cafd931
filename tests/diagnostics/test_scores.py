"""E[score] = 0, told from a log-probability that is not that of the law that acted."""

from __future__ import annotations

import logging
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from pgkit.baselines.constant import Zero
from pgkit.core.processes import BANDIT, CHAIN
from pgkit.core.scores import Scores
from pgkit.diagnostics.scores import ScoreMean, bound
from pgkit.snapshot import Snapshot
from tests.diagnostics.snapshots import drawn, snapshot
from tests.problems import Enumeration

pytestmark = [pytest.mark.exact, pytest.mark.usefixtures("float64")]


class Heated(nn.Module):
    """log π(a|s) of a policy whose logits were divided by a temperature that was forgotten when it acted."""

    def __init__(self, policy: nn.Module, temperature: float) -> None:
        super().__init__()
        self.policy, self.temperature = policy, temperature

    def forward(self, obs: Tensor, actions: Tensor) -> Tensor:
        logits = self.policy(obs) / self.temperature
        return torch.log_softmax(logits, dim=-1).gather(-1, actions[..., None]).squeeze(-1)


def heated(problem: Enumeration, columns: Tensor, temperature: float) -> Snapshot:
    """Returns a batch that was drawn at temperature 1 and is judged at another."""
    seen = snapshot(problem, columns, Zero())
    batch = seen.trajectories
    scores = Scores(Heated(problem.policy, temperature), (batch.obs[:-1], batch.actions), batch.mask)
    return replace(seen, scores=scores)


def test_z_scores_are_sums_over_roots_of_variances_and_old_ones_fade() -> None:
    problem, instrument = Enumeration(CHAIN), ScoreMean(window=4, max_rows=10_000)
    table = problem.table()
    second = torch.stack(
        [
            sum(float(row[a].detach()) * problem.gradient(row[a].log()).square() for a in range(len(row)))
            for row in table
        ]
    )  # E[s²] in every state
    rows, weights, expected = [], [], torch.zeros(())
    for number in range(3):
        seen = snapshot(problem, drawn(problem, 6, seed=number), Zero())
        assert seen.factors.scale is not None
        found = instrument.measure(seen)
        rows.append(seen.scores.per_sample(seen.factors.scale))
        weights.append(torch.full((6, 1), 0.75**-number))
        states = seen.trajectories.obs[:-1][seen.factors.mask]  # type: ignore[index]  # no dict
        expected = expected + second[states].sum(dim=0) * 0.75 ** (-2 * number)
        sums = torch.cat(rows) * torch.cat(weights)
        z = sums.sum(dim=0) / torch.maximum(sums.square().sum(dim=0), expected).sqrt()
        assert found["scores/z_max"] == pytest.approx(float(z.abs().max()), abs=1e-12)
        assert found["scores/z_rms"] == pytest.approx(float(z.square().mean().sqrt()), abs=1e-12)


def test_an_action_too_rare_to_be_drawn_raises_no_alarm() -> None:
    # Every trajectory took the likely action, as it does when the other has a chance of 1 in 1000: z² is 64 / 1000.
    problem = Enumeration(BANDIT)
    with torch.no_grad():
        problem.policy.network[0].weight.zero_()
        problem.policy.network[0].bias.copy_(torch.tensor([0.998, 0.001, 0.001]).log())
    likely = int(problem.probabilities().argmax())
    found = ScoreMean().measure(snapshot(problem, torch.full((64,), likely), Zero()))
    assert found["scores/z_max"] is not None and found["scores/z_max"] < 0.4


@pytest.mark.statistical
@pytest.mark.parametrize("temperature", [1.0, 1.5])
def test_a_forgotten_temperature_turns_it_red_and_a_true_law_does_not(
    temperature: float, caplog: pytest.LogCaptureFixture
) -> None:
    # Seeded; over 40 batches a true law passes the bound with a chance of about 40 · 10⁻⁴ at most.
    problem, instrument, largest = Enumeration(CHAIN), ScoreMean(), []
    with caplog.at_level(logging.WARNING, logger="pgkit"):
        for seed in range(40):
            found = instrument.measure(heated(problem, drawn(problem, 32, seed=seed), temperature))
            assert found["scores/z_max"] is not None and found["scores/z_rms"] is not None
            largest.append(found["scores/z_max"])
    red = max(largest) > bound(len(problem.exact_gradient(1.0)))
    assert red == (temperature != 1.0)
    assert len(caplog.records) == red
    assert (found["scores/z_rms"] > 3) == red


def test_the_mean_score_is_zero_by_enumeration_and_at_another_temperature_it_is_not() -> None:
    problem = Enumeration(CHAIN)
    everything, probabilities = torch.arange(len(problem.paths)), problem.probabilities().detach()
    for temperature in (1.0, 1.5):
        seen = heated(problem, everything, temperature)
        assert seen.factors.scale is not None
        mean = probabilities @ seen.scores.per_sample(seen.factors.scale)
        assert (float(mean.norm()) < 1e-12) == (temperature == 1.0)


@pytest.mark.statistical
@pytest.mark.parametrize("temperature", [1.0, 1.5])
def test_squares_of_z_average_to_one_where_the_law_is_true(temperature: float) -> None:
    # Seeded; the mean of 100 squares of root mean squares has a standard error of some 0.06.
    problem, instrument = Enumeration(CHAIN), ScoreMean(window=1)
    batches = [heated(problem, drawn(problem, 64, seed=seed), temperature) for seed in range(100)]
    squares = [found**2 for each in batches if (found := instrument.measure(each)["scores/z_rms"]) is not None]
    average = sum(squares) / len(squares)
    assert len(squares) == 100 and (0.5 < average < 1.2) == (temperature == 1.0)


def test_the_bound_is_that_of_bonferroni() -> None:
    normal = torch.distributions.Normal(0.0, 1.0)
    for number in (1, 4610):
        outside = 2 * (1 - float(normal.cdf(torch.tensor(bound(number)))))
        assert number * outside == pytest.approx(1e-4, rel=1e-3)
    assert bound(4610) == pytest.approx(5.6, abs=0.05)


def test_scores_that_are_all_zero_have_no_z(caplog: pytest.LogCaptureFixture) -> None:
    problem, instrument = Enumeration(BANDIT), ScoreMean()
    seen = snapshot(problem, torch.arange(3), Zero())
    assert seen.factors.scale is not None
    nothing = replace(seen, factors=replace(seen.factors, scale=torch.zeros_like(seen.factors.scale)))
    with caplog.at_level(logging.WARNING, logger="pgkit"):
        assert [instrument.measure(nothing) for _ in range(2)] == 2 * [dict.fromkeys(ScoreMean.tags)]
    assert [record.getMessage() for record in caplog.records] == ["scores/z_max is null: every score is 0"]
