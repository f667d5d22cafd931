"""Bias and angle to the exact gradient: none for the expectation of an unbiased estimate, 1/N for the batch mean's."""

from __future__ import annotations

import logging
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from pgkit.assemble import assemble
from pgkit.core.processes import CHAIN
from pgkit.diagnostics.truth import Truth
from pgkit.errors import UsageError
from pgkit.estimators.score_function import ScoreFunction
from pgkit.returns.discounted import RewardToGo, Total
from pgkit.snapshot import Facts, Snapshot
from tests.end_to_end.runs import configuration, train
from tests.problems import Enumeration, columns_of

pytestmark = pytest.mark.exact
double = pytest.mark.usefixtures("float64")

GAMMA = 0.9
FACTS = Facts(env="Toy", columns=8, whole_episodes=True, has_values=False, layout={}, dynamics=CHAIN)


def snapshot(
    problem: Enumeration,
    columns: Tensor,
    *,
    discounted: bool = False,
    total: bool = False,
    factor: Tensor | float = 1.0,
) -> Snapshot:
    """Returns what an instrument sees of some columns without baseline, the coefficients times a factor."""
    estimator = ScoreFunction(gamma=GAMMA, discount_states=discounted)
    returns = Total(gamma=GAMMA) if total else RewardToGo(gamma=GAMMA)
    factors = columns_of(problem.factors(returns, estimator=estimator), columns)
    zero = torch.zeros_like(factors.signal)
    assert factors.scores is not None
    return Snapshot(
        trajectories=problem.trajectories.columns(columns),
        factors=factors,
        baseline=zero,
        coefficients=factor * estimator.coefficients(factors, zero),
        estimator=estimator,
        coupling="independent",
        before=problem.policy,
        policy=problem.policy,
        scores=factors.scores,
    )


def expected(problem: Enumeration, *, discounted: bool = False, total: bool = False, share: float = 1.0) -> Snapshot:
    """Returns a batch whose mean gradient is a share of the expectation of the estimate: every path at its chance."""
    chances = problem.probabilities().detach()
    everything = torch.arange(len(chances))
    factor = share * len(chances) * chances
    return snapshot(problem, everything, discounted=discounted, total=total, factor=factor)


@double
@pytest.mark.parametrize(("discounted", "total"), [(False, False), (True, False), (False, True)])
def test_the_expectation_of_an_unbiased_estimate_is_the_truth(discounted: bool, total: bool) -> None:
    problem = Enumeration(CHAIN)
    facts = replace(FACTS, discounted=discounted or total)
    metrics = Truth(facts=facts, policy=problem.policy, gamma=GAMMA).measure(
        expected(problem, discounted=discounted, total=total)
    )
    truth = problem.policy_gradient_theorem(GAMMA, discount_states=discounted or total)
    assert metrics["truth/norm"] == pytest.approx(float(truth.norm()), abs=1e-10)
    assert metrics["truth/bias"] == pytest.approx(0, abs=1e-10)
    assert metrics["truth/cosine"] == pytest.approx(1, abs=1e-10)
    # Its twin, held to the other of the two objectives, is biased.
    twin = Truth(facts=replace(facts, discounted=not facts.discounted), policy=problem.policy, gamma=GAMMA)
    biased = twin.measure(expected(problem, discounted=discounted, total=total))["truth/bias"]
    assert biased is not None and biased > 1e-3


@double
def test_what_shrinks_the_gradient_by_one_in_n_has_a_bias_of_that_share_of_its_norm() -> None:
    problem = Enumeration(CHAIN)
    truth = Truth(facts=FACTS, policy=problem.policy, gamma=GAMMA)
    for _ in range(3):
        metrics = truth.measure(expected(problem, share=1 - 1 / 8))
    assert metrics["truth/norm"] is not None
    assert metrics["truth/bias"] == pytest.approx(metrics["truth/norm"] / 8, abs=1e-10)
    assert metrics["truth/noise"] == pytest.approx(0, abs=1e-7)


@double
def test_errors_are_pooled_as_vectors_and_their_scatter_says_how_much_is_noise() -> None:
    problem = Enumeration(CHAIN)
    truth = Truth(facts=FACTS, policy=problem.policy, gamma=GAMMA)
    exact = problem.policy_gradient_theorem(GAMMA, discount_states=False)
    errors = []
    for column in (0, 5, 11, 20):
        seen = snapshot(problem, torch.tensor([column, 3]))
        metrics = truth.measure(seen)
        errors.append(seen.scores.per_sample(seen.coefficients).mean(dim=0) - exact)
        estimate = errors[-1] + exact
        cosine = float(estimate @ exact / (estimate.norm() * exact.norm()))
        assert metrics["truth/cosine"] == pytest.approx(cosine, abs=1e-10)
        assert (metrics["truth/noise"] is None) == (len(errors) == 1)
    stacked = torch.stack(errors)
    assert metrics["truth/bias"] == pytest.approx(float(stacked.mean(dim=0).norm()), abs=1e-10)
    assert metrics["truth/noise"] == pytest.approx(float(stacked.var(dim=0).sum() / 4) ** 0.5, abs=1e-10)


