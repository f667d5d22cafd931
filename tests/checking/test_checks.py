"""Every check of `pgkit.check_env` passes what is sound and finds what is not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pgkit.checking.findings import Finding
from pgkit.checking.report import advice, as_json, counts
from pgkit.checking.single import examine
from pgkit.checking.speed import Speed, best, measured, ratios
from pgkit.checking.vector import examine_vector
from pgkit.rl.forms import Blueprint
from pgkit.rl.lanes import Lanes
from tests.faults.command import refusal, run
from tests.rl.envs import toy


def odd(name: str) -> str:
    return f"tests.checking.envs:{name}-v0"


def found(id: str, wrappers: tuple[Any, ...] = (), steps: int = 300, **kwargs: Any) -> dict[str, Finding]:
    """Returns the findings on an environment, by check."""
    plan = Blueprint.of(id, kwargs, list(wrappers))
    findings = [*examine(plan, steps=steps, seed=0)] if plan.has_single else []
    findings += examine_vector(plan, num_envs=3, steps=steps, seed=0)
    return {finding.check: finding for finding in findings}


@pytest.mark.parametrize("id", [odd("Sound"), "CartPole-v1", "FrozenLake-v1", "Acrobot-v1"])
def test_nothing_is_wrong_with_a_sound_environment(id: str) -> None:
    findings = found(id, steps=1000)
    results = {check: finding.result for check, finding in findings.items()}
    # Acrobot pays −1 until it ends, and FrozenLake almost never anything.
    assert set(results.values()) <= {"ok"} | ({"warning"} if id.startswith("FrozenLake") else set()), findings


@pytest.mark.parametrize(
    ("id", "kwargs", "check", "result", "words"),
    [
        (toy("OldApi"), {}, "api", "failed", "the old Gym API"),
        (toy("Faulty"), {"fault": "four_values", "at": 3}, "api", "failed", "4 values from step()"),
        (toy("Spaces"), {"observation": "Text"}, "spaces", "failed", "an observation space Text"),
        (toy("Spaces"), {"action": "Tuple"}, "spaces", "failed", "an action space Tuple"),
        (toy("Mission"), {}, "spaces", "failed", "filter_observation"),
        (odd("Unbounded"), {}, "spaces", "warning", "without bounds"),
        (toy("Faulty"), {"fault": "nan_observation", "at": 20}, "observations", "failed", "not finite at step 20"),
        (toy("Faulty"), {"fault": "inf_observation", "at": 20}, "observations", "failed", "not finite at step 20"),
        (
            toy("Faulty"),
            {"fault": "longer", "at": 20},
            "observations",
            "failed",
            "shape (8,), expected (4,) at step 20",
        ),
        (toy("Faulty"), {"fault": "float64", "at": 20}, "observations", "failed", "dtype float64, expected float32"),
        (toy("Faulty"), {"fault": "list", "at": 20}, "observations", "failed", "list, expected an array"),
        (toy("Faulty"), {"fault": "float64_in_reset", "at": 9}, "observations", "failed", "in reset after step 72"),
        (odd("Outside"), {}, "observations", "warning", "outside the bounds"),
        (toy("Faulty"), {"fault": "nan_reward", "at": 20}, "rewards", "failed", "nan at step 20"),
        (toy("Faulty"), {"fault": "text_reward", "at": 20}, "rewards", "failed", "'many' at step 20"),
        (odd("Rich"), {}, "rewards", "warning", "large, expected about 1 a step"),
        (odd("Poor"), {}, "rewards", "warning", "small, expected about 1 a step"),
        (odd("Idle"), {}, "rewards", "warning", "earn nothing"),
        (toy("Faulty"), {"fault": "raise", "at": 20}, "exceptions", "failed", "ZeroDivisionError: division by zero"),
        (toy("Faulty"), {"fault": "flag", "at": 20}, "exceptions", "failed", "an end 'no' at step 20"),
        (toy("Faulty"), {"fault": "raise_in_reset", "at": 9}, "exceptions", "failed", "fell off the table"),
        (toy("Endless"), {}, "episodes", "warning", "expected collect=steps"),
        (toy("TwoFlags"), {}, "episodes", "warning", "both terminated and truncated"),
        (odd("Clock"), {}, "time limit", "warning", "every episode is terminated after 20 steps"),
        (odd("Unseeded"), {}, "seeding", "warning", "runs cannot be repeated"),
        (odd("Fixed"), {}, "seeding", "warning", "give the same"),
        (odd("Shared"), {}, "copies", "failed", "they share state"),
        (odd("SameStepOnly"), {}, "vector form", "warning", "autoreset mode SAME_STEP, expected NEXT_STEP"),
        (odd("Silent"), {}, "vector form", "warning", "autoreset mode None, expected NEXT_STEP"),
        (toy("OtherSpaces"), {}, "vector form", "warning", "env.vectorization=auto takes sync"),
        (odd("Floating"), {}, "vector form", "failed", "expected finite numbers"),
        (odd("Lying"), {}, "autoreset", "failed", "NEXT_STEP is stated"),
        (odd("UnseededLanes"), {}, "vector seeding", "warning", "runs cannot be repeated"),
        (odd("LanesFixed"), {}, "vector seeding", "warning", "give the same"),
        (odd("LanesAlike"), {}, "vector seeding", "warning", "every lane begins alike"),
    ],
)
def test_each_check_finds_what_it_is_for(id: str, kwargs: dict[str, Any], check: str, result: str, words: str) -> None:
    findings = found(id, **kwargs)
    assert findings[check].result == result and words in findings[check].detail, findings
    blamed = {name for name, finding in findings.items() if finding.result == "failed"}
    # Spaces that are not supported are those of both forms.
    assert blamed - {"vector form"} == ({check} if result == "failed" else set()) - {"vector form"}


def test_a_vectorised_form_alone_that_resets_otherwise_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = Blueprint.of(toy("OnlyDISABLED"), {}, [])
    monkeypatch.setattr(plan.spec, "entry_point", None)
    first, *rest = examine_vector(plan, num_envs=2, steps=10, seed=0)
    assert first.result == "failed" and {finding.result for finding in rest} == {"skipped"}


def test_wrappers_are_part_of_what_is_checked() -> None:
    findings = found(toy("Mission"), wrappers=({"filter_observation": {"keys": ["seen"]}},))
    assert findings["spaces"].result == "ok" and "Dict('seen'" in findings["spaces"].detail
    findings = found("CartPole-v1", wrappers=("time_aware",))
    assert findings["vector form"].detail == "time_aware cannot wrap it"
    assert (findings["spaces"].result, findings["seeding"].result) == ("ok", "ok")


def test_episodes_that_a_limit_cuts_are_told_from_those_that_end() -> None:
    findings = found(odd("SoundLimited"), steps=40)
    assert findings["time limit"].detail == "5 steps; 8 of 8 episodes were cut"
    assert findings["episodes"].detail.startswith("8 of 5 to 5 steps")


def test_speeds_are_measured_in_turn_in_every_form_there_is() -> None:
    order = []

    def open_lanes(form: str, lanes: int) -> Lanes:
        order.append((form, lanes))
        return Lanes(id="CartPole-v1", num_envs=lanes, vectorization=form)  # type: ignore[arg-type]  # one of three

    speeds = measured(open_lanes, lanes=[4, 2], most_workers=2, rounds=3, seconds=0.01, seed=0)
    assert [(speed.form, speed.lanes) for speed in speeds] == order
    assert order == [(form, 2) for form in ("sync", "async", "vector_entry_point")] + [
        ("sync", 4),
        ("vector_entry_point", 4),
    ]
    assert all(len(speed.rates) == 3 and min(speed.rates) > 0 for speed in speeds)
    assert set(ratios(speeds[0], speeds)) == {1.0}
    alone = measured(
        lambda form, lanes: Lanes(id=toy("VectorOnly"), num_envs=lanes, vectorization=form),  # type: ignore[arg-type]
        lanes=[2],
        most_workers=2,
        rounds=1,
        seconds=0.01,
        seed=0,
    )
    assert [speed.form for speed in alone] == ["vector_entry_point"] and ratios(alone[0], alone) == []


def test_an_environment_that_breaks_while_it_is_measured_is_left_out_with_its_reason() -> None:
    def open_lanes(form: str, lanes: int) -> Lanes:
        assert form != "vector_entry_point"
        return Lanes(id=toy("Faulty"), num_envs=lanes, vectorization="sync", kwargs={"fault": "raise", "at": 40})

    def none(form: str, lanes: int) -> Lanes:
        return open_lanes("sync" if form == "vector_entry_point" else form, lanes)

    speeds = measured(none, lanes=[2], most_workers=0, rounds=1, seconds=0.2, seed=0)
    assert all(not speed.rates and "ZeroDivisionError" in speed.reason for speed in speeds)
    assert best(speeds) is None and advice(speeds).startswith("advice: none")


def test_advice_takes_the_fewest_lanes_and_the_simplest_form_near_the_best() -> None:
    rows = [("sync", 8, 95.0), ("async", 8, 99.0), ("sync", 32, 100.0), ("vector_entry_point", 32, 80.0)]
    speeds = [Speed(form=form, lanes=lanes, rates=(rate, rate)) for form, lanes, rate in rows]
    assert advice(speeds) == "advice: env.vectorization=sync env.num_envs=8  (95 steps/s here)"
    speeds.append(Speed(form="vector_entry_point", lanes=64, rates=(400.0,)))
    speeds.append(Speed(form="sync", lanes=64, rates=(100.0,)))
    assert advice(speeds).endswith(
        "env.vectorization=vector_entry_point env.num_envs=64  (400 steps/s here, 4 times sync)"
    )
    assert as_json([], speeds)["advice"] == {"vectorization": "vector_entry_point", "num_envs": 64}
    assert counts([Finding(check="a", result="ok", detail=""), Finding(check="b", result="failed", detail="")]) == (
        "1 ok, 1 failed"
    )


def check_env(*arguments: str, cwd: Path) -> Any:
    return run("-m", "pgkit.check_env", *arguments, cwd=cwd)


def test_the_command_prints_tables_and_one_line_of_advice_and_keeps_both(tmp_path: Path) -> None:
    brief = ("steps=200", "seconds=0.02", "lanes=[2]")
    ended = check_env("env=gym", f"env.id={odd('Sound')}", *brief, "hydra.run.dir=mine", cwd=tmp_path)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.splitlines()[-1].startswith("advice: env.vectorization=")
    kept = json.loads((tmp_path / "mine" / "summary.json").read_text())
    assert kept["status"] == "passed" and {each["result"] for each in kept["checks"]} == {"ok"}
    assert [(each["form"], len(each["steps_per_second"])) for each in kept["speeds"]] == [("sync", 3), ("async", 3)]


def test_a_check_that_fails_is_exit_code_1_and_what_cannot_be_made_is_2(tmp_path: Path) -> None:
    ended = check_env("env=gym", f"env.id={odd('Shared')}", "hydra.run.dir=mine", cwd=tmp_path)
    assert ended.returncode == 1 and "pgkit: 1 of 9 checks failed (copies: two side by side" in ended.stderr
    assert json.loads((tmp_path / "mine" / "summary.json").read_text())["status"] == "failed"
    assert "advice" not in ended.stdout
    place = tmp_path / "empty"
    place.mkdir()
    assert "did you mean" in refusal(check_env("env=gym", "env.id=CartPol-v1", cwd=place), cwd=place)
    assert refusal(check_env("rounds=0", cwd=place), cwd=place) == "rounds: 0, expected an integer at least 1"
    assert refusal(check_env("lanes=[0]", cwd=place), cwd=place).startswith("lanes: [0], expected a list, each item")
