"""Halves, layers and the noise scale: signal against noise, held to enumerations."""

from __future__ import annotations

import logging
import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from pgkit.baselines.batch import LeaveOneOut, Mean
from pgkit.baselines.constant import Zero
from pgkit.core.processes import BANDIT, CHAIN
from pgkit.core.scores import Scores
from pgkit.diagnostics import gradients
from pgkit.diagnostics.halves import Halves, gradients_of_halves
from pgkit.diagnostics.layers import LayerNoise
from pgkit.diagnostics.noise_scale import NoiseScale
from pgkit.diagnostics.variance import GradientVariance
from pgkit.estimators.score_function import ScoreFunction
from pgkit.protocols import Baseline
from pgkit.types import Coupling
from tests.diagnostics.snapshots import drawn, expectation, facts_of, snapshot
from tests.problems import Enumeration

pytestmark = [pytest.mark.exact, pytest.mark.usefixtures("float64")]


def inner(halves: Tensor) -> Tensor:
    return halves[0] @ halves[1]


@pytest.mark.parametrize("baseline", [Zero(), LeaveOneOut()])
def test_halves_agree_by_the_true_gradient_alone(baseline: Baseline) -> None:
    problem = Enumeration(BANDIT, seed=4)
    found = expectation(problem, 4, lambda c: inner(gradients_of_halves(snapshot(problem, c, baseline), 4)))
    assert float(found) == pytest.approx(float(problem.exact_gradient(1.0).square().sum()), abs=1e-12)


def test_a_baseline_that_the_halves_share_would_add_to_their_agreement() -> None:
    # The same batches, halved after leave-one-out over all four: 1/(N−1)² of the signal too much.
    problem = Enumeration(BANDIT, seed=4)
    batches = lambda c: snapshot(problem, c, LeaveOneOut(), coupling="cross_fitted")  # noqa: E731
    found = expectation(problem, 4, lambda c: inner(gradients_of_halves(batches(c), 4)))
    assert float(found) == pytest.approx((1 + 1 / 9) * float(problem.exact_gradient(1.0).square().sum()), abs=1e-12)


@pytest.mark.parametrize("max_columns", [None, 8])
def test_agreement_is_the_share_of_equal_signs_among_parameters_that_moved(max_columns: int | None) -> None:
    problem = Enumeration(CHAIN)
    seen = snapshot(problem, drawn(problem, 11, seed=1), Zero())
    gradients = seen.scores.per_sample(seen.coefficients)[: max_columns or 10]
    first, second = gradients[::2].mean(dim=0), gradients[1::2].mean(dim=0)
    found = Halves(max_columns=max_columns).measure(seen)
    moved = (first != 0) & (second != 0)
    assert found["halves/sign_agreement"] == float((first.sign() == second.sign())[moved].double().mean())
    assert found["halves/cosine"] == pytest.approx(float(torch.cosine_similarity(first, second, dim=0)), abs=1e-12)


def test_parameters_that_nothing_moved_agree_on_nothing() -> None:
    problem = Enumeration(CHAIN)
    for seed in range(50):
        seen = snapshot(problem, drawn(problem, 2, seed=seed), Zero())
        first, second = seen.scores.per_sample(seen.coefficients)
        moved = (first != 0) & (second != 0)
        if moved.any() and not moved.all():
            break
    assert moved.any() and not moved.all()
    expected = float((first.sign() == second.sign())[moved].double().mean())
    assert Halves().measure(seen)["halves/sign_agreement"] == expected


@pytest.mark.parametrize("baseline", [Zero(), LeaveOneOut()])
def test_layers_add_up_to_the_whole(baseline: Baseline) -> None:
    # The toy policy has one layer; cut in two, signal and variance are those of its parts.
    problem = Enumeration(CHAIN)
    seen = snapshot(problem, drawn(problem, 12, seed=3), baseline)
    whole = LayerNoise(facts=facts_of(problem, 12)).measure(seen)
    assert list(whole) == ["layers/network.0/snr"]
    variance = GradientVariance().measure(seen)
    assert whole["layers/network.0/snr"] == pytest.approx(variance["gradient/snr"], abs=1e-10)
    facts = facts_of(problem, 12)
    renamed = {"a.weight": facts.layout["network.0.weight"], "b": facts.layout["network.0.bias"]}
    object.__setattr__(facts, "layout", renamed)
    parts = LayerNoise(facts=facts)
    ratios = parts.measure(seen)
    assert list(ratios) == list(parts.tags) == ["layers/a/snr", "layers/b/snr"]
    if isinstance(baseline, Zero):
        gradients = seen.scores.per_sample(seen.coefficients)
        for name, place in zip(ratios, renamed.values(), strict=True):
            own = gradients[:, place]
            of_mean = float(own.var(dim=0).sum()) / 12
            assert ratios[name] == pytest.approx(float(own.mean(dim=0).square().sum()) / of_mean - 1, abs=1e-10)