@double
def test_scaled_rewards_are_held_to_the_scaled_truth_and_others_to_none(caplog: pytest.LogCaptureFixture) -> None:
    problem = Enumeration(CHAIN)
    truth = Truth(facts=FACTS, policy=problem.policy, gamma=GAMMA)
    seen = expected(problem)
    plain = truth.measure(seen)["truth/norm"]
    assert seen.factors.rewards is not None and plain is not None
    halved = replace(
        seen, factors=replace(seen.factors, rewards=0.5 * seen.factors.rewards), coefficients=0.5 * seen.coefficients
    )
    metrics = truth.measure(halved)
    assert metrics["truth/norm"] == pytest.approx(plain / 2, abs=1e-10)
    assert metrics["truth/bias"] == pytest.approx(0, abs=1e-10)
    clipped = replace(seen, factors=replace(seen.factors, rewards=seen.factors.rewards.clamp(max=0.5)))
    with caplog.at_level(logging.WARNING, logger="pgkit"):
        for _ in range(2):
            assert set(truth.measure(clipped).values()) == {None}
    assert len(caplog.records) == 1


@double
def test_a_control_variate_is_part_of_the_estimate() -> None:
    problem = Enumeration(CHAIN)
    columns = torch.arange(24)
    seen = replace(snapshot(problem, columns), estimator=ScoreFunction(gamma=GAMMA, control_variate="optimal_layer"))
    gradients, scores = (seen.scores.per_sample(each) for each in (seen.coefficients, seen.factors.mask.double()))
    estimate = seen.estimator.control(gradients, scores, seen.scores.layout).mean(dim=0)
    bias = float((estimate - problem.policy_gradient_theorem(GAMMA, discount_states=False)).norm())
    metrics = Truth(facts=FACTS, policy=problem.policy, gamma=GAMMA).measure(seen)
    plain = Truth(facts=FACTS, policy=problem.policy, gamma=GAMMA).measure(snapshot(problem, columns))
    assert metrics["truth/bias"] == pytest.approx(bias, abs=1e-10)
    assert metrics["truth/bias"] != pytest.approx(plain["truth/bias"], abs=1e-6)


@double
def test_a_gradient_of_zero_has_no_angle() -> None:
    problem = Enumeration(CHAIN)
    metrics = Truth(facts=FACTS, policy=problem.policy, gamma=GAMMA).measure(expected(problem, share=0.0))
    assert metrics["truth/cosine"] is None and metrics["truth/bias"] == metrics["truth/norm"]


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        (("env=CartPole",), "expected an environment whose gradient is known"),
        (("env=Chain", "env.kwargs={max_episode_steps:2}"), "without a time limit"),
        (("env=LQR",), r"policy\.hidden_sizes=\[\]"),
        (("env=LQR", "policy.hidden_sizes=[]", "policy.normalise_observations=true"), "normalise_observations=false"),
        (("env=Ring", "agent=vpg"), "expected collect=episodes"),
    ],
)
def test_where_no_gradient_is_known_the_instrument_is_refused_at_the_start(
    overrides: tuple[str, ...], reason: str
) -> None:
    with pytest.raises(UsageError, match=f"^diagnostics: truth on .*{reason}"):
        assemble(configuration(*overrides, "diagnostics=[truth]"))


@pytest.mark.parametrize(
    ("overrides", "biased"),
    [(("baseline=leave_one_out",), False), (("baseline=mean",), True)],
)
@pytest.mark.statistical
def test_live_the_bias_of_the_batch_mean_stands_out_of_the_noise_and_none_elsewhere(
    tmp_path: Path, overrides: tuple[str, ...], biased: bool
) -> None:
    # A policy that hardly moves; two columns, so that the batch mean halves the gradient. False alarms: below 1e-3.
    run = train(
        tmp_path, "env=Gamble", "env.num_envs=2", "collect.episodes=2", "total_steps=3000", "optimizer.lr=1e-12",
        "diagnostics=[truth]", "evaluation.episodes=0", "policy.hidden_sizes=[]", *overrides,
    )  # fmt: skip
    last = {name: float(value) for name, value in run.metrics[-1].items() if name.startswith("truth/")}
    assert (last["truth/bias"] > 3 * last["truth/noise"]) is biased
    if biased:
        assert last["truth/bias"] == pytest.approx(last["truth/norm"] / 2, rel=0.2)
    assert all(math.isfinite(value) for value in last.values())
