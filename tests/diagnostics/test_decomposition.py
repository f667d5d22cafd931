"""The decomposition as a run sees it: near the exact parts, null where it cannot be, and without a trace in the run."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pgkit.assemble import assemble
from pgkit.baselines.constant import Zero
from pgkit.core.decomposition import Parts
from pgkit.core.processes import CHAIN, GAMBLE, RING, Process
from pgkit.diagnostics.decomposition import Decomposition
from pgkit.diagnostics.features import described_actions, products, state_features
from pgkit.diagnostics.plug_in import step_plug_in, trajectory_plug_in
from pgkit.errors import UsageError
from pgkit.estimators.score_function import ScoreFunction
from pgkit.returns.discounted import RewardToGo
from pgkit.snapshot import Continued, Facts, Snapshot
from tests.core.test_decomposition import Small, enumerated
from tests.end_to_end.runs import configuration, train
from tests.problems import Enumeration, columns_of

double = pytest.mark.usefixtures("float64")

GAMMA = 0.9
FACTS = Facts(env="Toy", columns=8, whole_episodes=True, has_values=True, layout={})
NAMES = ("after", "action", "before", "total", "removable")


class Nothing:
    """Continues nothing."""

    def check(self) -> None: ...

    def draw(self, policy: Any, times: Any, *, num_actions: int, num_outcomes: int, gamma: float) -> Continued:
        raise AssertionError("not asked for")


class Given(Nothing):
    """Continues by what a test says."""

    def __init__(self, continued: Continued) -> None:
        self.continued = continued

    def draw(self, policy: Any, times: Any, *, num_actions: int, num_outcomes: int, gamma: float) -> Continued:
        return self.continued


def snapshot(problem: Enumeration, columns: Tensor, *, error: float = 0.0) -> Snapshot:
    """Returns what an instrument sees of some columns with a critic that is wrong by `error`, and no baseline."""
    estimator = ScoreFunction(gamma=GAMMA)
    factors = columns_of(problem.factors(RewardToGo(gamma=GAMMA), problem.critic(GAMMA, error=error)), columns)
    assert factors.scores is not None
    zero = Zero().value(factors)
    return Snapshot(
        trajectories=problem.trajectories.columns(columns),
        factors=factors,
        baseline=zero,
        coefficients=estimator.coefficients(factors, zero),
        estimator=estimator,
        coupling="independent",
        before=problem.policy,
        policy=problem.policy,
        scores=factors.scores,
    )


def drawn(problem: Enumeration, count: int, *, seed: int = 0) -> Tensor:
    """Returns columns drawn at their chances."""
    generator = torch.Generator().manual_seed(seed)
    return torch.multinomial(problem.probabilities().detach(), count, replacement=True, generator=generator)


def exact(problem: Enumeration) -> tuple[Parts, Parts]:
    """Returns the parts of one step and of a trajectory of the gamble, whose state is its time, by grouping."""
    chances, batch = problem.probabilities().detach(), problem.trajectories
    to_go = torch.where(batch.mask, batch.rewards, 0.0)
    to_go[0] = to_go[0] + GAMMA * to_go[1]
    terms = to_go[..., None] * problem.scores  # [T, K, P]

    def given(values: Tensor, chosen: Tensor) -> Tensor:
        share = chances * chosen
        return share @ values / share.sum()

    first, later = torch.zeros_like(terms), torch.zeros_like(terms)  # given the state, given the action too
    for t in range(2):
        for action in range(3):
            chosen = batch.mask[t] & (batch.actions[t] == action)
            later[t][chosen] = given(terms[t], chosen)
        first[t][batch.mask[t]] = given(terms[t], batch.mask[t])
    weights = (batch.mask * chances).unsqueeze(-1)
    rows = float(weights.sum())
    mean = (weights * terms).sum(dim=(0, 1)) / rows

    def share(values: Tensor) -> float:
        return float((weights * values.square()).sum()) / rows

    step = Parts(after=share(terms - later), action=share(later - first), before=share(first - mean), removable=0.0)
    gradients = terms.sum(dim=0)
    total = float(chances @ (gradients - chances @ gradients).square().sum(dim=1))
    action = 0.0
    for t in range(2):
        # What has happened before the second play are the first action and its reward, one and the same here.
        seen = batch.actions[0] if t else torch.zeros_like(batch.actions[0])
        for past in seen.unique():
            here = batch.mask[t] & (seen == past)
            centre = given(gradients, here)
            for choice in range(3):
                chosen = here & (batch.actions[t] == choice)
                action += float((chances * chosen).sum() * (given(gradients, chosen) - centre).square().sum())
    return step, Parts(after=total - action, action=action, before=0.0, removable=0.0)


@double
@pytest.mark.statistical
def test_fits_on_a_large_batch_find_the_exact_parts() -> None:
    # One state, so that 1, time and value tell all. Parts scatter by 2 or 3 %: false alarms below 1e-3.
    problem = Enumeration(GAMBLE, seed=4)
    seen = snapshot(problem, drawn(problem, 4000), error=0.5)
    step, trajectory = exact(problem)
    scale = step.total, trajectory.total
    found = step_plug_in(seen, max_columns=None), trajectory_plug_in(seen, gamma=GAMMA, max_columns=None)
    for parts, truth, total in zip(found, (step, trajectory), scale, strict=True):
        for name in ("after", "action", "before", "total"):
            assert getattr(parts, name) == pytest.approx(getattr(truth, name), abs=0.1 * total), name
    # The twin that confuses what an action did with what came after it is far off.
    assert abs(step.after - step.action) > 0.3 * step.total
    assert abs(trajectory.after - trajectory.action) > 0.2 * trajectory.total


@double
@pytest.mark.statistical
def test_the_parts_of_a_trajectory_on_two_steps_of_the_ring_are_the_exact_ones() -> None:
    # The scatter of transitions is 2 % of the total: false alarms below 1e-3.
    small = Small(replace(RING, horizon=2))
    small.terms = torch.where(small.mask, small.to_go, 0.0)[..., None] * small.scores  # no baseline
    truth = enumerated(small)
    seen = snapshot(small.problem, drawn(small.problem, 6000))
    found = trajectory_plug_in(seen, gamma=GAMMA, max_columns=None)
    assert found.after == pytest.approx(truth.after, abs=0.06 * truth.total)
    assert found.before == pytest.approx(truth.before, abs=0.02 * truth.total)
    assert found.action == pytest.approx(truth.action, abs=0.15 * truth.total)


@double
@pytest.mark.statistical
def test_chances_of_reaching_a_choice_with_a_large_gradient_are_noise_of_the_transition() -> None:
    # Whether there is a second step is chance alone: half of its expected gradient either way. Scatter 2 %.
    chance: list[tuple[float, float, int | None]] = [(0.5, 0.0, 1), (0.5, 0.0, None)]
    outcomes = {(0, 0): chance, (0, 1): chance, (1, 0): [(1.0, 5.0, None)], (1, 1): [(1.0, -5.0, None)]}
    small = Small(Process(start=[1.0, 0.0], outcomes=outcomes, num_actions=2, horizon=2))
    small.terms = torch.where(small.mask, small.to_go, 0.0)[..., None] * small.scores  # no baseline
    truth = enumerated(small)
    seen = snapshot(small.problem, drawn(small.problem, 6000))
    found = trajectory_plug_in(seen, gamma=GAMMA, max_columns=None)
    assert found.after == pytest.approx(truth.after, abs=0.06 * truth.total) and truth.after > 0.2 * truth.total


@double
def test_parts_are_averaged_over_the_window_and_shares_come_from_the_averages() -> None:
    problem = Enumeration(CHAIN)
    instrument = Decomposition(facts=FACTS, continue_from=Nothing(), gamma=GAMMA, window=2)
    batches = [snapshot(problem, drawn(problem, 40, seed=seed)) for seed in range(3)]
    for each in batches:
        metrics = instrument.measure(each)
        assert metrics.keys() == set(instrument.tags)
    for area, names, parts in (
        ("step_decomposition", ("trajectory", "action", "state"), [step_plug_in(b, max_columns=64) for b in batches]),
        (
            "trajectory_decomposition",
            ("transition", "action", "start"),
            [trajectory_plug_in(b, gamma=GAMMA, max_columns=64) for b in batches],
        ),
    ):
        mean = {name: sum(getattr(each, name) for each in parts[1:]) / 2 for name in NAMES}
        for name, part in zip(names, NAMES, strict=False):
            assert metrics[f"{area}/{name}"] == pytest.approx(mean[part], abs=1e-10)
        assert metrics[f"{area}/total"] == pytest.approx(mean["total"], abs=1e-10)
        assert metrics[f"{area}/removable_fraction"] == pytest.approx(mean["removable"] / mean["total"], abs=1e-10)


@double
def test_the_totals_are_the_sample_covariances_whatever_the_fits_say() -> None:
    problem = Enumeration(CHAIN)
    seen = snapshot(problem, drawn(problem, 30))
    gradients = seen.scores.per_sample(seen.coefficients)
    found = trajectory_plug_in(seen, gamma=GAMMA, max_columns=None)
    assert found.total == pytest.approx(float(gradients.var(dim=0).sum()), abs=1e-10)
    terms = seen.coefficients[..., None] * problem.scores[:, drawn(problem, 30)]
    rows = terms[seen.factors.mask]
    step = step_plug_in(seen, max_columns=None)
    # The state's part is centred by two fits, which the sample mean is near to but not equal.
    assert step.total == pytest.approx(float(rows.var(dim=0).sum()), rel=0.1)


@double
def test_continuations_decompose_what_follows_less_the_baseline_of_the_nearest_row() -> None:
    problem = Enumeration(CHAIN)
    seen = snapshot(problem, torch.arange(24))
    baseline = 10.0 * seen.trajectories.obs[:-1].double() + torch.arange(3.0)[:, None]  # type: ignore[union-attr]  # one array
    seen = replace(seen, baseline=baseline)
    obs, times = torch.tensor([0, 1]), torch.tensor([0, 1])
    actions = torch.tensor([[0, 1], [1, 0]])
    # What follows is the baseline itself and ±1: nothing but that remains.
    returns = torch.tensor([0.0, 11.0])[:, None, None] + torch.tensor([1.0, -1.0])
    continued = Continued(obs=obs, times=times, actions=actions, returns=returns.expand(2, 2, 2), env_steps=7)
    instrument = Decomposition(facts=FACTS, continue_from=Given(continued), gamma=GAMMA, continuations=2, actions=2)
    metrics = instrument.measure(seen)
    squares = []
    for state, chosen in zip(obs, actions, strict=True):
        for action in chosen:
            leaves = list(problem.policy.parameters())
            score = torch.autograd.grad(problem.policy.log_prob(state, action), leaves)
            squares.append(sum(float(each.square().sum()) for each in score))
    assert metrics["step_decomposition/trajectory"] == pytest.approx(2 * sum(squares) / 4, abs=1e-10)
    assert metrics["step_decomposition/extra_steps"] == 7
    assert instrument.measure(seen)["step_decomposition/extra_steps"] == 14


@double
@pytest.mark.parametrize(
    ("facts", "columns", "empty"),
    [
        (replace(FACTS, has_values=False), 8, ("step_decomposition", "trajectory_decomposition")),
        (replace(FACTS, whole_episodes=False), 8, ("trajectory_decomposition",)),
        (FACTS, 3, ("step_decomposition", "trajectory_decomposition")),
    ],
)
def test_what_cannot_be_taken_apart_is_null_with_a_warning_each(
    facts: Facts, columns: int, empty: tuple[str, ...], caplog: pytest.LogCaptureFixture
) -> None:
    problem = Enumeration(CHAIN)
    instrument = Decomposition(facts=facts, continue_from=Nothing(), gamma=GAMMA)
    with caplog.at_level(logging.WARNING, logger="pgkit"):
        for _ in range(3):
            metrics = instrument.measure(snapshot(problem, drawn(problem, columns)))
    assert {tag.partition("/")[0] for tag, value in metrics.items() if value is None} == set(empty)
    assert len(caplog.records) == 1


@double
def test_equal_trajectories_have_no_variance_and_no_share() -> None:
    problem = Enumeration(CHAIN)
    instrument = Decomposition(facts=FACTS, continue_from=Nothing(), gamma=GAMMA)
    metrics = instrument.measure(snapshot(problem, torch.full((8,), 23)))
    assert metrics["trajectory_decomposition/total"] == 0.0
    assert metrics["trajectory_decomposition/removable_fraction"] is None


def test_one_continuation_has_no_variance_and_is_refused() -> None:
    with pytest.raises(UsageError, match=r"^diagnostics\.decomposition\.continuations: 1, expected 0 or at least 2$"):
        assemble(configuration("env=Chain", "diagnostics=[decomposition]", "diagnostics.decomposition.continuations=1"))


def test_extra_episodes_leave_no_trace_in_the_run(tmp_path: Path) -> None:
    common = ("env=Ring", "critic=value", "baseline=value", "total_steps=600", "evaluation.episodes=0")
    plain = train(tmp_path / "plain", *common, "diagnostics=none")
    asked = (
        "diagnostics=[decomposition]", "diagnostics.decomposition.continuations=2", "diagnostics.decomposition.every=2",
    )  # fmt: skip
    watched = train(tmp_path / "watched", *common, *asked)
    assert all(torch.equal(value, watched.parameters[name]) for name, value in plain.parameters.items())
    assert plain.summary["env_steps"] == watched.summary["env_steps"]
    row = next(row for row in watched.metrics if row["step_decomposition/total"])
    assert float(row["step_decomposition/extra_steps"]) > 0 and float(row["step_decomposition/trajectory"]) > 0


@double
def test_features_are_what_they_say() -> None:
    problem = Enumeration(CHAIN)
    seen = snapshot(problem, torch.arange(24))
    few, many = state_features(seen, most=3), state_features(seen, most=5)
    assert few.shape == (4, 24, 3) and many.shape == (4, 24, 5)
    valid = many[:-1][seen.factors.mask]
    assert torch.equal(valid[:, 0], torch.ones(len(valid)))
    torch.testing.assert_close(valid[:, 1:].mean(dim=0), torch.zeros(4), rtol=0, atol=1e-10)
    choices = described_actions(torch.tensor([[2, 0, 2]]))
    assert choices.tolist() == [[[0.0, 1.0], [1.0, 0.0], [0.0, 1.0]]]
    assert described_actions(torch.tensor([[[2.0, 3.0]]])).tolist() == [[[1.0, 2.0, 3.0, 4.0, 9.0]]]
    assert products(torch.tensor([[[1.0, 5.0]]]), torch.tensor([[[0.0, 1.0]]])).tolist() == [[[0.0, 0.0, 1.0, 5.0]]]
