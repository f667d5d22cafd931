"""Numbers find their place, and ticks are few, round and inside."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgkit.reporting.elements import element, written
from pgkit.reporting.figures import MOST_MARKS, thinned
from pgkit.reporting.scales import Kind, fitted, tick_label
from pgkit.reporting.words import short

KINDS: tuple[Kind, ...] = ("linear", "log", "symlog")
numbers = st.floats(-1e9, 1e9).filter(lambda x: x == 0 or abs(x) > 1e-6)


@given(st.lists(numbers, min_size=1, max_size=20), st.sampled_from(KINDS))
def test_larger_numbers_lie_further_on_and_all_lie_inside(values: list[float], kind: Kind) -> None:
    scale = fitted(values, start=10, end=110, kind=kind)
    places = [scale(value) for value in sorted(values)]
    assert places == sorted(places) and all(10 <= place <= 110 for place in places)


@given(st.lists(numbers, min_size=1, max_size=20), st.sampled_from(KINDS))
def test_ticks_are_few_and_lie_inside(values: list[float], kind: Kind) -> None:
    scale = fitted(values, start=10, end=110, kind=kind)
    ticks = scale.ticks()
    assert 1 <= len(ticks) <= 8 and ticks == sorted(ticks)
    slack = 1e-6 * max(abs(scale.low), abs(scale.high))
    assert all(scale.low - slack <= tick <= scale.high + slack for tick in ticks)


@pytest.mark.parametrize(
    ("low", "high", "kind", "expected"),
    [
        (0, 100, "linear", [0, 20, 40, 60, 80, 100]),
        (0.3, 12, "log", [0.5, 1, 2, 5, 10]),
        (-0.2, 30, "symlog", [0, 1, 2, 5, 10, 20]),
    ],
)
def test_ticks_are_round(low: float, high: float, kind: Kind, expected: list[float]) -> None:
    assert fitted([low, high], start=0, end=1, kind=kind, low=low, high=high).ticks() == expected


def test_a_logarithm_does_without_what_is_not_above_0() -> None:
    scale = fitted([0.0, -3.0, 1.0, 10.0], start=0, end=1, kind="log")
    assert scale.low > 0.5 and math.isfinite(scale(-3.0))


@pytest.mark.parametrize(("value", "expected"), [(1.5e6, "1.5M"), (20_000, "20k"), (9000, "9000"), (-0.5, "−0.5")])
def test_ticks_are_short(value: float, expected: str) -> None:
    assert tick_label(value) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [(0, "0"), (0.0312, "0.0312"), (123.456, "123"), (65225.3, "65,200"), (-1e-9, "−1.0e−09"), (0.9996, "1.00")],
)
def test_numbers_have_three_digits(value: float, expected: str) -> None:
    assert short(value) == expected


@pytest.mark.parametrize("length", [0, 1, MOST_MARKS, MOST_MARKS + 1, 5 * MOST_MARKS, 12_345])
def test_a_long_course_keeps_its_mean_and_its_last_step(length: int) -> None:
    points = [(float(step), math.sin(step)) for step in range(length)]
    kept = thinned(points)
    assert len(kept) <= MOST_MARKS and (length > MOST_MARKS or kept == points)
    assert [step for step, _ in kept[-1:]] == [step for step, _ in points[-1:]]
    if length == 5 * MOST_MARKS:
        assert sum(value for _, value in kept) * 5 == pytest.approx(sum(value for _, value in points))


def test_text_and_attributes_are_escaped() -> None:
    made = written(element("p", {"title": '"><b>'}, ["<i>", element("br"), "&"]))
    assert made.startswith('<p title="&quot;') and made.endswith(">&lt;i&gt;<br>&amp;</p>")
    assert "<i>" not in made and made.count('"') == 2
