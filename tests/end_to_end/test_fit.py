"""`pgkit.fit`: one loop for every estimator, from the command line to the summary."""

from __future__ import annotations

import csv
import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from hydra.core.hydra_config import HydraConfig

from pgkit import fit
from pgkit.config import check, compose, config_dir
from pgkit.core.expectation import summarise
from pgkit.errors import RunFault, UsageError
from pgkit.fitting import assemble, conduct, trial
from pgkit.problems.conjugate_gaussian import ConjugateGaussian
from pgkit.problems.logistic_regression import LogisticRegression
from pgkit.problems.maximum_likelihood import MaximumLikelihood
from pgkit.updates.ascent import Ascent
from tests.end_to_end.runs import events_of

MINE = (
    "conjugate_gaussian",
    "conjugate_mean_field",
    "gym_policy",
    "logistic_regression",
    "maximum_likelihood",
    "rastrigin",
    "rosenbrock",
    "sphere",
    "step_function",
    "vae",
)


def run(folder: Path, *overrides: str) -> dict[str, Any]:
    """Returns the summary of a fit that was conducted in `folder`."""
    composed = compose("fit", list(overrides))
    before = HydraConfig.instance().cfg
    HydraConfig.instance().set_config(composed)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        conduct(check(composed), folder, fit.descend)
    finally:
        HydraConfig.instance().cfg = before
    summary: dict[str, Any] = json.loads((folder / "summary.json").read_text())
    return summary


def rehearse(*overrides: str) -> None:
    fit.rehearse(check(compose("fit", list(overrides))), ())


def test_reparameterisation_gradients_reach_the_exact_posterior(tmp_path: Path) -> None:
    summary = run(tmp_path, "problem=conjugate_gaussian", "estimator=pathwise", "total_samples=10000", "logger=none")
    assert summary["status"] == "finished" and summary["unbiased"]
    assert summary["distance"] < 1e-4 and summary["samples_to_target"] < 8000
    fitted = safetensors.torch.load_file(tmp_path / "checkpoints" / "parameters.safetensors")
    problem = ConjugateGaussian()
    assert fitted["mean"] == pytest.approx(problem.optimum()["mean"], abs=1e-2)
    assert summary["objective"] == pytest.approx(problem.log_evidence(), abs=1e-3)


def test_score_function_gradients_get_there_later(tmp_path: Path) -> None:
    small = ("problem=conjugate_gaussian", "problem.dimension=2", "stop_at_target=true")
    by_score = run(tmp_path / "score", *small, "estimator=score", "baseline=leave_one_out")
    by_path = run(tmp_path / "pathwise", *small, "estimator=pathwise")
    assert by_score["samples_to_target"] is not None
    assert by_path["samples_to_target"] < by_score["samples_to_target"]


@pytest.mark.parametrize("name", ["sphere", "rastrigin", "rosenbrock", "step_function"])
def test_searches_reach_their_documented_target(tmp_path: Path, name: str) -> None:
    summary = run(tmp_path, f"problem={name}")
    assert summary["samples_to_target"] is not None and summary["objective"] <= summary["target"]
    assert not summary["unbiased"]


def test_plain_stochastic_search_descends_without_ranks_or_natural_gradients(tmp_path: Path) -> None:
    summary = run(
        tmp_path,
        *("problem=step_function", "estimator=score", "baseline=leave_one_out", "optimizer=adam", "optimizer.lr=0.1"),
        "total_samples=10000",
    )
    assert summary["samples_to_target"] is not None and summary["unbiased"]


def test_plain_monte_carlo_where_the_law_is_free_of_the_parameters(tmp_path: Path) -> None:
    summary = run(tmp_path, "problem=maximum_likelihood", "estimator=score", "total_samples=8000", "logger=none")
    assert summary["distance"] < 0.02
    problem = MaximumLikelihood()
    start = problem.parameters()
    estimate = trial(assemble(check(compose("fit", ["problem=maximum_likelihood"]))), num_samples=20_000)
    # In the mean it is E[−x] = −2 with variance 2, and in log σ 1 − E[x²] = −5.
    assert list(start) == list(estimate.shapes)
    assert estimate.mean[0] == pytest.approx(-2, abs=5 * math.sqrt(2 / 20_000))


