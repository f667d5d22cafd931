"""Saved trajectories come back bit for bit, or not at all."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch
from gymnasium import spaces

import pgkit
from pgkit.errors import UsageError
from pgkit.run.trajectory_files import (
    SavedTrajectories,
    find_trajectories,
    joined,
    load_trajectories,
    save_trajectories,
)
from pgkit.types import Trajectories

LENGTHS = (3, 2, 1)


def some(seed: int = 0, *, length: int = 3, full: bool = False, composite: bool = False) -> SavedTrajectories:
    """Returns three episodes; `full` has every optional field."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.tensor([min(each, length) for each in LENGTHS])
    mask = torch.arange(length)[:, None] < lengths
    ends = torch.arange(length)[:, None] == lengths - 1
    image = torch.randint(256, (length + 1, 3, 2), generator=generator, dtype=torch.uint8)
    numbers = torch.randn(length + 1, 3, generator=generator)
    optional = {
        "action_mask": torch.ones(length, 3, 2, dtype=torch.bool),
        "policy_state": torch.randn(3, 4, generator=generator),
        "log_densities": torch.randn(2, length, 3, generator=generator),
        "age": torch.tensor([0, 0, 2]),
    }
    return SavedTrajectories(
        trajectories=Trajectories(
            obs={"a/b": image, "c": numbers} if composite else image,
            actions=torch.randint(2, (length, 3), generator=generator),
            rewards=torch.randn(length, 3, generator=generator),
            behavior_log_prob=torch.randn(length, 3, generator=generator).double(),
            behavior_id=torch.tensor([0, 1, 1]),
            terminated=ends & torch.tensor([True, False, True]),
            truncated=ends & torch.tensor([False, True, False]),
            starts=torch.arange(length)[:, None].expand(-1, 3) == 0,
            mask=mask,
            lane=torch.tensor([0, 1, 0]),
            whole_episodes=True,
            **(optional if full else {}),
        ),
        observation_space=spaces.Box(0, 255, (2,), dtype="uint8"),
        action_space=spaces.Discrete(2),
        source="a test",
    )


def equal(one: Trajectories, other: Trajectories) -> bool:
    for field in fields(Trajectories):
        a, b = getattr(one, field.name), getattr(other, field.name)
        pairs = [(a[key], b[key]) for key in (a | b)] if isinstance(a, dict) else [(a, b)]
        for x, y in pairs:
            same = torch.equal(x, y) and x.dtype == y.dtype if isinstance(x, torch.Tensor) else x == y
            if not same:
                return False
    return True


@pytest.mark.parametrize("composite", [False, True])
@pytest.mark.parametrize("full", [False, True])
def test_they_come_back_bit_for_bit(tmp_path: Path, full: bool, composite: bool) -> None:
    saved = some(full=full, composite=composite)
    path = pgkit.save_trajectories(tmp_path / "new" / "data.safetensors", saved)
    loaded = pgkit.load_trajectories(path)
    assert equal(loaded.trajectories, saved.trajectories)
    assert (loaded.observation_space, loaded.action_space) == (saved.observation_space, saved.action_space)
    assert loaded.source == "a test" and loaded.has_log_prob
    assert not equal(loaded.trajectories, some(seed=1, full=full, composite=composite).trajectories)


def test_two_files_say_everything_and_nothing_else_is_left(tmp_path: Path) -> None:
    for seed in range(2):
        save_trajectories(tmp_path / "data.safetensors", some(seed))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data.json", "data.safetensors"]
    content = json.loads((tmp_path / "data.json").read_text())
    assert content["format"] == 1 and content["kind"] == "trajectories"
    assert equal(load_trajectories(tmp_path / "data.safetensors").trajectories, some(1).trajectories)


