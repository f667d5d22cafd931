"""Verdicts, files and pages follow from the numbers."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest

from pgkit.verifying.advice import conclusion, ranked
from pgkit.verifying.cards import write_cards
from pgkit.verifying.pairs import options
from pgkit.verifying.report import refusals
from pgkit.verifying.rows import Row, as_csv, as_json, judged


def row(estimator: str = "score", *, p: float | None = 0.5, claims: bool = True, **changed: object) -> Row:
    numbers = {"bias": 0.1, "bias_standard_error": 0.1, "z": 1.0, "tests": 1, "variance": 2.0, **changed}
    return Row(problem="bandit", estimator=estimator, baseline="zero", p_value=p, claims_unbiased=claims, **numbers)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("p", "claims", "verdict"),
    [
        (0.5, True, "unbiased"),
        (1e-9, True, "BIASED"),
        (1e-9, False, "biased as stated"),
        (0.5, False, "no bias seen"),
        (None, True, "not known"),
    ],
)
def test_the_verdict_weighs_the_bias_against_the_claim(p: float | None, claims: bool, verdict: str) -> None:
    assert judged([row(p=p, claims=claims)], alpha=0.01)[0].verdict == verdict


def test_the_threshold_is_shared_by_all_tests_of_the_table() -> None:
    suspicious = row(p=0.004, tests=1)
    assert judged([suspicious], alpha=0.01)[0].verdict == "BIASED"
    assert judged([suspicious, row("other", tests=2)], alpha=0.01)[0].verdict == "unbiased"


def test_worth_is_the_ratio_to_score_measured_or_else_exact() -> None:
    first, second = judged([row(variance=8.0), row("other", variance=2.0)], alpha=0.01)
    assert (first.score_samples, second.score_samples) == (1.0, 4.0)
    (alone,) = judged([row("other", variance=2.0, score_variance=6.0)], alpha=0.01)
    assert alone.score_samples == 3.0
    (still,) = judged([row("other", variance=0.0, score_variance=6.0)], alpha=0.01)
    assert still.score_samples is None


def test_what_was_refused_stays_refused_with_its_reason() -> None:
    refused = Row(problem="bandit", estimator="pathwise", baseline="zero", verdict="refused", reason="not smooth")
    assert judged([refused], alpha=0.01) == [refused]
    assert refusals([refused]) == ["pathwise on bandit: not smooth"]
    others = [Row(problem=name, estimator="pathwise", baseline="zero", reason=f"not {name}") for name in ("a", "b")]
    assert refusals(others) == ["pathwise on a, b: not a"]


def test_the_files_hold_every_row() -> None:
    rows = [row(errors={4: 0.5}), row("other")]
    read = list(csv.DictReader(io.StringIO(as_csv(rows))))
    assert [line["estimator"] for line in read] == ["score", "other"] and read[0]["variance"] == "2.0"
    assert as_json(rows)[0]["errors"] == {4: 0.5}


def test_advice_ranks_by_work_and_leaves_out_what_is_biased() -> None:
    quick = row("quick", variance=4.0, work_normalised_variance=1.0, verdict="unbiased")
    slow = row("slow", variance=1.0, work_normalised_variance=9.0, verdict="unbiased")
    wrong = row("wrong", work_normalised_variance=0.1, verdict="BIASED")
    biased = row("biased", claims=False, work_normalised_variance=0.1, verdict="no bias seen")
    assert ranked([slow, biased, wrong, quick]) == [quick, slow]
    worthy = row("quick", work_normalised_variance=1.0, score_samples=3.0, verdict="unbiased")
    assert conclusion([worthy]).endswith("score without baseline needs 3 times its samples")
    assert "work: quick" in conclusion([slow, quick]) and "sample: slow" in conclusion([slow, quick])
    assert conclusion([wrong]) == "no unbiased estimator applies"


def test_a_card_says_what_the_class_says_and_what_was_measured(tmp_path: Path) -> None:
    refused = Row(problem="poisson", estimator="pathwise", baseline="zero", verdict="refused", reason="not smooth")
    files = write_cards(tmp_path, [row("pathwise", verdict="unbiased"), refused], options("estimator"), command="it")
    card = (tmp_path / "pathwise.md").read_text()
    assert {file.name for file in files} == {"pathwise.md", "README.md"}
    for said in (
        "∇E[f] = E[∇_θ f(g_θ(ε))]",
        "**Source**: Kingma",
        "| bandit | zero | unbiased |",
        "poisson: not smooth",
    ):
        assert said in card
    assert "[`pathwise`](pathwise.md)" in (tmp_path / "README.md").read_text()