def test_a_run_leaves_its_metrics_events_and_summary(tmp_path: Path) -> None:
    overrides = ("problem=logistic_regression", "estimator=score", "baseline=leave_one_out", "estimator.clip=5")
    summary = run(tmp_path, *overrides, "total_samples=200", "max_grad_norm=0.5", "seed=3", "objective_every=2")
    with (tmp_path / "metrics.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert [line["samples"] for line in lines] == [str(20 * k) for k in range(1, 11)]
    assert [bool(line["objective/value"]) for line in lines] == [False, True] * 5
    assert all(0 <= float(line["coefficients/clipped_fraction"]) <= 1 for line in lines)
    assert max(float(line["gradient/norm_clipped"]) for line in lines) <= 0.5 < float(lines[0]["gradient/norm"])
    tags = {
        *("objective/value", "solution/distance", "gradient/norm", "gradient/norm_clipped"),
        *("coefficients/clipped_fraction", "time/samples_per_second", "update/learning_rate"),
    }
    assert tags <= set(events_of(tmp_path).Tags()["scalars"])
    assert (summary["samples"], summary["updates"], summary["seed"]) == (200, 10, 3)
    assert not summary["unbiased"] and set(summary["versions"]) >= {"pgkit", "torch"}
    assert summary["distance"] == pytest.approx(float(lines[-1]["solution/distance"]))
    assert (summary["problem"], summary["estimator"]) == ("logistic_regression", "score")


def test_the_noise_of_the_gradient_is_logged(tmp_path: Path) -> None:
    run(tmp_path, "problem=logistic_regression", "total_samples=40")
    with (tmp_path / "metrics.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    for line in lines:
        one, mean = float(line["gradient/per_sample_variance"]), float(line["gradient/variance_of_mean"])
        assert mean == pytest.approx(one / 20)
        signal = float(line["gradient/norm"]) ** 2 - mean
        assert float(line["gradient/snr"]) == pytest.approx(signal / mean)


def test_the_first_interrupt_ends_a_fit_with_everything_written(tmp_path: Path, monkeypatch: Any) -> None:
    step = Ascent.step

    def interrupted(self: Ascent, *arguments: Any, **keywords: Any) -> Any:
        os.kill(os.getpid(), signal.SIGINT)
        return step(self, *arguments, **keywords)

    monkeypatch.setattr(Ascent, "step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, "problem=sphere")
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert (summary["status"], summary["updates"]) == ("interrupted", 1)
    assert (tmp_path / "checkpoints" / "parameters.safetensors").exists()


def test_one_seed_is_one_fit(tmp_path: Path) -> None:
    overrides = ("problem=conjugate_gaussian", "problem.batch_size=5", "total_samples=100")
    state = torch.random.get_rng_state()
    seeds = {"a": 1, "b": 1, "c": 2}
    first, again, other = (run(tmp_path / name, *overrides, f"seed={seed}") for name, seed in seeds.items())
    assert torch.equal(state, torch.random.get_rng_state())
    assert first["objective"] == again["objective"] != other["objective"]


def test_minibatches_are_unbiased() -> None:
    problem = ConjugateGaussian(observations=3, batch_size=1)
    start = problem.parameters()
    x = torch.linspace(-1, 1, 10, dtype=torch.float64).reshape(2, 5)
    picked = [problem._bound(start, torch.tensor([row])).cost(x) for row in range(3)]
    assert torch.stack(picked).mean(0) == pytest.approx(problem.at(start).cost(x), abs=1e-10)


@pytest.mark.parametrize("family", ["full_rank", "mean_field"])
def test_the_bound_of_the_conjugate_problem_is_its_closed_form(family: str) -> None:
    problem = ConjugateGaussian(dimension=2, family=family)  # type: ignore[arg-type]
    optimum = problem.optimum()
    assert problem.distance(optimum) == pytest.approx(0, abs=1e-12)
    worse = {name: value + 0.1 for name, value in optimum.items()}
    assert problem.distance(worse) > 1e-3
    law = problem.law(worse)
    samples = torch.randn(2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)[None]
    # log p(y) = log p(x, y) − log p(x | y), whatever x is.
    posterior = torch.distributions.MultivariateNormal(problem.mean, precision_matrix=problem.precision)
    cost = problem.at(worse).cost(samples) + law.log_prob(samples) - posterior.log_prob(samples)
    assert float(cost) == pytest.approx(problem.log_evidence(), abs=1e-10)


def test_quadratures_of_the_logistic_problem_agree() -> None:
    problem = LogisticRegression()
    start = problem.parameters()
    samples = torch.randn(200_000, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    costs = problem.at(start).cost(samples)
    error = float(costs.std()) / math.sqrt(len(costs))
    assert abs(float(costs.mean()) - problem.objective(start)) < 5 * error
    assert problem.distance(start) > 0


@pytest.mark.parametrize("name", MINE)
def test_every_problem_starts_and_takes_a_step(tmp_path: Path, name: str) -> None:
    summary = run(tmp_path, f"problem={name}", "num_samples=4", "total_samples=8", "stop_at_target=false")
    assert summary["status"] == "finished" and summary["objective"] is not None


@pytest.mark.parametrize("name", ["sticking_the_landing", "importance_weighted", "doubly_reparameterised"])
@pytest.mark.parametrize("problem", ["conjugate_gaussian", "logistic_regression", "vae"])
def test_every_bound_goes_with_every_estimator_of_bounds(tmp_path: Path, problem: str, name: str) -> None:
    size = ("problem.batch_size=4", "num_samples=5", "total_samples=10")
    assert run(tmp_path, f"problem={problem}", f"estimator={name}", *size)["status"] == "finished"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("problem=step_function", "estimator=pathwise"), "cost: piecewise constant or without a gradient"),
        (("problem=sphere", "estimator=sticking_the_landing"), "estimator: sticking_the_landing for an expectation"),
        (("problem=rosenbrock", "optimizer=snes"), "optimizer: snes for parameters mean and factor, expected mean and"),
        (
            ("estimator=score", "baseline=value"),
            "baseline: value, expected with pgkit.fit one of constant, leave_one_out",
        ),
        (("estimator=pathwise", "baseline=leave_one_out"), "baseline: LeaveOneOut, expected zero with Pathwise"),
        (("estimator=ranked_score",), "estimator.best: lowest for an objective that is maximised, expected highest"),
        (("problem=sphere", "num_samples=3"), "num_samples: 3, expected an even number"),
        (("problem.dimension=0",), "problem.dimension: 0, expected an integer at least 1"),
        (("problem.dimensio=2",), "problem.dimensio: unknown key"),
        (("num_samples=1", "estimator=score", "baseline=leave_one_out"), "num_samples: 1, expected at least 2 for"),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_wrong_combinations_are_named_before_anything_is_written(overrides: tuple[str, ...], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        rehearse(*overrides)
    assert str(caught.value).startswith(message) and "\n" not in str(caught.value)


def test_a_gradient_that_is_not_finite_leaves_the_parameters() -> None:
    leaf = torch.nn.Parameter(torch.ones(2))
    ascent = Ascent(optimizer=torch.optim.SGD([("x", leaf)], lr=1.0), parameters={"x": leaf}, maximise=True)
    estimate = summarise(torch.full((3, 2), math.nan), {"x": leaf}, unbiased=True)
    with pytest.raises(RunFault, match=r"^gradient/norm: nan, expected a finite number"):
        ascent.step(estimate, progress=0.0)
    assert torch.equal(leaf.detach(), torch.ones(2))


@pytest.mark.parametrize(("maximise", "moved"), [(True, 3.0), (False, -1.0)])
def test_objectives_go_up_and_costs_down(maximise: bool, moved: float) -> None:
    leaf = torch.nn.Parameter(torch.ones(2))
    ascent = Ascent(optimizer=torch.optim.SGD([("x", leaf)], lr=1.0), parameters={"x": leaf}, maximise=maximise)
    ascent.step(summarise(torch.full((3, 2), 2.0), {"x": leaf}, unbiased=True), progress=0.0)
    assert torch.equal(leaf.detach(), torch.full((2,), moved))


def test_a_long_gradient_is_shortened_and_a_short_one_is_not() -> None:
    for size, moved in ((4.0, 0.5), (0.25, 0.25)):
        leaf = torch.nn.Parameter(torch.zeros(1))
        optimizer = torch.optim.SGD([("x", leaf)], lr=1.0)
        ascent = Ascent(optimizer=optimizer, parameters={"x": leaf}, maximise=True, max_grad_norm=0.5)
        metrics = ascent.step(summarise(torch.full((3, 1), size), {"x": leaf}, unbiased=True), progress=0.0)
        assert float(leaf.detach()) == moved
        assert (metrics["gradient/norm"], metrics["gradient/norm_clipped"]) == (size, moved)


def test_a_linear_schedule_ends_at_nothing() -> None:
    leaf = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([("x", leaf)], lr=1.0)
    ascent = Ascent(optimizer=optimizer, parameters={"x": leaf}, maximise=True, schedule="linear")
    for progress, place in ((0.0, 1.0), (0.75, 1.25), (1.0, 1.25)):
        ascent.step(summarise(torch.ones(3, 1), {"x": leaf}, unbiased=True), progress=progress)
        assert float(leaf.detach()) == place


def test_the_command_line_fits_and_answers_mistakes_in_one_line(tmp_path: Path) -> None:
    def call(*overrides: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "pgkit.fit", *overrides]
        return subprocess.run(command, cwd=config_dir().parent, capture_output=True, text=True)

    good = call("problem=step_function", "total_samples=500", f"hydra.run.dir={tmp_path / 'good'}")
    assert good.returncode == 0, good.stderr
    assert "step_function · ranked_score · zero · snes" in good.stdout and "samples/s" in good.stdout
    assert json.loads((tmp_path / "good" / "summary.json").read_text())["status"] == "finished"
    bad = call("problem=step_function", "estimator=pathwise", f"hydra.run.dir={tmp_path / 'bad'}")
    assert bad.returncode == 2 and len(bad.stderr.splitlines()) == 1 and not (tmp_path / "bad").exists()