def test_layers_pool_signal_and_variance_and_not_their_ratios() -> None:
    problem = Enumeration(CHAIN)
    instrument, sums = LayerNoise(facts=facts_of(problem, 6), window=2), []
    for seed in range(4):
        seen = snapshot(problem, drawn(problem, 6, seed=seed), Zero())
        gradients = seen.scores.per_sample(seen.coefficients)
        of_mean = float(gradients.var(dim=0).sum()) / 6
        sums.append((float(gradients.mean(dim=0).square().sum()) - of_mean, of_mean))
        found = instrument.measure(seen)["layers/network.0/snr"]
        signal, variance = (sum(pair[k] for pair in sums[-2:]) for k in (0, 1))
        assert found == pytest.approx(signal / variance, abs=1e-10)


def noise_scale_of(problem: Enumeration) -> float:
    """Returns tr C / |E g|² of one trajectory's gradient without a baseline, by enumeration."""
    gradients = snapshot(problem, torch.arange(len(problem.paths)), Zero())
    rows = gradients.scores.per_sample(gradients.coefficients)
    probabilities = problem.probabilities().detach()
    mean = probabilities @ rows
    return float((probabilities @ rows.square().sum(dim=1)) / mean.square().sum()) - 1


def test_many_batches_find_the_noise_scale_and_a_ratio_of_lengths_would_not() -> None:
    problem, instrument, lengths, traces = Enumeration(BANDIT, seed=2), NoiseScale(window=100), 0.0, 0.0
    for seed in range(100):
        seen = snapshot(problem, drawn(problem, 16, seed=seed), Zero())
        found = instrument.measure(seen)
        gradients = seen.scores.per_sample(seen.coefficients)
        lengths += float(gradients.mean(dim=0).square().sum())
        traces += float(gradients.var(dim=0).sum())
    low, point, high = (found[f"noise_scale/trajectories{end}"] for end in ("_low", "", "_high"))
    assert low is not None and point is not None and high is not None
    # Seeded; about 5 % of seeds would fall outside. The squared length of a noisy mean is longer than that of E g.
    assert low < noise_scale_of(problem) < high and low < point < high
    assert not low < traces / lengths < high
    assert found["noise_scale/batch_fraction"] == pytest.approx(16 / point)


def test_its_numerator_and_denominator_are_unbiased_under_leave_one_out() -> None:
    problem = Enumeration(BANDIT, seed=4)
    signal = float(problem.exact_gradient(1.0).square().sum())

    def parts(columns: Tensor) -> Tensor:
        instrument = NoiseScale(window=1)
        instrument.measure(snapshot(problem, columns, LeaveOneOut()))
        (found,) = instrument._window
        return torch.tensor([found.variance[0], found.signal[0]])

    def squared_error(columns: Tensor) -> Tensor:
        seen = snapshot(problem, columns, LeaveOneOut())
        mean = seen.scores.per_sample(seen.coefficients).mean(dim=0)
        return (mean - problem.exact_gradient(1.0)).square().sum()

    variance, found = expectation(problem, 4, parts).tolist()
    assert found == pytest.approx(signal, abs=1e-10)
    assert variance == pytest.approx(float(expectation(problem, 4, squared_error)), abs=1e-10)


def test_the_noise_scale_is_unresolved_without_signal_and_has_no_interval_on_few_trajectories() -> None:
    problem, seen_of_each = Enumeration(CHAIN, seed=5), set()
    for seed in range(12):
        seen = snapshot(problem, drawn(problem, 8, seed=seed), Zero())
        found = NoiseScale().measure(seen)
        ratio = GradientVariance().measure(seen)["gradient/snr"]
        assert ratio is not None
        seen_of_each.add(ratio > 0)
        assert found["noise_scale/trajectories"] == (pytest.approx(8 / ratio) if ratio > 0 else None)
        assert found["noise_scale/trajectories_low"] is found["noise_scale/trajectories_high"] is None
    assert seen_of_each == {True, False}
    # With 64 trajectories there is a lower end, and an upper one only where |E g|² is told from 0.
    problem, seen_of_each = Enumeration(BANDIT, seed=0), set()
    for seed in range(12):
        found = NoiseScale(max_columns=None).measure(snapshot(problem, drawn(problem, 96, seed=seed), Zero()))
        if found["noise_scale/trajectories"] is not None:
            assert found["noise_scale/trajectories_low"] is not None
            seen_of_each.add(found["noise_scale/trajectories_high"] is not None)
    assert seen_of_each == {True, False}


