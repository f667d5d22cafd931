"""A saved policy comes back bit for bit, or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from gymnasium import spaces

from pgkit.errors import UsageError
from pgkit.run import checkpoint
from pgkit.run.checkpoint import SavedPolicy, load_policy_state, save_policy


def a_policy(seed: int = 0) -> SavedPolicy:
    generator = torch.Generator().manual_seed(seed)
    flat = torch.randn(20, generator=generator)
    return SavedPolicy(
        config={"_target_": "pgkit.policies.mlp.MLPPolicy", "hidden_sizes": [4], "init": "default", "clip": None},
        observation_space=spaces.Box(-1.0, 1.0, (3,)),
        action_space=spaces.Discrete(2, start=-1),
        # views of one buffer, a scalar, a counter, float64 moments, a transposed view
        tensors={
            "weight": flat[:12].view(3, 4),
            "transposed": flat[:12].view(3, 4).T,
            "bias": torch.nn.Parameter(flat[12:16]),
            "count": torch.tensor(7),
            "mean": torch.randn(3, generator=generator, dtype=torch.float64),
        },
    )


def assert_equal(loaded: SavedPolicy, saved: SavedPolicy) -> None:
    assert loaded.tensors.keys() == saved.tensors.keys()
    for name, tensor in saved.tensors.items():
        assert loaded.tensors[name].dtype == tensor.dtype
        assert torch.equal(loaded.tensors[name], tensor.detach())


def test_a_policy_comes_back_bit_for_bit(tmp_path: Path) -> None:
    save_policy(tmp_path / "last", a_policy())
    loaded = load_policy_state(tmp_path / "last")
    assert_equal(loaded, a_policy())
    assert loaded.config == a_policy().config
    assert loaded.observation_space == a_policy().observation_space
    assert loaded.action_space == a_policy().action_space


def test_two_files_and_nothing_else_are_left_however_often_it_is_saved(tmp_path: Path) -> None:
    for seed in range(3):
        save_policy(tmp_path / "checkpoints" / "last", a_policy(seed))
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["last"]
    assert sorted(path.name for path in (tmp_path / "checkpoints/last").iterdir()) == [
        "policy.json",
        "policy.safetensors",
    ]
    assert_equal(load_policy_state(tmp_path / "checkpoints" / "last"), a_policy(2))


def test_training_on_changes_nothing_that_was_saved(tmp_path: Path) -> None:
    policy = a_policy()
    save_policy(tmp_path / "last", policy)
    policy.tensors["weight"].zero_()
    assert_equal(load_policy_state(tmp_path / "last"), a_policy())


def test_spaces_of_another_environment_are_refused_naming_file_and_both(tmp_path: Path) -> None:
    save_policy(tmp_path / "last", a_policy())
    loaded = load_policy_state(tmp_path / "last")
    loaded.expect_spaces(a_policy().observation_space, a_policy().action_space)
    with pytest.raises(UsageError, match=r"policy\.json: action space Discrete\(2, start=-1\).*Discrete\(3\)"):
        loaded.expect_spaces(a_policy().observation_space, spaces.Discrete(3))
    with pytest.raises(UsageError, match=r"policy\.json: observation space Box"):
        loaded.expect_spaces(spaces.Box(-1.0, 1.0, (4,)), a_policy().action_space)


@pytest.mark.parametrize("step", ["mkdir", "rename"])
def test_a_failure_while_saving_leaves_the_old_policy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    save_policy(tmp_path / "last", a_policy(0))

    def fail(self: Path, *args: object, **kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(OSError):
        patch.setattr(Path, step, fail)
        save_policy(tmp_path / "last", a_policy(1))
    assert_equal(load_policy_state(tmp_path / "last"), a_policy(0))
    assert [path.name for path in tmp_path.iterdir()] == ["last"]


def test_a_death_between_the_two_renames_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_policy(tmp_path / "last", a_policy(0))
    renames = []
    original = Path.rename

    def die_after_the_first(self: Path, target: Path) -> Path:
        renames.append(target)
        if len(renames) == 2:
            raise KeyboardInterrupt
        return original(self, target)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Path, "rename", die_after_the_first)
        save_policy(tmp_path / "last", a_policy(1))
    assert not (tmp_path / "last").exists()
    assert_equal(load_policy_state(tmp_path / "last"), a_policy(0))
    save_policy(tmp_path / "last", a_policy(2))
    assert_equal(load_policy_state(tmp_path / "last"), a_policy(2))
    assert [path.name for path in tmp_path.iterdir()] == ["last"]


def test_a_newer_format_is_named_as_such(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "FORMAT", 2)
    save_policy(tmp_path / "last", a_policy())
    monkeypatch.undo()
    with pytest.raises(UsageError, match=r"policy\.json: format 2, expected 1"):
        load_policy_state(tmp_path / "last")


@pytest.mark.parametrize("name", ["policy.json", "policy.safetensors"])
def test_a_missing_file_is_named(tmp_path: Path, name: str) -> None:
    save_policy(tmp_path / "last", a_policy())
    (tmp_path / "last" / name).unlink()
    with pytest.raises(UsageError, match=rf"{name}: No such file or directory, expected a saved policy"):
        load_policy_state(tmp_path / "last")


def test_a_folder_that_is_not_there_is_a_named_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No such file or directory"):
        load_policy_state(tmp_path / "last")
