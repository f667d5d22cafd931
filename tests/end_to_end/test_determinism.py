"""One seed, one run: bit for bit, whatever is measured, logged or shown beside it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.end_to_end.runs import Run, equal, train

AGENTS = {
    "reinforce": ("env=CartPole", "total_steps=1500"),
    "reinforce, vectorised": ("env=CartPole", "total_steps=1500", "env.vectorization=auto"),
    "reinforce, async": ("env=CartPole", "total_steps=300", "env.vectorization=async", "env.num_envs=2"),
    "vpg": ("env=Pendulum", "agent=vpg", "total_steps=2500", "policy.normalise_observations=true"),
    "vpg, scaled": (
        "env=CartPole", "agent=vpg", "total_steps=2500", "returns.scale_rewards=true",
        "update.entropy_coefficient=0.01", "update.max_grad_norm=0.5", "estimator.standardise=true",
    ),
}  # fmt: skip


def lines(run: Run) -> list[dict[str, str]]:
    """Returns what `metrics.csv` says, but for the columns that tell the time."""
    return [{tag: value for tag, value in line.items() if not tag.startswith("time/")} for line in run.metrics]


@pytest.mark.parametrize("agent", AGENTS)
def test_the_same_seed_gives_the_same_run(tmp_path: Path, agent: str) -> None:
    first, again = (train(tmp_path / name, *AGENTS[agent], "evaluation.episodes=4") for name in "ab")
    assert lines(first) == lines(again)
    assert first.summary["updates"] > 1
    assert equal(first.parameters, again.parameters)
    assert first.summary["eval"] == again.summary["eval"]


def test_another_seed_gives_another_run(tmp_path: Path) -> None:
    runs = [
        train(tmp_path / f"{seed}", "total_steps=300", "evaluation.episodes=0", f"seed={seed}") for seed in range(3)
    ]
    assert len({run.metrics[0]["env_steps"] + run.metrics[0]["return/max"] for run in runs}) == 3
    assert len({str(run.parameters["network.0.weight"].flatten()[0]) for run in runs}) == 3


def test_what_the_program_drew_before_changes_nothing(tmp_path: Path) -> None:
    first = train(tmp_path / "a", "total_steps=500", "evaluation.episodes=0")
    torch.manual_seed(7)
    torch.rand(3)
    state = torch.get_rng_state()
    again = train(tmp_path / "b", "total_steps=500", "evaluation.episodes=0")
    assert equal(first.parameters, again.parameters)
    assert torch.equal(state, torch.get_rng_state())


BESIDE = {
    "no instruments": ("diagnostics=none",),
    "all instruments": ("diagnostics=full",),
    "some instruments": ("diagnostics=[variance,policy]", "diagnostics.every=2"),
    "instruments of signal and step": ("diagnostics=[halves,layers,noise_scale,scores,optimizer_step,fisher]",),
    "no evaluation": ("evaluation.episodes=0",),
    "much evaluation": ("evaluation.episodes=12", "evaluation.num_envs=3"),
    "no logger": ("logger=none",),
    "one logger": ("logger=csv",),
}


@pytest.mark.parametrize("agent", ["reinforce", "vpg"])
def test_what_goes_on_beside_a_run_changes_nothing(tmp_path: Path, agent: str) -> None:
    plain = train(tmp_path / "plain", *AGENTS[agent], "evaluation.episodes=4")
    for number, (name, overrides) in enumerate(BESIDE.items()):
        evaluation = () if "evaluation" in name else ("evaluation.episodes=4",)
        run = train(tmp_path / str(number), *AGENTS[agent], *evaluation, *overrides)
        assert equal(plain.parameters, run.parameters), name
        if name == "no evaluation":
            assert run.summary["eval"] is None
        elif name != "much evaluation":
            assert run.summary["eval"] == plain.summary["eval"], name


def test_a_progress_bar_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = train(tmp_path / "plain", "total_steps=800", "evaluation.episodes=0")
    monkeypatch.setattr("pgkit.run.output.Output.isatty", lambda self: True)
    monkeypatch.setattr("pgkit.run.progress.Bar.interval", 0.0)
    shown = train(tmp_path / "shown", "total_steps=800", "evaluation.episodes=0")
    assert equal(plain.parameters, shown.parameters)