@pytest.mark.parametrize("name", ["data.json", "data.safetensors"])
def test_every_flipped_byte_is_noticed(tmp_path: Path, name: str) -> None:
    save_trajectories(tmp_path / "data.safetensors", some())
    whole = (tmp_path / name).read_bytes()
    for position in range(0, len(whole), 7):
        (tmp_path / name).write_bytes(whole[:position] + bytes([whole[position] ^ 1]) + whole[position + 1 :])
        with pytest.raises(UsageError, match=rf"{name}: damaged"):
            load_trajectories(tmp_path / "data.safetensors")
    (tmp_path / name).write_bytes(whole)
    load_trajectories(tmp_path / "data.safetensors")


@pytest.mark.parametrize("name", ["data.json", "data.safetensors"])
def test_a_file_that_is_cut_or_missing_is_named(tmp_path: Path, name: str) -> None:
    save_trajectories(tmp_path / "data.safetensors", some())
    whole = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UsageError, match=rf"{name}: damaged"):
        load_trajectories(tmp_path / "data.safetensors")
    (tmp_path / name).unlink()
    with pytest.raises(UsageError, match=rf"{name}: No such file.*, expected trajectories that pgkit saved"):
        load_trajectories(tmp_path / "data.safetensors")


def test_the_format_of_tomorrow_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pgkit.run.trajectory_files.FORMAT", 2)
    save_trajectories(tmp_path / "data.safetensors", some())
    monkeypatch.undo()
    with pytest.raises(UsageError, match="format 2, expected 1"):
        load_trajectories(tmp_path / "data.safetensors")


def test_checksums_do_not_make_trajectories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = some()
    monkeypatch.setattr(
        "pgkit.run.trajectory_files._named", lambda batch: {"obs": torch.zeros(2), "hat": torch.ones(1)}
    )
    save_trajectories(tmp_path / "data.safetensors", broken)
    with pytest.raises(UsageError, match="unknown tensors hat, expected trajectories"):
        load_trajectories(tmp_path / "data.safetensors")


def test_another_ending_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"expected a file name that ends in \.safetensors"):
        save_trajectories(tmp_path / "data.npz", some())
    assert not list(tmp_path.iterdir())


def test_a_missing_log_probability_is_known_to_be_missing() -> None:
    saved = some()
    unknown = saved.trajectories.behavior_log_prob.clone()
    unknown[2, 1] = torch.nan  # outside the mask
    assert replace(saved, trajectories=replace(saved.trajectories, behavior_log_prob=unknown)).has_log_prob
    unknown[0, 1] = torch.nan
    assert not replace(saved, trajectories=replace(saved.trajectories, behavior_log_prob=unknown)).has_log_prob


@pytest.mark.parametrize("composite", [False, True])
def test_joining_keeps_every_episode_and_numbers_the_policies_anew(composite: bool) -> None:
    parts = [some(0, composite=composite), some(1, length=5, composite=composite)]
    both = joined(parts).trajectories
    assert both.num_columns == 6 and both.num_steps == 5
    assert both.behavior_id.tolist() == [0, 1, 1, 2, 3, 3]
    for part, index in zip(parts, (torch.arange(3), torch.arange(3, 6)), strict=True):
        own, mine = part.trajectories.rows(), both.columns(index).rows()
        assert torch.equal(own.actions, mine.actions)
        pairs = zip(own.obs.values(), mine.obs.values(), strict=True) if composite else [(own.obs, mine.obs)]
        assert all(torch.equal(a, b) for a, b in pairs)
    assert not both.mask[3:, :3].any() and joined(parts[:1]) is parts[0]


def test_joining_other_spaces_is_refused() -> None:
    with pytest.raises(UsageError, match=r"action space Discrete\(3\), expected that of a test, Discrete\(2\)"):
        joined([some(), replace(some(), action_space=spaces.Discrete(3))])


def test_only_trajectories_are_found(tmp_path: Path) -> None:
    save_trajectories(tmp_path / "b" / "data.safetensors", some())
    save_trajectories(tmp_path / "a.safetensors", some())
    (tmp_path / "policy.safetensors").write_bytes(b"")
    (tmp_path / "policy.json").write_text("{}")
    assert [path.name for path in find_trajectories(tmp_path)] == ["a.safetensors", "data.safetensors"]
