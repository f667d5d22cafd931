"""`python -m pgkit.verify` from the command line: files, exit codes, one-line errors."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

QUICK = ("repeats=100", "workers=1")


def verify(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pgkit.verify", f"hydra.run.dir={folder / 'run'}", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


def test_a_verification_passes_and_leaves_its_table(tmp_path: Path) -> None:
    result = verify(tmp_path, "estimators=[score,pathwise]", "problems=[bandit,gaussian_quadratic]", *QUICK)
    assert result.returncode == 0, result.stderr
    assert "not reparameterised" in result.stdout and "gaussian_quadratic" in result.stdout
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["status"] == "passed" and summary["verdicts"] == {"unbiased": 5, "refused": 1}
    rows = json.loads((tmp_path / "run" / "table.json").read_text())["rows"]
    assert len(rows) == 6 and len((tmp_path / "run" / "table.csv").read_text().splitlines()) == 7
    # 12 + 4 of the pathwise estimator, exactly.
    (pathwise,) = (row for row in rows if row["estimator"] == "pathwise" and row["verdict"] != "refused")
    assert pathwise["exact_variance"] == pytest.approx(16.0)


def test_the_biased_twin_fails_it(tmp_path: Path) -> None:
    result = verify(tmp_path, "estimator=biased_twin", "problems=[bernoulli]", *QUICK)
    assert result.returncode == 1 and "BIASED" in result.stdout
    assert result.stderr.count("\n") == 1 and "biased_twin on bernoulli" in result.stderr
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["status"] == "failed"


def test_advice_says_what_applies_and_writes_cards_if_asked_to(tmp_path: Path) -> None:
    arguments = ("advise=true", "problem=gaussian_cosine", "problem.frequency=5", "estimators=[score,pathwise,arm]")
    result = verify(tmp_path, *arguments, "cards=cards", *QUICK)
    assert result.returncode == 0, result.stderr
    assert "Gaussian law, reparameterisable, differentiable cost, dimension 1" in result.stdout
    assert "best for a second of work: score" in result.stdout
    assert {path.stem for path in (tmp_path / "cards").iterdir()} == {"README", "arm", "pathwise", "score"}


def test_problems_whose_files_set_keys_of_fit_are_verified_and_advised_on(tmp_path: Path) -> None:
    result = verify(tmp_path, "problem=sphere", "problem.dimension=2", "estimators=[score,pathwise]", *QUICK)
    assert result.returncode == 0, result.stderr
    rows = json.loads((tmp_path / "run" / "table.json").read_text())["rows"]
    assert {row["problem"] for row in rows} == {"sphere"} and len(rows) == 3
    for run in (tmp_path / "run").rglob("*"):
        run.is_file() and run.unlink()
    result = verify(tmp_path, "advise=true", "problem=rastrigin", "estimators=[score,pathwise]", *QUICK)
    assert result.returncode == 0, result.stderr
    assert "best for a second of work" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("problems=[bandits]", "estimators=[score]"), "did you mean bandit?"),
        (("problems=[bandit]", "estimators=[score_function]"), "score_function cannot stand alone"),
        (("advise=true", "problems=[bandit,gamma]", "estimators=[score]"), "expected problem=NAME or problems"),
    ],
)
def test_mistakes_are_answered_in_one_line(arguments: tuple[str, ...], said: str, tmp_path: Path) -> None:
    result = verify(tmp_path, *arguments)
    assert result.returncode == 2 and said in result.stderr and result.stderr.count("\n") == 1
    assert not (tmp_path / "run").exists()