@pytest.mark.parametrize(
    ("num_columns", "baseline", "coupling", "silent"),
    [(1, Zero(), None, 3), (3, LeaveOneOut(), None, 3), (8, Mean(), None, 2), (8, Zero(), "batch", 2)],
)
def test_what_a_batch_cannot_answer_is_null_with_one_warning(
    num_columns: int, baseline: Baseline, coupling: Coupling | None, silent: int, caplog: pytest.LogCaptureFixture
) -> None:
    problem = Enumeration(CHAIN)
    seen = snapshot(problem, drawn(problem, num_columns, seed=0), baseline, coupling=coupling)
    instruments = [NoiseScale(), LayerNoise(facts=facts_of(problem, num_columns)), Halves()][:silent]
    with caplog.at_level(logging.WARNING, logger="pgkit"):
        for instrument in instruments:
            assert [instrument.measure(seen) for _ in range(2)] == 2 * [dict.fromkeys(instrument.tags)]
    assert len(caplog.records) == len(instruments)
    if silent == 2:
        assert all(value is not None and math.isfinite(value) for value in Halves().measure(seen).values())


def test_a_batch_without_gradient_has_no_direction(caplog: pytest.LogCaptureFixture) -> None:
    problem = Enumeration(BANDIT)
    seen = snapshot(problem, torch.zeros(8, dtype=torch.long), LeaveOneOut())
    assert Halves().measure(seen) == dict.fromkeys(Halves.tags)
    assert NoiseScale().measure(seen) == dict.fromkeys(NoiseScale.tags)
    caplog.clear()
    instrument = LayerNoise(facts=facts_of(problem, 8))
    assert [instrument.measure(seen) for _ in range(2)] == 2 * [{"layers/network.0/snr": None}]
    (said,) = caplog.records
    assert said.getMessage().startswith("layers/network.0/snr is null: its gradient does not vary")


@pytest.mark.parametrize("room", [gradients.MOST_KEPT, 0])
def test_instruments_share_the_pairs_of_leave_one_out(room: int, monkeypatch: pytest.MonkeyPatch) -> None:
    problem, asked = Enumeration(CHAIN), []
    columns = drawn(problem, 24, seed=1)
    monkeypatch.setattr(gradients, "MOST_KEPT", room)
    original = Scores.gradients_of
    monkeypatch.setattr(Scores, "gradients_of", lambda *a: (asked.append(len(a[2])), original(*a))[1])
    alone, shared = {}, {}
    seen = snapshot(problem, columns, LeaveOneOut())
    for make in (NoiseScale, GradientVariance, lambda: LayerNoise(facts=facts_of(problem, 24))):
        alone |= make().measure(snapshot(problem, columns, LeaveOneOut()))
    before = len(asked)
    for make in (NoiseScale, GradientVariance, lambda: LayerNoise(facts=facts_of(problem, 24))):
        shared |= make().measure(seen)
    assert shared == alone
    pairs = [vectors for vectors in asked[before:] if vectors > 1]
    assert len(pairs) == (2 if room else 6)


def test_a_control_variate_is_part_of_the_gradients_that_are_measured() -> None:
    problem, columns = Enumeration(CHAIN), 12
    plain = snapshot(problem, drawn(problem, columns, seed=5), Zero(), coupling="cross_fitted")
    seen = replace(plain, estimator=ScoreFunction(gamma=1.0, control_variate="optimal_parameter"))
    rows = gradients.gradients_in_use(seen)
    assert float((rows - gradients.gradients_in_use(plain)).norm()) > 0.1
    even, odd = rows[::2].mean(dim=0), rows[1::2].mean(dim=0)
    cosine = float(torch.cosine_similarity(even, odd, dim=0))
    assert Halves().measure(seen)["halves/cosine"] == pytest.approx(cosine, abs=1e-12)
    of_mean = float(rows.var(dim=0).sum()) / columns
    ratio = float(rows.mean(dim=0).square().sum()) / of_mean - 1
    layers = LayerNoise(facts=facts_of(problem, columns)).measure(seen)
    assert layers["layers/network.0/snr"] == pytest.approx(ratio, abs=1e-10)
    found = NoiseScale().measure(seen)["noise_scale/trajectories"]
    assert found == (pytest.approx(columns / ratio) if ratio > 0 else None)
