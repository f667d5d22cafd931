"""A damaged or hostile checkpoint is refused by name, whatever byte it is."""

from __future__ import annotations

import ast
import hashlib
import pickle
import random
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from gymnasium import spaces

import pgkit
from pgkit.errors import UsageError
from pgkit.run.checkpoint import DESCRIPTION, TENSORS, SavedPolicy, load_policy_state, save_policy
from pgkit.run.description import render

FILES = (TENSORS, DESCRIPTION)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    tensors = {"weight": torch.randn(8, 4, generator=torch.Generator().manual_seed(0)), "count": torch.tensor(3)}
    policy = SavedPolicy(
        config={"_target_": "pgkit.policies.mlp.MLPPolicy", "hidden_sizes": [8]},
        observation_space=spaces.Box(-1.0, 1.0, (4,)),
        action_space=spaces.Discrete(2),
        tensors=tensors,
    )
    save_policy(tmp_path / "last", policy)
    return tmp_path / "last"


def refused(folder: Path, name: str, change: Callable[[bytearray], None]) -> bool:
    """Whether the folder is refused, by an error that names the file, while one of its files is changed."""
    original = (folder / name).read_bytes()
    data = bytearray(original)
    change(data)
    (folder / name).write_bytes(data)
    try:
        load_policy_state(folder)
    except UsageError as error:
        return str(folder / name) in str(error) and "\n" not in str(error)
    finally:
        (folder / name).write_bytes(original)
    return False


def truncate(length: int) -> Callable[[bytearray], None]:
    def change(data: bytearray) -> None:
        del data[length:]

    return change


def flip(bit: int) -> Callable[[bytearray], None]:
    def change(data: bytearray) -> None:
        data[bit // 8] ^= 1 << bit % 8

    return change


@pytest.mark.parametrize("name", FILES)
def test_every_truncation_is_refused(saved: Path, name: str) -> None:
    size = (saved / name).stat().st_size
    lengths = sorted({round(index * (size - 1) / 199) for index in range(200)})
    assert [length for length in lengths if not refused(saved, name, truncate(length))] == []
    load_policy_state(saved)


@pytest.mark.parametrize("name", FILES)
def test_every_flipped_bit_is_refused(saved: Path, name: str) -> None:
    bits = random.Random(0).choices(range(8 * (saved / name).stat().st_size), k=1000)
    assert [bit for bit in bits if not refused(saved, name, flip(bit))] == []
    load_policy_state(saved)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("tail", [b"\0", b"\n", b" ", b"{}"])
def test_bytes_after_the_end_are_refused(saved: Path, name: str, tail: bytes) -> None:
    assert refused(saved, name, lambda data: data.extend(tail))


def test_other_spelling_of_the_same_json_is_refused(saved: Path) -> None:
    def respell(data: bytearray) -> None:
        data[:] = data.replace(b'": ', b'" :', 1)

    assert refused(saved, DESCRIPTION, respell)


def test_the_tensors_of_another_checkpoint_are_refused(saved: Path, tmp_path: Path) -> None:
    policy = load_policy_state(saved)
    save_policy(
        tmp_path / "other",
        SavedPolicy(
            config=policy.config,
            observation_space=policy.observation_space,
            action_space=policy.action_space,
            tensors={name: tensor + 1 for name, tensor in policy.tensors.items()},
        ),
    )
    (saved / TENSORS).write_bytes((tmp_path / "other" / TENSORS).read_bytes())
    with pytest.raises(UsageError, match=r"policy\.safetensors: damaged"):
        load_policy_state(saved)


class Payload:
    """A pickle that leaves a mark when it is loaded."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.canary,)


@pytest.mark.parametrize("name", FILES)
def test_a_pickle_offered_as_a_checkpoint_runs_nothing(saved: Path, name: str, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    assert refused(saved, name, lambda data: data.__setitem__(slice(None), pickle.dumps(Payload(canary))))
    assert not canary.exists()


@pytest.mark.parametrize(
    "body",
    [
        {"format": 1},
        {"format": 1, "tensors_sha256": "HERE", "policy": {}, "observation_space": {"type": "Box"}, "action_space": 3},
        {"format": 1, "tensors_sha256": "HERE", "policy": {}, "observation_space": {"type": "os.system"}},
    ],
)
def test_a_forged_description_with_a_fitting_checksum_is_a_named_error(saved: Path, body: dict[str, object]) -> None:
    digest = hashlib.sha256((saved / TENSORS).read_bytes()).hexdigest()
    forged = {key: digest if value == "HERE" else value for key, value in body.items()}
    (saved / DESCRIPTION).write_bytes(render(forged))
    with pytest.raises(UsageError, match="expected a saved policy"):
        load_policy_state(saved)


def test_no_module_of_ours_can_unpickle() -> None:
    forbidden = {"pickle", "cloudpickle", "dill", "shelve", "marshal"}
    for path in Path(pgkit.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
            module = getattr(node, "module", None)
            assert not forbidden & {*names, module}, path
            called = node.func if isinstance(node, ast.Call) else None
            if isinstance(called, ast.Attribute) and isinstance(called.value, ast.Name):
                assert (called.value.id, called.attr) != ("torch", "load"), path
