"""A process beside others answers a mistake, or ends in silence, whatever the launcher does meanwhile."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pgkit.app import run_app
from pgkit.errors import UsageError

pytestmark = pytest.mark.exact


@pytest.fixture(autouse=True)
def first_of_two(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    for name, value in {
        "WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0", "MASTER_ADDR": "localhost", "MASTER_PORT": "1",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "argv", ["train", "env=CartPole", f"hydra.run.dir={tmp_path / 'run'}"])
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def never(*_: Any) -> None:
    raise AssertionError("nothing is to be run")


def test_a_mistake_is_named_though_another_process_found_it_first(capsys: pytest.CaptureFixture[str]) -> None:
    def check(*_: Any) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        raise UsageError("env.num_envs: 3 over 2 processes, expected a multiple of 2")

    with pytest.raises(SystemExit) as ending:
        run_app("train", dry=check, task=never)
    assert ending.value.code == 2
    assert capsys.readouterr().err == "pgkit: env.num_envs: 3 over 2 processes, expected a multiple of 2\n"


def test_without_one_of_its_own_it_ends_before_it_has_begun(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as ending:
        run_app("train", dry=lambda *_: os.kill(os.getpid(), signal.SIGTERM), task=never)
    assert ending.value.code == 130
    assert not capsys.readouterr().err and not list(tmp_path.iterdir())
