"""The sentences say what the numbers carry, and no more."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping

import pytest

from pgkit.reporting import advice, more_advice
from pgkit.reporting.advice import Advice, advise

Known = Mapping[str, float | None]


def bounded(tag: str, point: float, low: float | None, high: float | None) -> dict[str, float | None]:
    return {tag: point, f"{tag}_low": low, f"{tag}_high": high}


def ratio(name: str, point: float, low: float | None, high: float | None) -> dict[str, float | None]:
    return bounded(f"panel/{name}/variance_ratio", point, low, high)


def said(found: Advice | None) -> str:
    assert found is not None
    assert re.fullmatch(r"[^.]([^.]|\.(?=\w))*\.", found.sentence), f"{found.sentence!r} is not one sentence"
    return found.sentence


FUNCTIONS: list[Callable[[Known], Advice | None]] = [
    advice.signal, advice.estimators, advice.noise_scale, advice.critic_lag, advice.time_share, advice.checks,
    more_advice.decomposition, more_advice.dial, more_advice.layers, more_advice.weights,
]  # fmt: skip


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("metrics", [{}, {"return/mean": 1.0}, {"gradient/snr": None}])
def test_without_its_tags_nothing_is_said(function: Callable[[Known], Advice | None], metrics: Known) -> None:
    assert function(metrics) is None


@pytest.mark.parametrize(("low", "unresolved"), [(-0.1, True), (0.0, True), (0.01, False), (None, False)])
def test_a_signal_is_unresolved_exactly_where_its_lower_end_is_not_above_0(low: float | None, unresolved: bool) -> None:
    text = said(advice.signal(bounded("panel/current/snr", 0.5, low, None if low is None else 0.9)))
    assert text.startswith("Unresolved") is unresolved
    assert ("Resolved" in text) is (low == 0.01)


def test_the_pooled_ratio_comes_before_that_of_one_batch() -> None:
    pooled = bounded("panel/current/snr", 1.0, 0.5, 2.0)
    text = said(advice.signal({"gradient/snr": -0.3, **pooled}))
    assert "1.00 [0.500, 2.00]" in text and "cosine of about 0.71" in text
    assert said(advice.signal({"gradient/snr": -0.3})).startswith("Unresolved")


def test_the_estimator_in_use_is_not_held_against_itself() -> None:
    itself = ratio("leave_one_out", 1.0, 1.0 - 1e-9, 1.0 + 1e-9)
    assert "all of them are noisier" in said(advice.estimators({**itself, **ratio("zero", 9.0, 8.0, 10.0)}))
    assert advice.estimators(itself) is None


def test_an_estimator_whose_interval_lies_below_1_is_offered() -> None:
    found = advice.estimators({**ratio("gls", 0.6, 0.5, 0.8), **ratio("zero", 9.0, 8.0, 10.0)})
    assert "try gls on several seeds" in said(found) and "0.600 [0.500, 0.800]" in said(found)


@pytest.mark.parametrize(("low", "high"), [(0.5, 1.0), (0.9, 1.2), (1.0, 1.4)])
def test_an_interval_that_holds_1_tells_nothing_apart(low: float, high: float) -> None:
    text = said(advice.estimators({**ratio("gls", 0.95, low, high), **ratio("zero", 9.0, 8.0, 10.0)}))
    assert "gls cannot be told apart from it" in text and "zero is noisier" in text and "try" not in text


def test_where_all_are_noisier_the_one_in_use_is_kept() -> None:
    text = said(advice.estimators({**ratio("zero", 9.0, 8.0, 10.0), **ratio("current", 1.0, 1.0, 1.0)}))
    assert "all of them are noisier; keep it" in text


def test_without_an_interval_no_estimator_is_offered() -> None:
    text = said(advice.estimators(ratio("gls", 0.1, None, None)))
    assert text.startswith("Unresolved") and "gls" not in text


OTHERS = ("gae_0.95", "gae_0.95_gls", "n_step_5", "total", "total_optimal", "mean", "total_mean")


@pytest.mark.parametrize("name", OTHERS)
def test_an_estimator_of_another_vector_never_goes_before_one_of_the_same(name: str) -> None:
    text = said(advice.estimators({**ratio(name, 0.1, 0.05, 0.2), **ratio("gls", 0.8, 0.7, 0.9)}))
    assert "try gls" in text and f"so would {name}, but biased" in text
    assert "though it is biased" in said(advice.estimators(ratio(name, 0.1, 0.05, 0.2)))
    both = advice.estimators({**ratio(name, 0.1, 0.05, 0.2), **ratio("gae_0.5", 0.3, 0.2, 0.4)})
    assert "and so would gae_0.5, all biased" in said(both)


@pytest.mark.parametrize("name", ["gae_1", "gae_1_gls", "gae_1.0", "value", "optimal", "leave_one_out"])
def test_an_unbiased_estimator_is_not_called_biased(name: str) -> None:
    assert "biased" not in said(advice.estimators(ratio(name, 0.1, 0.05, 0.2)))


@pytest.mark.parametrize(
    ("batch", "expected"),
    [
        (100, "far above the interval"),
        (50, "is above the interval"),
        (5, "below the interval"),
        (20, "within the interval"),
    ],
)
def test_a_batch_is_held_to_the_interval_of_the_noise_scale(batch: float, expected: str) -> None:
    scale = bounded("noise_scale/trajectories", 20.0, 10.0, 40.0)
    text = said(advice.noise_scale({**scale, "noise_scale/batch_fraction": batch / 20}))
    assert expected in text and f"about {batch} trajectories" in text
    assert ("wasted" in text) is (batch == 100)


def test_a_noise_scale_that_does_not_stand_out_is_unresolved() -> None:
    assert said(advice.noise_scale({"noise_scale/trajectories": None})).startswith("Unresolved")
    text = said(advice.noise_scale({**bounded("noise_scale/trajectories", 9, None, None)}))
    assert text.startswith("No interval yet")


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.5, 0.9, "earns its place"),
        (1.1, 1.9, "lags"),
        (0.8, 1.3, "cannot be told apart"),
        (None, None, "No interval"),
    ],
)
def test_the_critic_is_held_to_leave_one_out(low: float | None, high: float | None, expected: str) -> None:
    assert expected in said(advice.critic_lag(bounded("critic_lag/value_ratio", 0.9, low, high)))


@pytest.mark.parametrize(("high", "off"), [(0.9, True), (1.1, False)])
def test_the_critic_is_called_off_where_its_correction_is_resolved(high: float, off: bool) -> None:
    metrics = {
        **bounded("critic_lag/value_ratio", 0.7, 0.6, 0.8),
        **bounded("critic_lag/corrected_ratio", 0.8, 0.7, high),
    }
    assert ("scale or offset are off" in said(advice.critic_lag(metrics))) is off


@pytest.mark.parametrize(("removable", "expected"), [(0.5, "a better baseline is worth"), (0.05, "leave the baseline")])
def test_a_baseline_is_worth_a_try_where_it_could_remove_something(removable: float, expected: str) -> None:
    parts = {"trajectory": 6.0, "action": 3.0, "state": 1.0, "total": 10.0, "removable_fraction": removable}
    text = said(more_advice.decomposition({f"step_decomposition/{part}": value for part, value in parts.items()}))
    assert expected in text and "60 % from what follows the action" in text and "unresolved" not in text


def test_a_part_below_0_is_called_unresolved() -> None:
    parts = {"trajectory": 10.5, "action": -0.5, "state": 0.0, "total": 10.0, "removable_fraction": 0.0}
    text = said(more_advice.decomposition({f"step_decomposition/{part}": value for part, value in parts.items()}))
    assert "below 0 is not resolved" in text


def test_the_dial_says_that_no_interval_stands_behind_its_order() -> None:
    metrics = {"dial/lambda_0.9/mean_squared_error": 4.0, "dial/lambda_0.9/bias_squared": 1.0, "dial/best_lambda": 0.9}
    text = said(more_advice.dial(metrics))
    assert "25 % of it squared bias" in text and "no interval" in text
    assert "set returns.lam=0.9 only where that stays best" in text
    assert said(more_advice.dial({**metrics, "dial/best_lambda": None})).startswith("Unresolved")


@pytest.mark.parametrize(
    ("clip", "window", "words"),
    [
        (2.0, 3.0, ("cut at 2 (3.00, 50 % of it", "newest 3 batches (2.00)", "weights.truncate=2 and reuse.batches=3")),
        (0.0, 1.0, ("weights as they are (5.00)", "newest batch alone", "set reuse=none only")),
        (None, 3.0, ("least with the newest 3 batches", "set reuse.batches=3 only")),
        (0.0, 4.0, ("weights as they are", "newest 4 batches (7.00)")),
    ],
)
def test_the_dial_names_clip_and_window_and_what_a_clip_does_besides(
    clip: float | None, window: float | None, words: tuple[str, ...]
) -> None:
    errors = {"clip_current": 5.0, "clip_2": 3.0, "window_1": 6.0, "window_3": 2.0, "window_4": 7.0}
    metrics = {f"dial/{name}/mean_squared_error": error for name, error in errors.items()}
    known: Known = {**metrics, "dial/clip_2/bias_squared": 1.5, "dial/best_clip": clip, "dial/best_window": window}
    text = said(more_advice.dial(known))
    assert all(word in text for word in words)
    assert ("by shrinking it, and" in text) is bool(clip) and (" set " in text) is (clip != 0 or window != 4)
    nothing = {**known, "dial/best_clip": None, "dial/best_window": None}
    assert said(more_advice.dial(nothing)).startswith("Unresolved: too few trajectories are pooled to call a clip best")


def test_a_noise_scale_without_an_upper_end_is_held_to_its_lower_one() -> None:
    scale = bounded("noise_scale/trajectories", 20.0, 10.0, None)
    assert "is below the interval" in said(advice.noise_scale({**scale, "noise_scale/batch_fraction": 0.2}))
    text = said(advice.noise_scale({**scale, "noise_scale/batch_fraction": 1.0}))
    assert text.startswith("Unresolved") and "at least 10.0" in text


def test_layers_at_or_below_0_are_unresolved() -> None:
    text = said(more_advice.layers({"layers/a/snr": 0.5, "layers/b/snr": -0.1, "layers/c/snr": 0.0}))
    assert "2 of 3 are at or below 0, hence unresolved" in text


@pytest.mark.parametrize(("share", "expected"), [(0.08, "leave them on"), (0.2, "economy takes less"), (0.4, "raise")])
def test_the_cost_of_the_instruments_is_held_to_its_budgets(share: float, expected: str) -> None:
    assert expected in said(advice.time_share({"time/diagnostics_fraction": share}))


def test_a_score_far_from_0_is_an_alarm_and_comes_first() -> None:
    metrics = {"scores/z_max": 40.0, **ratio("gls", 0.6, 0.5, 0.8), **bounded("panel/current/snr", 0.5, -0.1, 0.9)}
    first, second, third = advise(metrics)
    assert "do not belong together" in first and second.startswith("Unresolved") and "gls" in third


def test_a_run_ends_on_three_sentences_at_most_and_on_one_where_nothing_is_to_do() -> None:
    assert advise({}) == []
    assert len(advise({"time/diagnostics_fraction": 0.05})) == 1
    everything = {
        "scores/z_max": 40.0, "time/diagnostics_fraction": 0.9, **ratio("gls", 0.6, 0.5, 0.8),
        **bounded("panel/current/snr", 0.5, -0.1, 0.9), **bounded("critic_lag/value_ratio", 2.0, 1.5, 3.0),
    }  # fmt: skip
    assert len(advise(everything)) == 3


def test_no_sentence_promises_that_a_run_learns_faster() -> None:
    text = inspect.getsource(advice) + inspect.getsource(more_advice)
    body = re.sub(r'"""[\s\S]*?"""', "", text)
    assert not re.search(r"fast|quick|speed", body)


def health(share: float | None = None, **values: float) -> dict[str, float | None]:
    """Returns tags of the weights; `lag_1=.5` is the effective share of the batches of lag 1."""
    lags = {f"weights/{name}/ess_fraction": value for name, value in values.items() if name.startswith("lag_")}
    rest = {f"weights/{name}": value for name, value in values.items() if not name.startswith("lag_")}
    return {"weights/ess_fraction": share, **lags, **rest}


def test_old_batches_are_worth_what_they_say_and_the_spent_ones_are_named() -> None:
    text = said(more_advice.weights(health(0.45, lag_1=0.7, lag_2=0.4, lag_3=0.2, alarm=0.0)))
    assert "70 % at lag 1, 40 % at lag 2 and 20 % at lag 3" in text and "try reuse.batches=3" in text
    text = said(more_advice.weights(health(0.45, lag_1=0.2)))
    assert "reuse=none, or smaller steps" in text
    assert said(more_advice.weights(health(0.9, lag_1=0.8))).endswith("nothing to do.")


def test_an_alarm_of_the_weights_says_what_follows() -> None:
    missing = more_advice.weights(health(0.9, missing_mass=0.4, alarm=1.0))
    assert missing is not None and missing.urgent == 3 and "mean weight is 0.600 where it should be 1" in said(missing)
    tail = more_advice.weights(health(0.5, pareto_k=0.9, alarm=1.0))
    assert tail is not None and tail.urgent == 2 and "Pareto k 0.900" in said(tail)
    few = more_advice.weights(health(0.1, alarm=1.0))
    assert few is not None and few.urgent == 1 and "10 % of its size" in said(few)
    assert said(more_advice.weights(health(None, lag_1=0.6))).startswith("By itself an old batch is worth 60 %")


def test_an_alarm_of_the_weights_is_among_the_last_words_and_calm_is_not() -> None:
    also = (more_advice.weights,)
    assert "mean weight is 0.600" in advice.advise(health(0.9, missing_mass=0.4, alarm=1.0), also)[0]
    assert advice.advise(health(0.9), also) == []
