"""What a run leaves behind, and that its numbers are the ones that were."""

from __future__ import annotations

from pathlib import Path

import pytest

from pgkit.loggers.layout import place
from pgkit.rl.collect import Batch
from pgkit.run.journal import TAGS
from tests.end_to_end.envs import Counted
from tests.end_to_end.runs import TYPED, configuration, events_of, gym, metrics_of, train, watching

PROMISED = {
    "status", "env_steps", "discarded_steps", "episodes", "updates", "wall_seconds", "train_cpu_seconds",
    "steps_per_second", "return_mean_100", "solved_at_steps", "solved_at_seconds", "solved_at_cpu_seconds", "eval",
    "gradient",
}  # fmt: skip


def test_a_run_leaves_exactly_its_files(typed_run: Path) -> None:
    files = [path.relative_to(typed_run) for path in typed_run.rglob("*") if path.is_file()]
    events = [file for file in files if file.name.startswith("events.out.tfevents.")]
    # One event file for the run and one for every estimator of the panel, which TensorBoard colours apart.
    names = ("current", "zero", "leave_one_out", "optimal", "total")
    assert sorted(str(file.parent) for file in events) == sorted([".", *(f"panel/{name}" for name in names)])
    assert {str(file) for file in files if file not in events} == {
        ".hydra/config.yaml",
        ".hydra/hydra.yaml",
        ".hydra/overrides.yaml",
        "checkpoints/last/policy.json",
        "checkpoints/last/policy.safetensors",
        "metrics.csv",
        "summary.json",
    }
    assert [path.name for path in typed_run.parent.iterdir()] == ["mine"]


def test_events_and_metrics_hold_equal_numbers(typed_run: Path) -> None:
    lines = metrics_of(typed_run)
    tags = [tag for tag in lines[0] if tag not in ("update", "env_steps")]
    events = {folder: events_of(typed_run / folder) for folder in {place(tag)[0] for tag in tags}}
    assert {tag for tag in events[""].Tags()["scalars"] if not tag.startswith("result/")} <= set(tags)
    for tag in tags:
        folder, name = place(tag)
        written = [(int(line["env_steps"]), float(line[tag])) for line in lines if line[tag]]
        scalars = events[folder].Scalars(name) if written else []
        assert [point.step for point in scalars] == [step for step, _ in written]
        # Events hold single precision.
        assert [point.value for point in scalars] == pytest.approx([value for _, value in written], rel=1e-6), tag


def test_every_tag_is_written_by_some_update(tmp_path: Path) -> None:
    # The panel pools 64 episodes before it gives an interval.
    run = train(tmp_path, *TYPED, "collect.episodes=32", "diagnostics.panel.every=1", "evaluation.episodes=0")
    assert [tag for tag in run.metrics[0] if not any(line[tag] for line in run.metrics)] == []


def test_the_last_line_and_the_summary_agree(tmp_path: Path) -> None:
    run = train(tmp_path, "env=CartPole", "total_steps=4000", "evaluation.episodes=4")
    summary, lines = run.summary, run.metrics
    assert summary.keys() >= PROMISED
    assert summary["status"] == "finished"
    assert summary["updates"] == len(lines) == int(lines[-1]["update"])
    assert summary["env_steps"] == int(lines[-1]["env_steps"]) >= 4000
    assert summary["episodes"] == 8 * len(lines)
    assert summary["return_mean_100"] == float(lines[-1]["return/mean_100"])
    # CartPole pays 1 a step: returns are lengths, and the lengths of whole episodes are all the steps there were.
    assert sum(8 * float(line["return/mean"]) for line in lines) == pytest.approx(summary["env_steps"])
    assert summary["steps_per_second"] == pytest.approx(summary["env_steps"] / summary["wall_seconds"])
    assert 0 < summary["train_cpu_seconds"] < 1.5 * summary["wall_seconds"]
    for tag, value in summary["gradient"].items():
        assert value == [float(line[tag]) for line in lines if line[tag]][-1]
    for acting in ("deterministic", "stochastic"):
        assert summary["eval"][acting]["episodes"] == 4
        assert summary["eval"][acting]["low"] <= summary["eval"][acting]["mean"] <= summary["eval"][acting]["high"]


@pytest.mark.parametrize("diagnostics", ["none", "economy", "[variance]"])
def test_the_header_is_fixed_by_the_tags_of_the_parts(tmp_path: Path, diagnostics: str) -> None:
    run = train(tmp_path, "total_steps=1", "agent=vpg", f"diagnostics={diagnostics}", "evaluation.episodes=0")
    parts = run.parts
    instruments = [tag for each in parts.diagnostics.values() for tag in each.tags]
    header = (tmp_path / "metrics.csv").read_text().splitlines()[0].split(",")
    assert header == ["update", "env_steps", *TAGS, *parts.update.tags, *parts.critic.tags, *instruments]
    assert len(set(header)) == len(header)
    assert ("gradient/snr" in header) == (diagnostics != "none")


COLLECTORS = {
    "episodes, lanes that pause": ("env.vectorization=sync", "collect.episodes=16"),
    "episodes, lanes that cannot": ("env.vectorization=vector_entry_point", "collect.episodes=16"),
    "steps, sync": ("env.vectorization=sync", "collect=steps", "returns.cut=zero", "collect.steps=50"),
    "steps, vectorised": (
        "env.vectorization=vector_entry_point", "collect=steps", "returns.cut=zero", "collect.steps=50",
    ),
}  # fmt: skip


@pytest.mark.parametrize("collector", COLLECTORS)
def test_steps_are_the_transitions_that_the_environments_made(tmp_path: Path, collector: str) -> None:
    before, used = Counted.transitions, 0

    def collected(batch: Batch) -> None:
        nonlocal used
        used += int(batch.trajectories.mask.sum())

    run = train(
        tmp_path, *gym("Counted"), "total_steps=1500", "evaluation.episodes=0", *COLLECTORS[collector],
        through=watching(collected),
    )  # fmt: skip
    summary = run.summary
    assert summary["updates"] > 1
    assert summary["env_steps"] == Counted.transitions - before
    assert summary["discarded_steps"] == summary["env_steps"] - used
    assert (summary["discarded_steps"] > 0) == (collector == "episodes, lanes that cannot")


def test_the_saved_configuration_is_the_one_that_ran(typed_run: Path) -> None:
    from omegaconf import OmegaConf

    saved = OmegaConf.load(typed_run / ".hydra" / "config.yaml")
    config = configuration(*TYPED)
    assert OmegaConf.to_container(saved, resolve=True) == OmegaConf.to_container(config)
