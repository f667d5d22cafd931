"""`pgkit.evaluate_offline` from a run and its data to a table, JSON and a picture; bad input in one line before any."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from gymnasium import spaces

from pgkit import evaluate_offline
from pgkit.errors import UsageError
from pgkit.offline.conduct import conduct, prepare
from pgkit.run.trajectory_files import SavedTrajectories, save_trajectories
from tests.faults.command import refusal, run
from tests.off_policy import BEHAVIOR, GAMMA, TARGET, drawn, evaluation, save_run, saved, true_value

QUICK = (f"gamma={GAMMA}", "resamples=200")


def refuse_constant(word: str) -> Any:
    raise AssertionError(word)


def written(folder: Path) -> dict[str, Any]:
    result: dict[str, Any] = json.loads((folder / "offline.json").read_text(), parse_constant=refuse_constant)
    return result


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return save_run(tmp_path / "target")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return save_trajectories(tmp_path / "data.safetensors", saved(drawn(600, seed=0)))


def changed(data: Path, **changes: Any) -> Path:
    """Returns a file of the same episodes with some fields changed."""
    episodes = saved(drawn(60, seed=0))
    save_trajectories(data, replace(episodes, trajectories=replace(episodes.trajectories, **changes)))
    return data


def test_it_says_shows_and_writes_the_value(
    target: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = tmp_path / "place"
    place.mkdir()
    config = evaluation(target, f"data={data}", *QUICK)
    evaluate_offline.rehearse(config, ())
    evaluate_offline.run(config, place)
    said, result = capsys.readouterr().out, written(place)
    assert "600 episodes" in said and "behaviour logged" in said and "gamma 0.9" in said
    for line in result["estimates"]:
        assert line["name"] in said and abs(line["value"] - true_value()) < 0.5
        if line["low"] is not None:
            assert line["low"] < true_value() < line["high"]
    assert [bound["name"] for bound in result["bounds"]] == ["hoeffding", "empirical_bernstein", "truncated_bernstein"]
    assert result["advice"][0].startswith("Use weighted_doubly_robust") and result["advice"][0] in " ".join(
        said.split()
    )
    assert not result["missing_mass"]["evident"] and result["behavior_log_likelihood"] is None
    assert (place / "offline.png").read_bytes().startswith(b"\x89PNG")
    assert sorted(path.name for path in place.iterdir()) == ["offline.json", "offline.png"]


def test_the_same_seed_gives_the_same_numbers(target: Path, data: Path, tmp_path: Path) -> None:
    results = []
    for number, seed in enumerate((0, 0, 1)):
        (tmp_path / str(number)).mkdir()
        conduct(evaluation(target, f"data={data}", f"seed={seed}", *QUICK), tmp_path / str(number))
        results.append(written(tmp_path / str(number))["estimates"])
    assert results[0] == results[1] != results[2]


def test_a_folder_of_a_run_stands_for_every_file_of_trajectories_in_it(target: Path, tmp_path: Path) -> None:
    for seed in range(2):
        save_trajectories(target / "evaluations" / str(seed) / "data.safetensors", saved(drawn(30, seed)))
    assert prepare(evaluation(target, f"data={target}")).data.trajectories.num_columns == 60


def test_a_fitted_behaviour_is_said_in_every_output(
    target: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    titles: list[str] = []

    def drawing(*_: object, title: str, **__: object) -> bytes:
        titles.append(title)
        return b"a picture"

    monkeypatch.setattr("pgkit.offline.conduct.picture", drawing)
    data = save_trajectories(tmp_path / "data.safetensors", saved(drawn(1500, seed=0), behavior=None))
    with pytest.raises(UsageError, match=r"no log-probabilities of the policy that acted, .* behavior_policy=fitted"):
        prepare(evaluation(target, f"data={data}"))
    conduct(evaluation(target, f"data={data}", "behavior_policy=fitted", *QUICK), tmp_path)
    said, result = " ".join(capsys.readouterr().out.split()), written(tmp_path)
    assert "fitted by maximum likelihood, not logged" in said and "no estimate is unbiased" in said
    assert "fitted by maximum likelihood, not logged" in titles[0]
    assert result["behavior_policy"] == "fitted" and -0.75 < result["behavior_log_likelihood"] < -0.5
    assert {line["bias"] for line in result["estimates"]} == {"of the model"}
    by_name = {line["name"]: line for line in result["estimates"]}
    assert abs(by_name["self_normalised_per_decision"]["value"] - true_value()) < 0.4


def test_a_target_outside_the_support_is_warned_of_with_its_mass(
    target: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    narrow = torch.tensor([[1.0, 0.0], [0.5, 0.5]], dtype=torch.float64)
    paths = drawn(600, seed=0, behavior=narrow)
    data = save_trajectories(tmp_path / "data.safetensors", saved(paths, narrow))
    conduct(evaluation(target, f"data={data}", *QUICK), tmp_path)
    said, result = " ".join(capsys.readouterr().out.split()), written(tmp_path)
    in_first = float((paths.mask & (paths.states == 0)).sum() / paths.mask.sum())
    assert result["missing_mass"]["mass"] == pytest.approx(float(TARGET[0, 1]) * in_first, abs=0.03)
    assert "Support mismatch" in said and "Trust none of these" in said
    assert all(line["doubts"] for line in result["estimates"])
    for line in result["estimates"]:
        assert line["health"] is None or line["health"]["effective_sample_size"] > 1


def test_without_matplotlib_there_is_no_picture_and_a_word_about_it(
    target: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    place = tmp_path / "place"
    place.mkdir()
    conduct(evaluation(target, f"data={data}", "estimators=[trajectory]", *QUICK), place)
    assert [path.name for path in place.iterdir()] == ["offline.json"]
    assert "no picture: matplotlib is not installed" in capsys.readouterr().out


def other_spaces(data: Path) -> SavedTrajectories:
    return replace(saved(drawn(9, seed=0)), observation_space=spaces.Discrete(3), source=str(data))


def nothing(data: Path) -> Path:
    return changed(data, mask=torch.zeros(3, 60, dtype=torch.bool))


def impossible(data: Path) -> Path:
    logged = drawn(60, seed=0).log_prob(BEHAVIOR)
    logged[0, 7] = -torch.inf
    return changed(data, behavior_log_prob=logged)


BROKEN = {
    "data: .* holds no step, expected at least one episode": nothing,
    "behavior_log_prob: probability 0 for the action logged at step 0 of episode 7": impossible,
    "data: .*: observation space Discrete.3., expected that of the policy in .*, Discrete.2.": lambda data: (
        save_trajectories(data, other_spaces(data))
    ),
    "data: .* holds episodes that a slab of steps cut": lambda data: changed(data, whole_episodes=False),
    "data: .* holds rewards that are nan or inf": lambda data: changed(
        data, rewards=torch.full((3, 60), torch.nan, dtype=torch.float64)
    ),
    "damaged .its checksum differs": lambda data: Path(shutil.copy(__file__, changed(data))),
    "is not there, expected a file of trajectories or a run": lambda data: data,
    "holds no file of trajectories, expected at least one": lambda data: data.mkdir() or data,
    "data: a single episode, expected two or more": lambda data: save_trajectories(data, saved(drawn(1, seed=0))),
}


@pytest.mark.parametrize("said", BROKEN)
def test_data_that_cannot_be_used_are_named(target: Path, tmp_path: Path, said: str) -> None:
    data = tmp_path / "broken.safetensors"
    BROKEN[said](data)
    with pytest.raises(UsageError, match=said):
        prepare(evaluation(target, f"data={data}"))


SETTINGS = {
    "confidence=1": "confidence: 1, expected a number above 0 and below 1",
    "confidence=nan": "confidence: nan, expected a number above 0 and below 1",
    "resamples=10": "resamples: 10, expected an integer at least 100",
    "folds=1": "folds: 1, expected an integer at least 2",
    "gamma=1.1": "gamma: 1.1, expected a number at least 0 and at most 1",
    "behavior_policy=guessed": "behavior_policy: guessed, expected logged or fitted",
    "weight_limit=0": "weight_limit: 0, expected a number above 0 or null",
    "estimators=[trajectry]": "estimators: trajectry, expected all or some of",
    "return_range=[2,1]": "return_range: [2.0, 1.0], expected [lowest,highest]",
    "return_range=[2]": "return_range: [2.0], expected [lowest,highest]",
}


@pytest.mark.parametrize("override", SETTINGS)
def test_settings_that_cannot_be_used_are_named(target: Path, data: Path, override: str) -> None:
    with pytest.raises(UsageError) as caught:
        prepare(evaluation(target, f"data={data}", override))
    assert str(caught.value).replace("2, 1]", "2.0, 1.0]").replace("[2]", "[2.0]").startswith(SETTINGS[override])


@pytest.mark.parametrize("override", ["data=nowhere", "data=minari:nowhere", "data=. confidence=2", "dta=x"])
def test_a_refusal_is_one_line_and_writes_nothing(tmp_path: Path, override: str) -> None:
    target, here = save_run(tmp_path / "target"), tmp_path / "here"
    here.mkdir()
    before = sorted(target.rglob("*"))
    ended = run("-m", "pgkit.evaluate_offline", f"run={target}", *override.split(), cwd=here)
    assert refusal(ended, cwd=here)
    assert sorted(target.rglob("*")) == before


def test_the_command_writes_below_the_run(tmp_path: Path) -> None:
    target, here = save_run(tmp_path / "target"), tmp_path / "here"
    here.mkdir()
    data = save_trajectories(tmp_path / "data.safetensors", saved(drawn(60, seed=0)))
    ended = run("-m", "pgkit.evaluate_offline", f"run={target}", f"data={data}", *QUICK, cwd=here)
    assert (ended.returncode, ended.stderr) == (0, ""), ended.stderr
    assert [path.parts[-3] for path in target.rglob("offline.json")] == ["evaluations"]
    assert "weighted_doubly_robust" in ended.stdout and not list(here.iterdir())
