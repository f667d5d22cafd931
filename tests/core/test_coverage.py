"""What is said of intervals is what the experiment measured."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest

from pgkit.core.coverage import RATIO, SNR, Coverage
from pgkit.core.jackknife import LEVEL
from pgkit.loggers.layout import FIRST
from pgkit.reporting.formulas import ESTIMATORS, NOISE_SCALE, SIGNAL

TABLE = Path(__file__).resolve().parents[2] / "experiments" / "baseline_variance" / "table.json"
IN_USE = "leave_one_out"


def measured(kind: str) -> Iterator[tuple[str, list[float]]]:
    """Yields (policy, coverage by estimator) of every size of batches."""
    for policy in json.loads(TABLE.read_text(encoding="utf-8")):
        for size in (64, 256, 1024):
            rows: list[dict[str, Any]] = [row for row in policy["rows"] if row["trajectories"] == size]
            # The ratio of the estimator in use to itself is 1 whatever was drawn.
            counted = [row for row in rows if kind == "coverage_snr" or row["estimator"] != IN_USE]
            yield policy["policy"], [row[kind] for row in counted if row[kind] is not None]


@pytest.mark.parametrize(("kind", "said"), [("coverage_ratio", RATIO), ("coverage_snr", SNR)])
def test_the_figures_are_those_of_the_experiment(kind: str, said: Coverage) -> None:
    found = list(measured(kind))
    for stages, expected in ((("untrained", "half trained"), said.early), (("solved",), said.solved)):
        means = [round(fmean(shares), 2) for policy, shares in found if policy in stages]
        assert (min(means), max(means)) == expected
    assert round(min(share for _, shares in found for share in shares), 2) == said.worst


def test_the_nominal_coverage_is_not_printed_where_less_than_ninety_per_cent_were_measured() -> None:
    assert LEVEL == 0.95 and RATIO.borne_out and not SNR.borne_out
    assert RATIO.short == "95 %" and "95 %" in RATIO.long
    assert SNR.short == "87 to 96 %" and "95 %" not in SNR.long and "87 to 92 % near the top of training" in SNR.long
    assert "95 %" in replace(SNR, solved=(0.90, 0.92)).short
    assert "95 %" not in replace(RATIO, solved=(0.89, 0.98)).short


def test_whatever_people_read_of_these_intervals_says_so() -> None:
    for formula in (SIGNAL, NOISE_SCALE):
        assert SNR.long in formula.text and "95 %" not in formula.text
    assert RATIO.long in ESTIMATORS.text
    titles = {chart.tags[0]: chart.title for _, charts in FIRST for chart in charts if chart.interval}
    for tag in ("panel/snr", "noise_scale/trajectories"):
        assert titles[tag].endswith(SNR.short)
    for tag in ("panel/variance_ratio", "critic_lag/value_ratio", "critic_lag/corrected_ratio"):
        assert titles[tag].endswith(RATIO.short)


@pytest.mark.parametrize("page", ["docs/dashboard.md", "docs/metrics.md"])
def test_the_pages_name_the_same_figures(page: str) -> None:
    text = (TABLE.parents[2] / page).read_text(encoding="utf-8")
    assert SNR.short in text and f"{100 * SNR.worst:.0f} % at worst" in text
    assert f"{100 * RATIO.worst:.0f} % at worst" in text
