"""Whatever is typed wrong is answered by one line, exit code 2 and an untouched folder; names without torch."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pgkit.app import run_app
from tests.faults.command import interrupted_toy, refusal, run, toy, train

NAMES_AND_VALUES = {
    "env=Cartpole": "env: Cartpole (did you mean CartPole?)",
    "agnt=reinforce": "agnt: unknown key (did you mean agent?)",
    "experiment=nne": "experiment: nne",
    "optimizer.lrr=1": "optimizer.lrr: unknown key, expected one of betas, eps, fused, lr, weight_decay (did",
    "+optimizer.lrr=1": "optimizer.lrr: unknown key",
    "gamma=1.5": "gamma: 1.5, expected a number at least 0 and at most 1",
    "env.num_envs=0": "env.num_envs: 0, expected an integer at least 1",
    "optimizer.lr=0": "optimizer.lr: 0, expected a number above 0",
    "optimizer.lr=nan": "optimizer.lr: nan, expected a number above 0",
    "optimizer.lr=abc": "optimizer.lr: abc, expected a number above 0",
    "total_steps=2.5": "total_steps: 2.5, expected an integer at least 1",
    "env.kwargs.gravity=inf": "env.kwargs: {'gravity': inf}, expected a mapping of finite values",
    "collect.episodes=1": "collect.episodes: 1, expected at least 2 for baseline=leave_one_out",
    "returns=lambda_return": "critic: none, expected critic=value for returns=lambda_return",
    "seed=1 seed=2": "seed: given twice, expected once",
    "--multirun seed=1 seed=2,3": "seed: given twice, expected once",
    "seed=1,2": "seed: 1,2 is a sweep, expected one value or --multirun",
    "--multirun seed=1,x": "seed: x, expected an integer at least 0",
    "--multirun seed=range(3) optimizer.lr=0.1,0": "optimizer.lr: 0, expected a number above 0",
    "--multirun seed=interval(1,2)": "--multirun: ",
    "seed": "seed: cannot be read, expected key=value",
    "seed=[1": "seed=[1: cannot be read",
    "~seed": "~seed: a deletion, expected key=value",
    "agent=null": "agent: null, expected one of ",
    "baseline@other=mean": "baseline@other: a package, expected baseline=OPTION",
    "hydra.rn.dir=here": "hydra.rn.dir: unknown key",
    "hydra.run.dir=/dev/null/here": "hydra.run.dir: /dev/null/here, expected a folder that can be written",
    "hydra.run.dir=${nowhere}": "hydra.run.dir: ",
    "--fast": "--fast: unknown flag",
    "--multirn": "--multirn: unknown flag (did you mean --multirun?)",
    "--config-dir nowhere": "--config-dir: nowhere, expected a folder",
    "--experimental-rerun run.pickle": "--experimental-rerun: reads a pickle",
    "--cfg job --multirun": "flags: more than one thing to do",
    "--help agnt=1": "agnt: unknown key (did you mean agent?)",
    "--info defaults +optimizer.lrr=1": "optimizer.lrr: unknown key",
    "--cfg job gamma=2": "gamma: 2, expected a number at least 0 and at most 1",
}


@pytest.fixture
def empty(tmp_path: Path) -> Path:
    folder = tmp_path / "empty"
    folder.mkdir()
    return folder


def untouchable(*arguments: object) -> None:
    raise AssertionError("a mistake got through")


@pytest.mark.parametrize("typed", NAMES_AND_VALUES)
def test_a_mistake_is_answered_in_one_line(
    typed: str, empty: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(empty)
    monkeypatch.setattr("sys.argv", ["train", *typed.split()])
    with pytest.raises(SystemExit) as ended:
        run_app("train", dry=untouchable, task=untouchable)
    output = capfd.readouterr()
    assert ended.value.code == 2 and output.out == "" and not list(empty.iterdir())
    assert output.err.count("\n") == 1 and output.err.startswith(f"pgkit: {NAMES_AND_VALUES[typed]}")
    assert "+" not in output.err.replace(typed, "")


@pytest.mark.parametrize("typed", ["agnt.lr=1", "env=Cartpole", "gamma=1.5"])
def test_training_answers_a_typo_without_torch(typed: str, empty: Path) -> None:
    probe = (
        "import sys; sys.argv = ['train', sys.argv[1]]\n"
        "from pgkit.train import main\n"
        "try:\n    main()\nfinally:\n    assert 'torch' not in sys.modules"
    )
    refusal(run("-c", probe, typed, cwd=empty), cwd=empty)


@pytest.mark.parametrize(
    "typed",
    [
        "env.id=CartPol-v1",
        "env.kwargs.gravty=3",
        "critic.learning_rate=0 critic=value",
        "diagnostics.panel.estimators=[all_action] critic=value",
    ],
)
def test_training_refuses_before_it_writes(typed: str, empty: Path) -> None:
    refusal(train(*typed.split(), cwd=empty), cwd=empty)


@pytest.mark.parametrize("flag", ["--help", "--cfg job", "--info defaults", "--hydra-help", "--version"])
def test_information_needs_no_torch_and_leaves_nothing(flag: str, empty: Path) -> None:
    ended = toy(*flag.split(), cwd=empty)
    assert ended.returncode == 0 and ended.stdout and not ended.stderr and not list(empty.iterdir())


def test_the_shown_configuration_holds_what_was_typed(empty: Path) -> None:
    assert "gravity: 9" in toy("--cfg", "job", "env.kwargs.gravity=9", cwd=empty).stdout


def test_what_only_the_real_classes_know_is_said_before_anything_is_written(empty: Path) -> None:
    assert refusal(toy("seed=99", cwd=empty), cwd=empty) == "env.id: tried and refused"


def test_a_traceback_is_shown_when_asked_for(empty: Path) -> None:
    assert "Traceback" in toy("seed=99", cwd=empty, traceback=True).stderr


@pytest.mark.parametrize(("seed", "code", "said"), [(3, 1, "pgkit: lane 1: fell over\n"), (6, 130, "")])
def test_a_run_that_breaks_ends_in_one_line(seed: int, code: int, said: str, empty: Path) -> None:
    ended = toy(f"seed={seed}", "hydra.run.dir=here", cwd=empty)
    assert (ended.returncode, ended.stderr) == (code, said)


def test_a_bug_shows_its_traceback(empty: Path) -> None:
    ended = toy("seed=4", cwd=empty)
    assert ended.returncode == 1 and ended.stderr.startswith("Traceback") and "HYDRA_FULL_ERROR" not in ended.stderr


def test_a_key_that_the_file_leaves_open_needs_no_plus(empty: Path) -> None:
    assert toy("env.kwargs.gravity=9", "hydra.run.dir=here", cwd=empty).returncode == 0
    assert (empty / "here" / "done").read_text() == "0 0.01"
    assert (empty / "here" / "torch").read_text() == "False"
    assert not list((empty / "here").glob("*.log"))


def test_a_finished_run_is_not_overwritten(empty: Path) -> None:
    folder = empty / "here"
    folder.mkdir()
    (folder / "summary.json").write_text(json.dumps({"status": "finished"}))
    ended = toy("hydra.run.dir=here", cwd=empty)
    assert ended.returncode == 2 and "holds a finished run" in ended.stderr and len(list(folder.iterdir())) == 1


def test_a_file_is_no_place_for_a_run(empty: Path) -> None:
    (empty / "tool").write_text("")
    (empty / "tool").chmod(0o755)
    ended = toy("hydra.run.dir=tool/here", cwd=empty)
    assert ended.returncode == 2 and ended.stderr.startswith("pgkit: hydra.run.dir: tool/here, expected a folder")


def test_a_folder_that_only_the_attempt_shows_closed_is_refused(empty: Path) -> None:
    assert refusal(toy("hydra.run.dir=/proc/nowhere/here", cwd=empty), cwd=empty).startswith("hydra.run.dir: ")


def test_the_clock_does_not_scatter_a_sweep(empty: Path) -> None:
    assert toy("--multirun", "seed=1,2", "hydra.sweep.dir=all/${now:%f}", cwd=empty).returncode == 0
    (shared,) = (empty / "all").iterdir()
    assert {path.name for path in shared.iterdir() if path.is_dir()} == {"seed=1", "seed=2"}


def test_a_failed_job_stops_no_other(empty: Path) -> None:
    ended = toy("--multirun", "seed=range(2,6)", "optimizer.lr=0.01,0.02", "hydra.sweep.dir=all", cwd=empty)
    folders = {path.name for path in (empty / "all").iterdir() if path.is_dir()}
    assert folders == {f"optimizer.lr={lr},seed={seed}" for seed in range(2, 6) for lr in ("0.01", "0.02")}
    assert (empty / "all" / "optimizer.lr=0.02,seed=5" / "done").read_text() == "5 0.02"
    assert ended.returncode == 1
    assert ended.stderr.splitlines() == [
        f"pgkit: all/optimizer.lr={lr},seed={seed}: {cause}"
        for seed, cause in ((3, "lane 1: fell over"), (4, "KeyError('a bug')"))
        for lr in ("0.01", "0.02")
    ]


def test_an_interrupted_sweep_lets_running_jobs_finish_writing(empty: Path) -> None:
    jobs = [empty / "all" / f"seed={seed}" for seed in (100, 101, 102)]
    typed = ("--multirun", "seed=100,101,102", "hydra.sweep.dir=all")
    code, errors = interrupted_toy(*typed, cwd=empty, started=[job / "started" for job in jobs[:2]])
    assert code == 130 and "Traceback" not in errors
    assert [(job / "closed").exists() for job in jobs] == [True, True, False]
    assert not (jobs[2] / "started").exists() and not (empty / "all" / "interrupted").exists()


def test_an_interrupted_job_is_the_last_of_its_sweep(empty: Path) -> None:
    ended = toy("--multirun", "seed=1,6,2", "hydra.sweep.dir=all", "hydra/launcher=basic", cwd=empty)
    assert (ended.returncode, ended.stderr) == (130, "")
    assert [(empty / "all" / f"seed={seed}" / "done").exists() for seed in (1, 6, 2)] == [True, False, False]


def test_jobs_that_sweep_over_their_folder_name_share_a_folder(empty: Path) -> None:
    ended = toy("--multirun", "agent=reinforce,vpg", "env=CartPole,Acrobot", cwd=empty)
    assert ended.returncode == 0, ended.stderr
    (shared,) = (empty / "runs").iterdir()
    assert {path.name for path in shared.iterdir() if path.is_dir()} == {
        f"agent={agent},env={env}" for agent in ("reinforce", "vpg") for env in ("CartPole", "Acrobot")
    }


def test_a_folder_of_groups_works_from_anywhere(empty: Path) -> None:
    (empty / "mine" / "optimizer").mkdir(parents=True)
    (empty / "mine" / "optimizer" / "nadam.yaml").write_text("_target_: torch.optim.NAdam\nlr: 0.5\n")
    ended = toy("--config-dir", "mine", "optimizer=nadam", "hydra.run.dir=here", cwd=empty)
    assert ended.returncode == 0, ended.stderr
    assert (empty / "here" / "done").read_text() == "0 0.5"


def test_a_name_too_long_for_a_folder_is_refused(empty: Path) -> None:
    said = refusal(toy("--multirun", f"env.id={'a' * 260},b", cwd=empty), cwd=empty)
    assert said.startswith("hydra.sweep.subdir: env.id=aaa") and "too long a name" in said
