"""A policy is saved now and then, and never one whose numbers are none."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from gymnasium import spaces
from torch import nn

from pgkit.run.checkpoint import SavedPolicy, load_policy_state
from pgkit.run.keeping import Keeper, first_not_finite


class Kept:
    def __init__(self, folder: Path, every: float | None) -> None:
        self.policy, self.place = nn.Linear(2, 1), folder / "last"
        self.keeper = Keeper(self.place, self.policy, self.saved, every=every)

    def saved(self) -> SavedPolicy:
        return SavedPolicy(
            config={}, observation_space=spaces.Box(-1.0, 1.0, (2,)), action_space=spaces.Discrete(2),
            tensors=self.policy.state_dict(),
        )  # fmt: skip

    def set(self, value: float) -> None:
        with torch.no_grad():
            self.policy.bias.fill_(value)

    def bias(self) -> float:
        return float(load_policy_state(self.place).tensors["bias"])


def test_it_is_saved_every_so_many_seconds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    one, never = Kept(tmp_path / "one", 60.0), Kept(tmp_path / "never", None)
    (tmp_path / "one").mkdir()
    found = []
    for moment in (100.0, 159.0, 161.0, 200.0, 222.0):
        now[0] = moment
        one.set(moment)
        one.keeper.keep()
        never.keeper.keep()
        found.append(one.bias() if one.place.exists() else None)
    assert found == [None, None, 161.0, 161.0, 222.0]
    assert not never.place.exists()


def test_a_policy_that_is_no_number_leaves_the_last_good_one(tmp_path: Path) -> None:
    one = Kept(tmp_path, None)
    one.set(math.inf)
    assert one.keeper.save() == "the policy was not saved: bias is not finite; there was none before"
    assert not one.place.exists()
    one.set(2.0)
    assert one.keeper.save() is None
    one.set(math.nan)
    assert one.keeper.save() == "the policy was not saved: bias is not finite; the one in last is of before"
    assert one.bias() == 2.0


def test_the_first_bad_tensor_is_named() -> None:
    network = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Linear(2, 1))
    assert first_not_finite(network) is None
    with torch.no_grad():
        network[2].weight.fill_(math.nan)
        network[1].running_var[1] = math.inf
    assert first_not_finite(network) == "1.running_var"


def test_a_run_that_overflows_names_the_tensor_and_keeps_what_it_had(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pgkit.train", "env=CartPole", "optimizer.lr=1e38", "total_steps=5000"]
    options = ["evaluation.episodes=0", "save_every=1e-6", "hydra.run.dir=r"]
    done = subprocess.run([*command, *options], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].endswith("the first tensor that is not finite is network.0.weight")
    assert "the policy was not saved: network.0.weight is not finite" in done.stdout + done.stderr
    assert not (tmp_path / "r" / "checkpoints").exists() or load_policy_state(tmp_path / "r" / "checkpoints" / "last")
