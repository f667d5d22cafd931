"""A trained policy on disk: tensors as safetensors, the rest as JSON, no pickle; any changed byte is noticed."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import gymnasium as gym
import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from pgkit.errors import UsageError
from pgkit.run.description import checked_bytes, parse, render
from pgkit.run.spaces_json import space_from_json, space_to_json

FORMAT = 1
TENSORS = "policy.safetensors"
DESCRIPTION = "policy.json"


@final
@dataclass(frozen=True, kw_only=True)
class SavedPolicy:
    """What is needed to build a policy again: its node of the configuration, its spaces, its state by name.

    `tensors` is the policy's whole `state_dict()`, buffers of its normaliser included; `path` the folder it came from.
    """

    config: Mapping[str, Any]
    observation_space: gym.Space[Any]
    action_space: gym.Space[Any]
    tensors: Mapping[str, Tensor]
    path: Path | None = None

    def expect_spaces(self, observation_space: gym.Space[Any], action_space: gym.Space[Any]) -> None:
        """Raises UsageError naming the file and both spaces where an environment's are others than the policy's."""
        pairs = {
            "observation": (self.observation_space, observation_space),
            "action": (self.action_space, action_space),
        }
        for name, (saved, given) in pairs.items():
            if saved != given:
                file = DESCRIPTION if self.path is None else self.path / DESCRIPTION
                raise UsageError(f"{file}: {name} space {saved}, expected that of the environment, {given}")


def save_policy(folder: Path, policy: SavedPolicy) -> None:
    """Writes `folder` anew; at every moment the old policy or the new one can be loaded.

    Raises: OSError where the disk refuses, with the old policy untouched and nothing left behind.
    """
    # Copies: parameters may be views of one buffer, which safetensors refuses to store.
    tensors = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in policy.tensors.items()}
    data = safetensors.torch.save(tensors)
    content = {
        "format": FORMAT,
        "policy": dict(policy.config),
        "observation_space": space_to_json(policy.observation_space),
        "action_space": space_to_json(policy.action_space),
        "tensors_sha256": hashlib.sha256(data).hexdigest(),
    }
    _replace_folder(folder, {TENSORS: data, DESCRIPTION: render(content)})


def load_policy_state(folder: Path) -> SavedPolicy:
    """Returns the policy saved in `folder`.

    Raises: UsageError naming the file that is missing, damaged, or written by a newer version.
    """
    if not folder.exists() and _previous(folder).exists():
        folder = _previous(folder)  # the process died between the two renames of a replacement
    content = parse(folder / DESCRIPTION, version=FORMAT, what="a saved policy")
    try:
        data = checked_bytes(folder / TENSORS, content["tensors_sha256"], "a saved policy")
        return SavedPolicy(
            config=content["policy"],
            observation_space=space_from_json(content["observation_space"]),
            action_space=space_from_json(content["action_space"]),
            tensors=safetensors.torch.load(data),
            path=folder,
        )
    except UsageError:
        raise
    except (SafetensorError, ValueError, LookupError, TypeError) as error:
        # Checksums that fit do not make a policy: someone may have written both.
        raise UsageError(f"{folder}: {error}, expected a saved policy") from None


def _replace_folder(folder: Path, files: Mapping[str, bytes]) -> None:
    """Puts a folder of new files in the place of `folder`, which may exist; a crash leaves a whole one behind."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary, previous = folder.with_name(f".{folder.name}.new"), _previous(folder)
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        for name, data in files.items():
            with (temporary / name).open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        _sync(temporary)
        if folder.exists():
            shutil.rmtree(previous, ignore_errors=True)
            folder.rename(previous)
        temporary.rename(folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    _sync(folder.parent)
    shutil.rmtree(previous, ignore_errors=True)


def _previous(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.previous")


def _sync(folder: Path) -> None:
    """Puts the folder's entries on the disk, so that a rename is never there before what it names."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
