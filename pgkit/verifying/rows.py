"""The table of a verification: one row a pair, with its verdict."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal

from pgkit.problems.measurement import Measurement

Verdict = Literal["unbiased", "BIASED", "biased as stated", "no bias seen", "not known", "refused", "FAILED"]


_ROUNDING = 1e-12


@dataclass(frozen=True, kw_only=True)
class Row:
    """What came of one pair; the fields after `reason` are None where it was not measured.

    `exact_variance` and `variance` are traces, of one sample's gradient; `score_samples` is how many samples of `score`
    without baseline one sample is worth, the ratio of their variances: measured, or else the exact `score_variance`.
    """

    problem: str
    estimator: str
    baseline: str
    verdict: Verdict = "not known"
    reason: str | None = None
    claims_unbiased: bool | None = None
    num_parameters: int | None = None
    samples: int | None = None
    gradient_norm: float | None = None
    bias: float | None = None
    bias_standard_error: float | None = None
    bias_batch: int | None = None
    z: float | None = None
    p_value: float | None = None
    tests: int = 0
    variance: float | None = None
    variance_standard_error: float | None = None
    exact_variance: float | None = None
    errors: dict[int, float] | None = None
    slope: float | None = None
    seconds_per_sample: float | None = None
    work_normalised_variance: float | None = None
    score_variance: float | None = None
    score_samples: float | None = None

    @property
    def name(self) -> str:
        """The estimator, with its baseline if it has one."""
        return self.estimator if self.baseline == "zero" else f"{self.estimator} − {self.baseline}"


def measured(row: Row, measurement: Measurement, *, exact: float | None, score: float | None) -> Row:
    """Returns the row with what was measured, its verdict still open; the exact variances are its own and `score`'s."""
    work = measurement.work_normalised_variance
    found = asdict(measurement)
    return replace(row, **found, work_normalised_variance=work, exact_variance=exact, score_variance=score)


def judged(rows: Sequence[Row], *, alpha: float) -> list[Row]:
    """Returns the rows with their verdicts: a bias is one whose p-value times the number of all tests is below alpha.

    So corrected, a table without any bias shows one with a probability of at most alpha.
    Source: Bonferroni 1936; Dunn 1961 (Journal of the American Statistical Association 56:52).
    """
    tests = sum(row.tests for row in rows)
    reference = {row.problem: row.variance for row in rows if row.name == "score" and row.variance}
    found = []
    for row in rows:
        if row.verdict in ("refused", "FAILED"):
            found.append(row)
            continue
        score, own = reference.get(row.problem, row.score_variance), row.variance
        # What has no variance but rounding is worth any number of samples.
        ratio = score / own if score and own and own > _ROUNDING * score else None
        found.append(replace(row, verdict=_verdict(row, alpha / max(1, tests)), score_samples=ratio))
    return found


def as_csv(rows: Sequence[Row]) -> str:
    """Returns the table with one line a row; errors against N are a column of the JSON file alone."""
    names = [field.name for field in fields(Row) if field.name != "errors"]
    out = io.StringIO()
    writer = csv.DictWriter(out, names, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(row) for row in rows)
    return out.getvalue()


def as_json(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Returns the table as plain values."""
    return [asdict(row) for row in rows]


def _verdict(row: Row, threshold: float) -> Verdict:
    if row.p_value is None:
        return "not known"
    if row.p_value < threshold:
        return "BIASED" if row.claims_unbiased else "biased as stated"
    return "unbiased" if row.claims_unbiased else "no bias seen"
